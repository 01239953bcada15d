"""What a method is given before an epoch: the images, the model, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from softadv.certify.domains import Certifier, Domain
from softadv.training.config import TrainConfig
from softadv.training.evaluation import attack_images
from softadv.training.partition import Partition, partition
from softadv.training.state import TrainState
from softadv.training.timing import Seconds

_CPU = torch.device("cpu")


class EpochStart:
    """The start of an epoch, as methods.base.EpochStart describes it."""

    def __init__(
        self,
        state: TrainState,
        x: Tensor,
        y: Tensor,
        *,
        config: TrainConfig,
        number: int,
        seconds: Seconds,
        on_progress: Callable[[str, int], None],
    ) -> None:
        """x: float (N, C, H, W), the training images as the epoch sees them; y: int64 (N,). number: from 1."""
        self.x, self.y, self.number = x, y, number
        self.nth = number - config.natural_epochs
        self.eps = config.radius(number)
        self.rng = config.generator(number, "method", _CPU)
        self._state, self._config, self._seconds, self._on_progress = state, config, seconds, on_progress

    @property
    def model(self) -> nn.Module:
        """With the weights at the start of the epoch, in eval mode."""
        return self._state.model

    @property
    def last_split(self) -> Partition | None:
        """The last that split() made, maybe in an earlier epoch, or before an interruption."""
        return self._state.partition

    def split(self, *, domain: Domain, certifier: Certifier) -> Partition:
        """Certify the training images with the present weights; the result is kept, and counted in the record."""
        with self._seconds.spent_on("certification"):
            self._state.partition = partition(
                self.model,
                self.x,
                self.y,
                eps=self.eps,
                domain=domain,
                engine=certifier,
                on_progress=lambda done: self._on_progress("certifying", done),
            )
        return self._state.partition

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """The training's attack on images, with the present weights. Returns images of the shape of x."""
        with self._seconds.spent_on("attack"):
            return attack_images(
                self.model,
                x,
                y,
                attack=partial(self._config.train_attack, eps=self.eps),
                generator=self._config.generator(self.number, "method attack", x.device),
            )
