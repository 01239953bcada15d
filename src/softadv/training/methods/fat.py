"""Friendly adversarial training (Zhang et al., Attacks Which Do Not Kill Training Make Adversarial Learning Stronger,
ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv._ranges import MOST_STEPS, check_count
from softadv.attacks import PGD, Attack
from softadv.attacks.friendly_pgd import stopped_early
from softadv.errors import SoftadvError
from softadv.training.methods.base import EpochStart, Method, register


@register("fat")
@dataclass(frozen=True, kw_only=True)
class Fat(Method):
    """Every image is attacked, but its attack stops tau steps after the model first misclassifies it.

    Algorithm 1 of the paper (PGD-K-tau). With tau = the attack's steps it is adversarial training.
    """

    title, color = "Friendly adversarial training", "#7F7F1F"
    tau: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", check_count(self.tau, key="tau", most=MOST_STEPS))

    def attacked(self, epoch: EpochStart) -> Tensor:
        return torch.ones_like(epoch.y, dtype=torch.bool)

    def train_attack(self, attack: Attack) -> Attack:
        if type(attack) is not PGD:  # of a subclass, what it overrides would be lost
            raise SoftadvError("fat: stops PGD early; the attack must be pgd")
        return stopped_early(attack, tau=self.tau)
