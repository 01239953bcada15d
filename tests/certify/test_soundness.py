"""What is certified cannot be broken: no point of a box goes below the margin that was proven for it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softadv.attacks import pgd
from softadv.certify import DOMAINS, certify
from tests.networks import networks, random_images

# Rounding errors are not bounded by the certifier.
ROUNDING = 1e-4


def points_of_boxes(model, x, y, *, eps, generator, samples, restarts=4):
    """Points of the boxes around images, one of each box at a time: PGD, uniform points, corners."""
    for restart in range(restarts):
        yield pgd(model, x, y, eps=eps, alpha=eps / 4, steps=12, random_start=restart > 0, generator=generator)
    for _ in range(samples):
        noise = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
        yield (x + noise).clamp(0, 1)
        yield (x + noise.sign() * eps).clamp(0, 1)


def least_margin(model: nn.Module, points, y):
    """The least o_y - o_j that any of the points has, image by image."""
    least = torch.full(y.shape, torch.inf, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        for point in points:
            outputs = model(point)
            others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
            least = torch.minimum(least, outputs.gather(1, y[:, None])[:, 0] - others)
    return least


@pytest.mark.parametrize("eps", [0.02, 0.1])
@pytest.mark.parametrize("domain", DOMAINS)
def test_no_point_of_a_box_breaks_its_certificate(trained_digits, digits, generator, domain, eps):
    x, y = digits.test_x[:20], digits.test_y[:20]
    found = certify(trained_digits, x, y, eps=eps, domain=domain)
    points = points_of_boxes(trained_digits, x, y, eps=eps, generator=generator, samples=30)
    least = least_margin(trained_digits, points, y)
    assert (least >= found.margin - ROUNDING).all()
    assert (least[found.verified] > 0).all()


@settings(max_examples=25, deadline=None)
@given(network=networks(), eps=st.floats(0, 0.4), seed=st.integers(0, 2**31 - 1))
def test_no_point_of_a_box_breaks_the_certificate_of_any_network(network, eps, seed):
    model, shape = network
    x, y = random_images(shape, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    least = least_margin(model, points_of_boxes(model, x, y, eps=eps, generator=generator, samples=20), y)
    for domain in DOMAINS:
        assert (least >= certify(model, x, y, eps=eps, domain=domain).margin - ROUNDING).all(), domain


@pytest.mark.parametrize("eps", [0.03, 0.1])
def test_deeppoly_verifies_most_and_box_least(trained_digits, digits, eps):
    x, y = digits.test_x[:100], digits.test_y[:100]
    count = {domain: int(certify(trained_digits, x, y, eps=eps, domain=domain).verified.sum()) for domain in DOMAINS}
    assert count["deeppoly"] >= count["deepzono"] >= count["box"]
    assert count["deeppoly"] > 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_margins_fall_as_the_radius_grows(trained_digits, digits, domain):
    x, y = digits.test_x[:10], digits.test_y[:10]
    margins = [certify(trained_digits, x, y, eps=eps, domain=domain).margin for eps in (0.0, 0.01, 0.03, 0.1)]
    for smaller, larger in pairwise(margins):
        assert (larger <= smaller + ROUNDING).all()
