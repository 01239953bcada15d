"""A control: spare the images that withstand the attack itself."""

from __future__ import annotations

from torch import Tensor

from softadv.training.evaluation import predictions
from softadv.training.methods.base import EpochStart, Method, register


@register("survivors")
class Survivors(Method):
    """Every image is attacked at the epoch's start; those still classified correctly are trained clean.

    The attack replaces the certifier: it spares more images, and proves nothing.
    """

    title, color = "Survivors spared", "#A07000"
    attack_passes = 2.0

    def attacked(self, epoch: EpochStart) -> Tensor:
        return predictions(epoch.model, epoch.attack(epoch.x, epoch.y)) != epoch.y
