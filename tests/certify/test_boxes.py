"""Boxes of any shape: radii a channel and an image, bounds as they are given, inputs that are no images, radii."""

import pytest
import torch
from torch import nn

import softadv
from softadv.certify import certify
from softadv.errors import SoftadvError
from tests.networks import random_images, seeded, with_head

SHAPE = (2, 5, 5)


def question(count=6):
    model = seeded(0, lambda: with_head(SHAPE, nn.Conv2d(2, 3, 3), nn.ReLU())).float()
    x, _ = random_images(SHAPE, count, seed=0)
    x = x.float()
    return model, x, model(x).argmax(1)


def test_each_image_has_a_radius_of_its_own(engine):
    model, x, y = question()
    radii = torch.tensor([0.0, 0.001, 0.01, 0.02, 0.05, 0.1])
    together = certify(model, x, y, eps=radii[:, None, None, None])
    for at, eps in enumerate(radii):
        alone = certify(model, x[at : at + 1], y[at : at + 1], eps=eps.double().item())
        torch.testing.assert_close(together.margin[at : at + 1], alone.margin, rtol=1e-5, atol=1e-5)


def test_a_radius_of_each_image_keeps_to_it_when_memory_splits_them():
    model, x, y = question()
    eps = torch.linspace(0, 0.1, 6)[:, None, None, None]
    split = certify(model, x, y, eps=eps, memory_budget=1).margin
    torch.testing.assert_close(split, certify(model, x, y, eps=eps).margin, rtol=1e-5, atol=1e-5)


def test_a_channel_that_may_not_move_moves_nothing(engine):
    model, x, y = question()
    found = certify(model, x, y, eps=torch.tensor([0.05, 0.0])[:, None, None])
    both = certify(model, x, y, eps=0.05)
    assert (found.margin > both.margin).all()
    bounds = (x - torch.tensor([0.05, 0.0])[:, None, None]), (x + torch.tensor([0.05, 0.0])[:, None, None])
    given = certify(model, x, y, lower=bounds[0].clamp(min=0), upper=bounds[1].clamp(max=1))
    torch.testing.assert_close(found.margin, given.margin, rtol=1e-5, atol=1e-5)


def test_bounds_as_they_are_given_hold_each_of_their_points(engine, generator):
    model, x, y = question()
    lower = x - torch.rand(x.shape, generator=generator) * 0.2  # also below 0: no clip concerns them
    upper = x + torch.rand(x.shape, generator=generator) * 0.2
    margin = certify(model, x, y, lower=lower, upper=upper).margin
    for _ in range(200):
        outputs = model(lower + (upper - lower) * torch.rand(x.shape, generator=generator).round(decimals=0))
        others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
        assert (outputs.gather(1, y[:, None])[:, 0] - others >= margin).all()


def test_bounds_finer_than_the_model_are_rounded_outwards(engine):
    """0.1 is no float32: the box from there on holds the float32 below it, to which it may be rounded."""
    model = nn.Sequential(nn.Linear(1, 2)).requires_grad_(False)
    model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
    model[0].bias.zero_()
    lower = torch.tensor([[0.1 - 1e-12]], dtype=torch.float64)
    below = torch.tensor(0.1).nextafter(torch.tensor(0.0))
    found = certify(model, torch.tensor([[0.5]]), torch.tensor([0]), lower=lower, upper=torch.tensor([[1.0]]))
    assert found.margin <= below


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 2, 2, 2)])
def test_inputs_of_any_shape_are_certified(engine, shape, generator):
    features = torch.zeros(shape).numel()
    body = nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 3))
    model = seeded(0, lambda: body if len(shape) == 1 else nn.Sequential(nn.ReLU(), nn.Flatten(), *body)).float()
    x = torch.rand(5, *shape, generator=generator)
    y = model(x).argmax(1)
    found = certify(model, x, y, eps=0.02)
    flat = certify(nn.Sequential(nn.Flatten(), body), x.reshape(5, 1, 1, features), y, eps=0.02)
    torch.testing.assert_close(found.margin, flat.margin, rtol=1e-5, atol=1e-5)


def test_a_certified_radius_is_certified_and_a_little_more_is_not():
    model, x, y = question()
    y = y.clone()
    y[0] = (y[0] + 1) % 4  # misclassified
    found = softadv.certified_radius(model, x, y, upper=0.5, halvings=20)
    assert found[0].isnan()
    assert not found[1:].isnan().any()
    assert (found[1:] > 0).all()
    for at in range(1, len(x)):
        assert certify(model, x[at : at + 1], y[at : at + 1], eps=found[at].item()).verified
        assert not certify(model, x[at : at + 1], y[at : at + 1], eps=found[at].item() + 0.5 / 2**19).verified


def test_an_image_that_is_proven_at_the_upper_radius_gets_it():
    model, x, y = question()
    assert (softadv.certified_radius(model, x, y, upper=1e-6) == 1e-6).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "eps: a radius is needed"),
        ({"eps": torch.full((3, 1, 1), 0.1)}, "eps: shape (3, 1, 1) does not broadcast"),
        ({"eps": torch.full((2, 1, 1), -0.1)}, "eps: must be 0 or more"),
        ({"eps": torch.full((2, 1, 1), torch.nan)}, "eps: must be 0 or more"),
        ({"eps": torch.full((2, 1, 1), 8.0)}, "did you mean 8/255"),
        ({"eps": torch.ones(2, 1, 1, dtype=torch.int64)}, "eps: expected a float tensor"),
        ({"eps": 0.1, "lower": torch.zeros(1), "upper": torch.ones(1)}, "not both"),
        ({"lower": torch.zeros(1)}, "upper: both"),
        ({"lower": torch.zeros(1), "upper": torch.full((1,), 0.5)}, "x: is outside"),
        ({"lower": torch.full((1,), torch.nan), "upper": torch.ones(1)}, "lower: is NaN"),
        ({"lower": torch.ones(1), "upper": torch.zeros(1)}, "lower: is above upper for input 0"),
        ({"lower": torch.zeros(7), "upper": torch.ones(1)}, "lower: shape (7,)"),
    ],
)
def test_boxes_that_are_none_are_named(options, named):
    model, x, y = question()
    with pytest.raises(SoftadvError) as caught:
        certify(model, x, y, **options)
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
