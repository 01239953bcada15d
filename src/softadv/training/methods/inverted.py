"""A control: soft training with the split inverted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from softadv.training.methods.base import EpochStart, register
from softadv.training.methods.soft import Certifying


@register("inverted")
@dataclass(frozen=True, kw_only=True)
class Inverted(Certifying):
    """Verified images are attacked; misclassified and unverified ones are trained clean."""

    title, color = "Inverted split", "#882255"

    def attacked(self, epoch: EpochStart) -> Tensor:
        return self.split_of(epoch).verified
