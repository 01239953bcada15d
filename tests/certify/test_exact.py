"""Sound margins against exact rational arithmetic and against every way to evaluate a small network."""

from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from softadv.certify import DOMAINS, certify
from tests import reference
from tests.certify import evaluation, layers
from tests.networks import CLASSES, Residual, random_images, seeded, with_head

# Small enough for fractions; with weights of float32 they are the very network that is evaluated.
TINY = {
    "mlp": ((1, 2, 2), lambda: with_head((1, 2, 2), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), hidden=5)),
    "convolutions": (
        (1, 4, 4),
        lambda: with_head(
            (1, 4, 4), nn.Conv2d(1, 2, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), hidden=3
        ),
    ),
    "dilation and groups": (
        (2, 3, 3),
        lambda: with_head((2, 3, 3), nn.Conv2d(2, 2, 2, dilation=2, padding=1, groups=2), nn.ReLU(), hidden=3),
    ),
    "max pool": ((1, 4, 4), lambda: with_head((1, 4, 4), nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 1), nn.ReLU(), hidden=3)),
    "residual": (
        (1, 3, 3),
        lambda: with_head((1, 3, 3), nn.Conv2d(1, 2, 2), Residual(nn.ReLU(), nn.Conv2d(2, 2, 1)), nn.ReLU(), hidden=3),
    ),
}
CASES = [(name, domain) for name in TINY for domain in DOMAINS if (name, domain) != ("max pool", "deepzono")]
EPSILONS = (0.0, 1e-6, 0.01, 0.1)
ORDERS = {
    "library": evaluation.blas,
    "forwards": evaluation.sequential(),
    "backwards": evaluation.sequential(backwards=True),
    "shuffled": evaluation.sequential(seed=1),
    "pairwise": evaluation.pairwise(seed=2),
    "fused": evaluation.sequential(fused=True),
    "fused, shuffled": evaluation.sequential(seed=3, fused=True),
    "steered": evaluation.steered(),
    "steered, fused": evaluation.steered(fused=True),
}


def small(name, *, seed=0):
    """A float32 network, an image and its class."""
    shape, build = TINY[name]
    model = seeded(seed, build).float()
    x = random_images(shape, 1, seed=seed)[0].float()
    return model, x, model(x).argmax(1)


@cache
def exact_margin(name, eps, domain):
    """What a domain answers without any rounding."""
    model, x, y = small(name)
    return reference.margin(model, x[0].numpy(), int(y), eps=eps, domain=domain, number=Fraction)


def worst_corner(chain, center, lower, upper, objective):
    """The corner of a box to which the gradient at its center points."""
    values = evaluation.evaluate(chain, center[None], evaluation.blas)
    return np.where(evaluation.slopes(chain, values, objective)[0][0] > 0, lower, upper)


def points_of(chain, x, label, *, eps, seed=0):
    """Float32 points of a box: bad corners, any corners, anything."""
    rng = np.random.default_rng(seed)
    center = x.numpy().ravel()
    lower, upper = evaluation.float_box(center, eps=eps)
    corners = [
        worst_corner(chain, center, lower, upper, np.eye(CLASSES)[label] - np.eye(CLASSES)[j])
        for j in range(CLASSES)
        if j != label
    ]
    corners += [np.where(rng.random(center.shape) < 0.5, lower, upper) for _ in range(10)]
    inside = [np.clip(rng.uniform(lower, upper).astype(np.float32), lower, upper) for _ in range(10)]
    return np.stack([center, *corners, *inside])


def exact_margins(chain, points, label):
    """The real network's margins at points, as fractions."""
    for point in points:
        outputs = layers.forward(chain, np.array([Fraction(float(pixel)) for pixel in point], dtype=object))
        yield outputs[label] - max(np.delete(outputs, label))


@pytest.mark.parametrize("name", TINY)
def test_no_evaluation_of_a_small_network_goes_below_its_sound_margin(engine, name):
    for seed, eps in product(range(4), EPSILONS):
        model, x, y = small(name, seed=seed)
        label = int(y)
        chain = layers.read(model, tuple(x.shape[1:]))
        points = points_of(chain, x, label, eps=eps)
        pushes = evaluation.slopes(
            chain,
            evaluation.evaluate(chain, points, evaluation.blas),
            np.full(CLASSES, 1.0) - 2 * np.eye(CLASSES)[label],
        )
        found = {
            order: evaluation.margins(evaluation.evaluate(chain, points, dot, pushes)[-1], label).min()
            for order, dot in ORDERS.items()
        }
        for domain in DOMAINS:
            if (name, domain) in CASES:
                margin = certify(model, x, y, eps=eps, domain=domain).margin.item()
                assert min(found.values()) >= margin, (domain, eps, found)


@pytest.mark.parametrize("name", TINY)
def test_no_real_value_of_a_small_network_goes_below_its_sound_margin(engine, name):
    model, x, y = small(name)
    chain = layers.read(model, tuple(x.shape[1:]))
    exact = layers.read(model, tuple(x.shape[1:]), number=Fraction)
    for eps in EPSILONS:
        points = points_of(chain, x, int(y), eps=eps)[:8]
        margin = Fraction(certify(model, x, y, eps=eps).margin.item())
        assert all(real > margin for real in exact_margins(exact, points, int(y)))


@pytest.mark.parametrize(("name", "domain"), CASES)
def test_sound_margins_are_barely_below_those_of_exact_arithmetic(engine, name, domain):
    model, x, y = small(name)
    for eps in EPSILONS:
        exact = exact_margin(name, eps, domain)
        lost = exact - Fraction(certify(model, x, y, eps=eps, domain=domain).margin.item())
        assert 0 < lost < 1e-3 * (1 + abs(exact))


def test_multiply_add_rounds_once(generator):
    a, b, c = (torch.randn(2000, generator=generator).numpy() for _ in range(3))
    c = np.where(np.arange(2000) % 2 == 0, c, -(a * b) * (1 + np.float32(2.0**-20) * c)).astype(np.float32)
    for found, *numbers in zip(evaluation.fma(a, b, c), a, b, c, strict=True):
        p, q, r = (Fraction(float(number)) for number in numbers)
        assert found == evaluation.nearest(p * q + r, np.float32)


def test_the_emulated_network_is_the_network(engine):
    for name in TINY:
        model, x, _ = small(name)
        chain = layers.read(model, tuple(x.shape[1:]))
        for dot in ORDERS.values():
            values = evaluation.evaluate(chain, x.flatten(1).numpy(), dot, [np.ones((1, 1))] * (len(chain) + 1))
            np.testing.assert_allclose(values[-1], model(x).numpy(), rtol=1e-4, atol=1e-5)
            assert values[-1].dtype == np.float32
