"""TRADES (Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._ranges import check_real
from softadv.attacks import PGD, Attack, DivergencePGD
from softadv.errors import SoftadvError
from softadv.training.methods.base import EpochStart, Loss, Method, register


@register("trades")
@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """The natural loss, plus beta times the KL divergence between the predictions for image and attacked image.

    Equation (5) of the paper, where beta is written 1/lambda: CE(f(x), y) + beta * KL(f(x) || f(x')). x' maximises the
    divergence within the ball. With beta = 0 this is natural training.
    """

    title, color = "TRADES", "#332288"
    beta: float = 6.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", check_real(self.beta, key="beta"))
        if not 0 <= self.beta < float("inf"):
            raise SoftadvError(f"beta: must be 0 or more, got {self.beta:g}")

    @property
    def loss(self) -> Loss | None:  # type: ignore[override] # a setting decides which
        # With beta = 0 the loss is the plain cross-entropy, which the compiled kernels support.
        return self._loss if self.beta else None

    @property
    def divergence_weight(self) -> float | None:  # type: ignore[override] # a setting decides it
        return self.beta or None

    def attacked(self, epoch: EpochStart) -> Tensor:
        return torch.full_like(epoch.y, self.beta > 0, dtype=torch.bool)

    def train_attack(self, attack: Attack) -> Attack:
        if type(attack) is not PGD:  # of a subclass, what it overrides would be lost
            raise SoftadvError("trades: brings its own attack, made from PGD's settings; the attack must be pgd")
        return DivergencePGD(steps=attack.steps, alpha=attack.alpha, clip=attack.clip)

    def _loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        clean, attacked = model(x), model(x_adv)
        divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
        return F.cross_entropy(clean, y) + self.beta * divergence
