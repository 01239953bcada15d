"""The domains against their plain definitions, and the options that must not change an answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softadv.certify import DOMAINS, Certificates, certify
from softadv.errors import SoftadvError
from tests import reference
from tests.networks import ARCHITECTURES, networks, random_images, seeded

EPSILONS = (0.0, 0.02, 0.15, 0.6)


def margins_by_definition(model, x, y, **question):
    return np.array(
        [reference.margin(model, a.numpy(), int(b), **question) for a, b in zip(x.double(), y, strict=True)]
    )


def architecture(name, *, seed=0, count=3):
    shape, build = ARCHITECTURES[name]
    return seeded(seed, build), *random_images(shape, count, seed=seed)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_reference_computes_the_network_itself(name):
    model, x, _ = architecture(name)
    layers = reference.read(model, x.shape[1:])
    outputs = np.stack([reference.forward(layers, image.numpy().ravel()) for image in x])
    np.testing.assert_allclose(outputs, model(x).numpy(), atol=1e-12)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_margins_are_those_of_the_definition(name, domain):
    model, x, y = architecture(name)
    for eps in EPSILONS:
        margin = certify(model, x, y, eps=eps, domain=domain).margin
        expected = margins_by_definition(model, x, y, eps=eps, domain=domain)
        np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ["paper", "padding", "normalize", "mlp"])
def test_margins_in_single_precision_are_those_of_the_definition(name, domain):
    model, x, y = architecture(name, seed=1)
    model, x = model.float(), x.float()
    margin = certify(model, x, y, eps=0.1, domain=domain).margin
    assert margin.dtype == torch.float32
    expected = margins_by_definition(model, x, y, eps=0.1, domain=domain)
    np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(network=networks(), eps=st.floats(0, 0.5), seed=st.integers(0, 2**31 - 1), domain=st.sampled_from(DOMAINS))
def test_margins_of_any_network_are_those_of_the_definition(network, eps, seed, domain):
    model, shape = network
    x, y = random_images(shape, 2, seed=seed)
    margin = certify(model, x, y, eps=eps, domain=domain).margin
    expected = margins_by_definition(model, x, y, eps=eps, domain=domain)
    np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_box_is_cut_to_clip(domain):
    model, x, y = architecture("padding")
    x = 4 * x - 2
    margin = certify(model, x, y, eps=0.5, domain=domain, clip=(-2.0, 2.0)).margin
    expected = margins_by_definition(model, x, y, eps=0.5, domain=domain, clip=(-2.0, 2.0))
    np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-9, atol=1e-9)
    uncut = certify(model, x, y, eps=0.5, domain=domain, clip=(-9.0, 9.0)).margin
    assert (uncut < margin).any()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_radius_the_margin_is_that_of_the_outputs(name, domain):
    model, x, y = architecture(name)
    outputs = model(x)
    others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    expected = outputs.gather(1, y[:, None])[:, 0] - others
    torch.testing.assert_close(certify(model, x, y, eps=0.0, domain=domain).margin, expected)


@pytest.mark.parametrize("domain", DOMAINS)
def test_verified_means_correct_with_a_positive_margin(trained_digits, digits, domain):
    x, y = digits.test_x[:40], digits.test_y[:40]
    found = certify(trained_digits, x, y, eps=0.03, domain=domain)
    assert torch.equal(found.correct, trained_digits(x).argmax(1) == y)
    assert torch.equal(found.verified, found.correct & (found.margin > 0))


@pytest.mark.parametrize("domain", DOMAINS)
def test_chunks_do_not_change_the_answer(trained_digits, digits, domain):
    x, y = digits.test_x[:5], digits.test_y[:5]
    done = []
    whole = certify(trained_digits, x, y, eps=0.03, domain=domain, memory_budget=2**34, on_progress=done.append)
    assert done == [5]
    done.clear()
    single = certify(trained_digits, x, y, eps=0.03, domain=domain, memory_budget=1, on_progress=done.append)
    assert done == list(range(1, 6))
    assert_same(single, whole)


@pytest.mark.parametrize("domain", DOMAINS)
def test_leaving_margins_out_changes_nothing_else(trained_digits, digits, domain):
    x, y = digits.test_x[:40], digits.test_y[:40].clone()
    y[::3] = (y[::3] + 1) % 10
    everything = certify(trained_digits, x, y, eps=0.03, domain=domain)
    some = certify(trained_digits, x, y, eps=0.03, domain=domain, margins=False)
    wrong = ~everything.correct
    assert wrong.any()
    assert some.margin[wrong].isnan().all()
    assert everything.margin.isfinite().all()
    masked = everything.margin.where(~wrong, torch.nan)
    assert_same(some, Certificates(everything.correct, everything.verified, masked))


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_images_have_no_certificates(trained_digits, domain):
    nothing = certify(
        trained_digits, torch.empty(0, 1, 28, 28), torch.empty(0, dtype=torch.int64), eps=0.1, domain=domain
    )
    assert nothing.correct.shape == nothing.verified.shape == nothing.margin.shape == (0,)


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_overflow_proves_nothing(domain):
    """The hidden neuron is between 0 and infinity, but its bounds overflow to NaN."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)).requires_grad_(False)
    model[1].weight.fill_(3e38)
    model[1].bias.fill_(-1.0)
    model[3].weight.copy_(torch.tensor([[0.0], [1.0]]))
    model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    assert model(x).argmax() == 0
    assert model(x + 0.1).argmax() == 1
    assert not certify(model, x, y, eps=1.0, domain=domain).verified


@pytest.mark.parametrize("domain", DOMAINS)
def test_weights_that_are_no_numbers_prove_nothing(domain):
    model, x, y = architecture("paper")
    model[0].weight[0, 0, 0, 0] = torch.nan
    try:
        verified = certify(model, x, y, eps=0.1, domain=domain).verified
    except SoftadvError:
        return
    assert not verified.any()


def assert_same(a: Certificates, b: Certificates) -> None:
    assert torch.equal(a.correct, b.correct)
    assert torch.equal(a.verified, b.verified)
    torch.testing.assert_close(a.margin, b.margin, rtol=1e-4, atol=1e-4, equal_nan=True)
