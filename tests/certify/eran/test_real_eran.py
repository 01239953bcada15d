"""The real ERAN and GPUPoly, where SOFTADV_ERAN names them, as in softadv's container."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from softadv.certify import certify
from softadv.certify.eran import ENGINES, available, certify_with
from softadv.data import KNOWN
from softadv.experiments.compare_certifiers import COUNTERPARTS, compare_engines
from softadv.models import Normalize
from tests.networks import seeded, with_head

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOFTADV_ERAN"), reason="needs ERAN: SOFTADV_ERAN is set in softadv's container"
)


@pytest.fixture(scope="module")
def offers():
    """What each engine says of itself."""
    return available()


@pytest.fixture(params=ENGINES)
def engine(request, offers):
    """Each engine that the worker offers."""
    offer = offers[request.param]
    if isinstance(offer, str):
        pytest.skip(offer)
    return request.param


def test_the_papers_network_on_digits(engine, digits, trained_digits):
    x, y = digits.test_x[:40], digits.test_y[:40]
    certificates, report = certify_with(trained_digits, x, y, engine=engine, eps=0.05)
    native = certify(trained_digits, x, y, eps=0.05, domain=COUNTERPARTS[engine])
    assert (report.timeouts, report.failed) == (0, 0), report.trouble
    assert torch.equal(certificates.correct, native.correct)
    assert (report.verified & ~native.correct).sum() == 0
    # The same relaxation: only images at the very edge may differ, by rounding and by order of tightening.
    differing = (report.verified != native.verified) & (native.margin.abs() > 0.1)
    assert not differing.any()


@pytest.mark.parametrize("layers", ["convolutional", "dense"])
@pytest.mark.parametrize("normalize", [False, True])
def test_colour_images_are_read_in_the_right_order(engine, layers, normalize):
    """Each image itself is verified as its class, so the engine computes the same function."""
    shape = (3, 12, 12)
    body = [nn.Conv2d(3, 8, 4, 2), nn.ReLU()] if layers == "convolutional" else []
    network = seeded(0, lambda: with_head(shape, *body, hidden=20)).float()
    model = nn.Sequential(*([Normalize(KNOWN["cifar10"].mean, KNOWN["cifar10"].std)] if normalize else []), *network)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, 1, 1, generator=generator) * torch.rand(200, *shape, generator=generator)
    model[-1].bias -= model(x).mean(0)  # so that there is an image of each class
    outputs = model(x)
    best = outputs.topk(2).values
    sure = (best[:, 0] - best[:, 1]).argsort(descending=True)[:100]
    x, y = x[sure], outputs[sure].argmax(1)
    in_another_order = x.permute(0, 2, 3, 1).reshape(x.shape)
    assert (model(in_another_order).argmax(1) != y).sum() >= 5
    _, report = certify_with(model, x, y, engine=engine, eps=0.0)
    assert report.verified.all(), report.trouble


def test_nothing_that_anyone_verifies_is_refuted(engine, digits, trained_digits, generator):
    found = compare_engines(trained_digits, digits.test_x[:20], digits.test_y[:20], eps=0.05, generator=generator)
    assert found.passed
