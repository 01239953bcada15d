"""A search for a point and an order of summation that break a certificate, where there is the least room."""

from __future__ import annotations

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from softadv.attacks import pgd
from softadv.certify import certify
from softadv.models import Normalize
from tests.certify import evaluation, evaluators, layers
from tests.networks import CLASSES, Residual, batch_norm, random_images, seeded, with_head

NETWORKS = {
    "linear": ((1, 4, 4), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))),
    "mlp": ((1, 4, 4), lambda: with_head((1, 4, 4), nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), hidden=10)),
    "convolutions": (
        (1, 4, 4),
        lambda: with_head((1, 4, 4), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 2, 2), nn.ReLU()),
    ),
    "residual": (
        (1, 3, 3),
        lambda: with_head((1, 3, 3), nn.Conv2d(1, 2, 2), Residual(nn.Conv2d(2, 2, 1), nn.ReLU()), nn.MaxPool2d(2, 1)),
    ),
    "residual blocks": (
        (1, 3, 3),
        lambda: with_head(
            (1, 3, 3),
            nn.Conv2d(1, 16, 2),
            nn.ReLU(),
            *(Residual(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)) for _ in range(2)),
            nn.AvgPool2d(2),
        ),
    ),
    "normalised": (
        (2, 3, 3),
        lambda: with_head(
            (2, 3, 3),
            Normalize((0.3, 0.6), (0.2, 0.5)),
            nn.Conv2d(2, 8, 2, bias=False),
            batch_norm(8),
            nn.ReLU(),
            Residual(nn.Conv2d(8, 8, 1), batch_norm(8)),
            batch_norm(8),
            nn.ReLU(),
        ),
    ),
}
WIDE = ((2, 100, 100), lambda: nn.Sequential(nn.Flatten(), nn.Linear(20_000, CLASSES)))
RADII = (1e-7, 1e-5, 1e-3, 0.05)
ORDERS = [
    evaluation.blas,
    evaluation.sequential(),
    evaluation.sequential(backwards=True),
    evaluation.sequential(seed=0),
    evaluation.sequential(seed=1),
    evaluation.sequential(seed=2),
    evaluation.pairwise(seed=0),
    evaluation.pairwise(seed=1),
]
FUSED = [evaluation.sequential(fused=True), evaluation.sequential(seed=3, fused=True)]
STEERED = [evaluation.steered(), evaluation.steered(fused=True)]


def barely_verified(model, x, y, *, eps, rounding):
    """Lower the bias of the image's class as far as its certificate allows."""
    bias = model[-1].bias
    first = bias[y].item()

    def holds(value):
        bias[y] = float(value)
        return bool(certify(model, x, y, eps=eps, rounding=rounding).verified)

    low, high = first - 10, first + 10
    assert holds(high)
    while (middle := np.float32((low + high) / 2)) not in (np.float32(low), np.float32(high)):
        low, high = (low, middle) if holds(middle) else (middle, high)
    assert holds(high)


def ranked(outputs, label):
    """The other classes, the strongest last."""
    return np.where(np.arange(CLASSES) == label, -np.inf, outputs).argsort(1)[:, 1:]


def hard_points(chain, x, label, *, eps, count, rng):
    """Float32 points of a box around its worst corners: some pixels at the other end, or a few floats away."""
    center = x.numpy().ravel()
    lower, upper = evaluation.float_box(center, eps=eps)
    values = evaluation.evaluate(chain, center[None], evaluation.blas)
    other = ranked(values[-1], label)[0, -rng.integers(1, 3)]
    slope = evaluation.slopes(chain, values, np.eye(CLASSES)[label] - np.eye(CLASSES)[other])[0][0]
    corner = np.where(slope > 0, lower, upper)
    points = np.tile(corner, (count, 1))
    flips = rng.random(points.shape) < rng.random((count, 1)) ** 4
    points = np.where(flips, rng.uniform(lower, upper, points.shape).astype(np.float32), points)
    for _ in range(3):
        nudged = rng.random(points.shape) < 0.3
        toward = np.where(rng.random(points.shape) < 0.5, np.float32(-1), np.float32(2))
        points = np.where(nudged, np.nextafter(points, toward), points)
    return np.clip(points, lower, upper)


def questions(shape, build, *, seed, rounding, radii=RADII):
    """Barely verified networks with their images, labels and radii, and generators of their own."""
    for trial, eps in enumerate(radii):
        model = seeded(seed + 10 * trial, build).float()
        x = random_images(shape, 1, seed=trial)[0].float()
        y = model(x).argmax(1)
        barely_verified(model, x, y, eps=eps, rounding=rounding)
        yield model, x, int(y), eps, np.random.default_rng((seed, trial))


def search(rounding, *, count):
    """Emulated evaluations of one network at a time, in one order: their number, and how many broke a certificate."""
    for seed, (shape, build) in enumerate(NETWORKS.values()):
        for model, x, label, eps, rng in questions(shape, build, seed=seed, rounding=rounding):
            chain = layers.read(model, shape)
            merges = (False, True) if any(isinstance(layer, layers.Add) for layer in chain) else (False,)
            for dots, share in ((ORDERS, count), (FUSED, count // 4), (STEERED, count // 40)):
                points = hard_points(chain, x, label, eps=eps, count=share, rng=rng)
                for dot, merge in product(dots, merges):
                    pushes = None
                    if dots is STEERED:
                        values = evaluation.evaluate(chain, points, evaluation.blas)
                        runner_up = ranked(values[-1], label)[:, -1]
                        pushes = evaluation.slopes(chain, values, np.eye(CLASSES)[runner_up] - np.eye(CLASSES)[label])
                    outputs = evaluation.evaluate(chain, points, dot, pushes, merge=merge)[-1]
                    yield len(points), int((evaluation.margins(outputs, label) <= 0).sum())


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.long)])
def test_many_evaluations_break_no_sound_certificate(count):
    done, broken = map(sum, zip(*search("sound", count=count), strict=True))
    assert done >= 250 * count
    assert broken == 0


def test_the_search_breaks_certificates_that_leave_rounding_out():
    assert any(broken for _done, broken in search("none", count=200))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("program", "radii"),
    [
        (evaluators.onnxruntime, RADII[::3]),
        pytest.param(evaluators.onnxruntime, RADII, marks=pytest.mark.long),
        pytest.param(evaluators.inductor, RADII[:1], marks=pytest.mark.long),
    ],
    ids=["onnxruntime", "onnxruntime, all radii", "inductor"],
)
def test_no_other_program_breaks_a_sound_certificate(program, radii, name):
    shape, build = NETWORKS[name]
    seed = list(NETWORKS).index(name)
    for model, x, label, eps, rng in questions(shape, build, seed=seed, rounding="sound", radii=radii):
        points = hard_points(layers.read(model, shape), x, label, eps=eps, count=64, rng=rng)
        for how, outputs in program(model, points.reshape(-1, *shape)):
            assert (evaluation.margins(outputs, label) > 0).all(), (eps, how)


def test_inductor_breaks_no_sound_certificate_of_a_residual_network():
    shape, build = NETWORKS["residual"]
    for model, x, label, eps, rng in questions(shape, build, seed=0, rounding="sound", radii=RADII[:1]):
        points = hard_points(layers.read(model, shape), x, label, eps=eps, count=64, rng=rng)
        for how, outputs in evaluators.inductor(model, points.reshape(-1, *shape), batches=(64,), freezing=(False,)):
            assert (evaluation.margins(outputs, label) > 0).all(), how


def test_sums_of_20000_terms_break_no_sound_certificate():
    shape, build = WIDE
    for model, x, label, eps, rng in questions(shape, build, seed=0, rounding="sound", radii=RADII[1:2]):
        points = hard_points(layers.read(model, shape), x, label, eps=eps, count=16, rng=rng)
        for how, outputs in evaluators.onnxruntime(model, points.reshape(-1, *shape)):
            assert (evaluation.margins(outputs, label) > 0).all(), how
        chain = layers.read(model, shape)
        for dot in (evaluation.blas, evaluation.sequential(), evaluation.sequential(backwards=True)):
            outputs = evaluation.evaluate(chain, points, dot)[-1]
            assert (evaluation.margins(outputs, label) > 0).all()


def as_it_may_be_evaluated(model, points):
    """The outputs of the same points by every path that there is here."""
    yield model(points)
    yield torch.cat([model(point[None]) for point in points[:50]])
    yield model(points.to(memory_format=torch.channels_last))
    yield deepcopy(model).to(memory_format=torch.channels_last)(points)
    for _, outputs in evaluators.onnxruntime(model, points.numpy()):
        yield torch.from_numpy(outputs)


def test_no_evaluation_of_a_trained_network_breaks_its_certificate(trained_digits, digits, generator):
    for at in range(4):
        x, y = digits.test_x[at : at + 1], digits.test_y[at : at + 1]
        low, high = 0.0, 0.3
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if certify(trained_digits, x, y, eps=middle).verified else (low, middle)
        found = certify(trained_digits, x, y, eps=low)
        assert found.verified
        many, labels = x.expand(60, -1, -1, -1), y.expand(60)
        bad = pgd(trained_digits, many, labels, eps=low, alpha=low / 4, steps=20, generator=generator)
        points = torch.cat([bad, (x + torch.sign(bad - x) * low).clamp(0, 1)])
        with torch.no_grad():
            for outputs in as_it_may_be_evaluated(trained_digits, points):
                assert evaluation.margins(outputs.numpy(), int(y)).min() >= found.margin.item()
