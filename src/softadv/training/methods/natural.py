"""Natural training: clean images only."""

from __future__ import annotations

import torch
from torch import Tensor

from softadv.training.methods.base import EpochStart, Method, register


@register("natural")
class Natural(Method):
    """No image is attacked."""

    title, color = "Natural training", "#0072B2"
    attacks = False
    attack_passes = 0.0

    def attacked(self, epoch: EpochStart) -> Tensor:
        return torch.zeros_like(epoch.y, dtype=torch.bool)
