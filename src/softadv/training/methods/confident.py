"""A control: spare as many images as soft training, those with the largest logit margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.training.methods.base import EpochStart, register
from softadv.training.methods.replay import Replaying

_BATCH = 500


@register("confident")
@dataclass(frozen=True, kw_only=True)
class Confident(Replaying):
    """Spare the images with the largest logit margin, o_y - max over j != y of o_j, at the epoch's start."""

    title, color = "Confident spared", "#56708C"

    def attacked(self, epoch: EpochStart) -> Tensor:
        # A stable sort: ties keep the order of the images, on every machine.
        least_sure_first = _margins(epoch).sort(stable=True).indices
        chosen = torch.zeros(len(epoch.y), dtype=torch.bool)
        chosen[least_sure_first[: self.count(epoch)].cpu()] = True
        return chosen


def _margins(epoch: EpochStart) -> Tensor:
    """The logit margin of each training image, (N,)."""
    found = []
    with torch.no_grad():
        for x, y in zip(epoch.x.split(_BATCH), epoch.y.split(_BATCH), strict=True):
            logits = epoch.model(x.clone())  # one that begins with an in-place layer would change the images
            own = logits.gather(1, y[:, None])[:, 0]
            others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            found.append(own - others)
    return torch.cat(found)
