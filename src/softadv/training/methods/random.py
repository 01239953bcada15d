"""A control: attack as many images as soft training, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.training.methods.base import EpochStart, register
from softadv.training.methods.replay import Replaying


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Replaying):
    """The attacked images are drawn anew in every epoch. If all are attacked, this is adversarial training."""

    title, color = "Random split", "#CC79A7"

    def attacked(self, epoch: EpochStart) -> Tensor:
        chosen = torch.zeros(len(epoch.y), dtype=torch.bool)
        chosen[torch.randperm(len(epoch.y), generator=epoch.rng)[: self.count(epoch)]] = True
        return chosen
