"""Trainings of one method, as the tests of methods need them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softadv.attacks import PGD
from softadv.kernels import build
from softadv.models import conv_small
from softadv.training.config import TrainConfig
from softadv.training.loop import TrainedEpoch, images_to_attack, train_epoch
from softadv.training.methods import Adversarial, Method
from softadv.training.state import TrainState, new_state
from softadv.training.timing import EpochSeconds

CPU = torch.device("cpu")
STEPS = 3
CONFIG = TrainConfig(
    method=Adversarial(), attack=PGD(steps=STEPS, alpha=0.02), eps=0.05, epochs=4, seed=3, batch_size=32
)
Images = tuple[Tensor, Tensor]

both_engines = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "plain"])


def engine(kernels: bool) -> AbstractContextManager[None]:
    """kernels: as the machine computes, with the compiled ones if it has them; else without."""
    return nullcontext() if kernels else build.disabled()


def quiet(_what: str, _done: int) -> None:
    """Tells nobody."""


def trained(
    method: Method, images: Images, *, epochs: int = 2, model: nn.Module | None = None, **settings: Any
) -> tuple[TrainState, list[TrainedEpoch]]:
    """A state after the first so many epochs, and what they reported. settings: other than CONFIG's."""
    config = replace(CONFIG, method=method, **settings)
    state = new_state(conv_small("digits", seed=0) if model is None else model, config)
    return state, [
        train_epoch(state, *images, config=config, epoch=epoch, on_progress=quiet) for epoch in range(1, epochs + 1)
    ]


def weights(state: TrainState) -> list[Tensor]:
    return [value.clone() for value in state.model.state_dict().values()]


def equal(one: TrainState, other: TrainState) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def whom(
    method: Method,
    model: nn.Module,
    images: Images,
    *,
    epoch: int = 1,
    state: TrainState | None = None,
    **settings: Any,
) -> Tensor:
    """Which images a method attacks in an epoch, bool (N,)."""
    config = replace(CONFIG, method=method, **settings)
    state = state or new_state(model, config)
    return images_to_attack(state, *images, config=config, epoch=epoch, seconds=EpochSeconds(CPU), on_progress=quiet)
