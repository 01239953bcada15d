"""Images that an adversarial example still breaks are not certified, and no bit of a training moves."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softadv.attacks import PGD
from softadv.data import Dataset
from softadv.models import conv_small
from softadv.training import epoch_start
from softadv.training.config import TrainConfig
from softadv.training.known_broken import Examples, _corners, _packed, _unpacked
from softadv.training.loop import train_epoch
from softadv.training.methods import Adversarial, Inverted, Method, Soft
from softadv.training.partition import partition
from softadv.training.state import TrainState, new_state
from tests.training.methods.runs import equal, quiet

IMAGES = 120
EPS = 0.06
CONFIG = TrainConfig(
    method=Soft(), attack=PGD(steps=5, alpha=0.02), eps=EPS, epochs=6, seed=3, batch_size=30, lr=3e-3
)  # so that some examples still break the next epoch's weights


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.train_x[:IMAGES], digits.train_y[:IMAGES]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many images the certifier is asked, each time that it is."""
    counts: list[int] = []

    def counting(model: nn.Module, x: Tensor, *more: Any, **settings: Any) -> Any:
        counts.append(len(x))
        return partition(model, x, *more, **settings)

    monkeypatch.setattr(epoch_start, "partition", counting)
    return counts


def epochs(
    model: nn.Module, images: tuple[Tensor, Tensor], config: TrainConfig, *, forgetful: bool = False
) -> tuple[TrainState, list[list[bool]]]:
    """The state after four epochs, and the splits of each. forgetful: no epoch knows the examples of the last."""
    state, splits = new_state(copy.deepcopy(model), config), []
    for epoch in range(1, 5):
        if forgetful:
            state.examples = None
        train_epoch(state, *images, config=config, epoch=epoch, on_progress=quiet)
        split = state.partition
        assert split is not None
        splits.append(torch.cat([split.misclassified, split.unverified, split.verified]).tolist())
    return state, splits


@pytest.mark.parametrize("method", [Soft(), Soft(split="rolling", split_share=0.5), Inverted()], ids=repr)
def test_no_bit_moves_and_certifications_are_saved(
    trained_digits: nn.Module, images: tuple[Tensor, Tensor], method: Method, asked: list[int]
) -> None:
    config = replace(CONFIG, method=method, eps=0.15 if method == Inverted() else EPS)
    known, splits = epochs(trained_digits, images, config)
    fewer = sum(asked)
    asked.clear()
    whole, splits_whole = epochs(trained_digits, images, config, forgetful=True)
    assert equal(known, whole)
    assert splits == splits_whole
    if not isinstance(method, Inverted):  # which attacks few
        assert fewer < sum(asked)


def test_those_that_are_known_are_not_asked_about(
    trained_digits: nn.Module, images: tuple[Tensor, Tensor], asked: list[int]
) -> None:
    state = new_state(copy.deepcopy(trained_digits), CONFIG)
    told: list[int] = []
    for epoch in (1, 2):
        told.clear()
        train_epoch(
            state, *images, config=CONFIG, epoch=epoch,
            on_progress=lambda what, done: told.append(done) if what == "certifying" else None,
        )  # fmt: skip
        assert told[-1] == IMAGES
    assert asked[0] == IMAGES
    assert asked[1] < IMAGES


def test_no_known_image_is_verified_by_any_domain(trained_digits: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    examples, everyone = Examples(x), torch.arange(IMAGES)
    found = PGD(steps=20, alpha=0.01)(trained_digits, x, y, eps=EPS, generator=torch.Generator().manual_seed(0))
    examples.keep(everyone, x, found)
    broken = examples.breaking(trained_digits, everyone, x, y, eps=EPS)
    fooled = trained_digits(found).argmax(1) != y
    assert int(broken.sum()) > 0.9 * int(fooled.sum()) > 0  # one bit a pixel is nearly as good as the example
    split = partition(trained_digits, x, y, eps=EPS)
    assert not (broken & split.verified).any()
    assert int(split.verified.sum()) > 0
    examples.forget()
    assert not examples.breaking(trained_digits, everyone, x, y, eps=EPS).any()


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-4, 2 / 255, 0.1, 1.0])
def test_corners_are_points_of_the_box_in_exact_arithmetic(eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 8, 8, generator=generator)
    x[0] = x[0].round()
    x[1] *= 1e-6
    up = torch.rand(x.shape, generator=generator) < 0.5
    corners = _corners(x, up, eps=eps, clip=(0.0, 1.0))
    assert ((corners >= 0) & (corners <= 1)).all()
    pairs = zip(corners.flatten().tolist(), x.flatten().tolist(), strict=True)
    apart = [abs(Fraction(a) - Fraction(b)) for a, b in pairs]
    assert max(apart) <= Fraction(eps)
    if eps >= 1e-4:
        assert max(apart) > Fraction(eps) * Fraction(9, 10)


@pytest.mark.parametrize("pixels", [1, 7, 8, 784])
def test_packing_loses_nothing(pixels: int) -> None:
    bits = torch.rand(5, pixels, generator=torch.Generator().manual_seed(pixels)) < 0.5
    packed = _packed(bits)
    assert packed.shape == (5, -(-pixels // 8))
    assert torch.equal(_unpacked(packed, pixels=pixels), bits)


def test_nothing_is_kept_where_it_is_of_no_use(images: tuple[Tensor, Tensor]) -> None:
    for config in (replace(CONFIG, method=Adversarial()), replace(CONFIG, augment="crop-flip")):
        state = new_state(conv_small("digits", seed=0), config)
        train_epoch(state, *images, config=config, epoch=1, on_progress=quiet)
        assert state.examples is None
