"""Adversarial training (Madry et al., ICLR 2018): every image is attacked in every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from softadv._ranges import check_radius
from softadv.training.methods.base import EpochStart, Method, register


@register("adversarial")
@dataclass(frozen=True, kw_only=True)
class Adversarial(Method):
    """Every image is attacked.

    train_eps: the radius to train at, in the units of the images; None trains at the radius that is evaluated.
    """

    title, color = "Adversarial training", "#D55E00"
    train_eps: float | None = None

    def __post_init__(self) -> None:
        if self.train_eps is not None:  # TrainConfig knows the range of the pixels, which the radius must not exceed
            radius = check_radius(self.train_eps, key="train_eps", clip=(-math.inf, math.inf))
            object.__setattr__(self, "train_eps", radius)

    def attacked(self, epoch: EpochStart) -> Tensor:
        return torch.ones_like(epoch.y, dtype=torch.bool)

    def training_radius(self, eps: float) -> float:
        return eps if self.train_eps is None else self.train_eps
