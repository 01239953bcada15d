"""PGD on the divergence, as TRADES trains against."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.attacks import DivergencePGD
from softadv.data import Dataset
from softadv.models import conv_small
from tests.networks import random_images

EPS = 0.1
ATTACK = DivergencePGD(steps=8, alpha=0.02)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def divergence(model: nn.Module, x: Tensor, other: Tensor) -> float:
    with torch.no_grad():
        return float(F.kl_div(model(other).log_softmax(1), model(x).softmax(1), reduction="batchmean"))


def test_it_stays_in_the_ball_and_in_the_image(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:50], digits.test_y[:50]
    found = ATTACK(trained_digits, x, y, eps=EPS, generator=generator())
    assert found.shape == x.shape
    assert not found.requires_grad
    assert ((found - x).abs() <= EPS + 1e-6).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_it_moves_the_scores_further_than_noise_does(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:50], digits.test_y[:50]
    found = ATTACK(trained_digits, x, y, eps=EPS, generator=generator())
    noise = (x + torch.empty_like(x).uniform_(-EPS, EPS, generator=generator())).clamp(0, 1)
    assert divergence(trained_digits, x, found) > 5 * divergence(trained_digits, x, noise) > 0


def test_the_generator_decides_everything_and_labels_nothing(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:20], digits.test_y[:20]
    before = torch.get_rng_state()
    first = ATTACK(trained_digits, x, y, eps=EPS, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, ATTACK(trained_digits, x, 9 - y, eps=EPS, generator=generator(1)))
    once = DivergencePGD(steps=0)
    starts = [once(trained_digits, x, y, eps=EPS, generator=generator(seed)) for seed in (1, 2)]
    assert not torch.equal(*starts)
    small = once(trained_digits, x, y, eps=1e-4, generator=generator(1))
    assert float((small - x).abs().max()) <= 1e-4 + 1e-6
    assert ((small >= 0) & (small <= 1)).all()


def test_images_lie_in_memory_as_they_like() -> None:
    model = conv_small("cifar10", seed=0)
    x, y = random_images((3, 32, 32), 4, seed=0)
    x = x.float()
    start = DivergencePGD(steps=0)
    expected = start(model, x, y, eps=EPS, generator=generator())
    for other in (x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(start(model, other, y, eps=EPS, generator=generator()), expected)
        for dtype, least in ((torch.float64, 0.999), (torch.float32, 0.9)):
            exact = model.to(dtype)
            found, same = (ATTACK(exact, images.to(dtype), y, eps=EPS, generator=generator()) for images in (other, x))
            # A slope that is nothing but rounding may go either way, and how many are depends on the processor.
            assert (found == same).double().mean() > least


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_the_model_as_it_was(digits: Dataset, training: bool) -> None:
    model = conv_small("digits", seed=0).train(training)
    ATTACK(model, digits.test_x[:3], digits.test_y[:3], eps=EPS, generator=generator())
    assert all(layer.training == training for layer in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
