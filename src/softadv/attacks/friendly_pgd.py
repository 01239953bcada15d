"""PGD that stops tau steps after success: PGD-K-tau of friendly adversarial training (Zhang et al., ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv._ranges import MOST_STEPS, check_count
from softadv.attacks.pgd import PGD
from softadv.kernels import pgd as kernel
from softadv.kernels import threads


@dataclass(frozen=True, kw_only=True)
class FriendlyPGD(PGD):
    """PGD in which each image takes tau more steps after the first that makes the model misclassify it, then stops.

    Algorithm 1 of Zhang et al., Attacks Which Do Not Kill Training Make Adversarial Learning Stronger. With
    tau = steps every image takes all steps, and the adversarial examples are PGD's, bit for bit.
    """

    tau: int = 0

    title = "Friendly PGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tau", check_count(self.tau, key="tau", most=MOST_STEPS))

    def climb(self, model: nn.Module, x: Tensor, y: Tensor, point: Tensor, *, eps: float) -> Tensor:
        """The steps from `point`, which may be overwritten."""
        if self.tau >= self.steps:
            return super().climb(model, x, y, point, eps=eps)
        found = kernel.climb(
            model, x, y, point, eps=eps, alpha=self.step_size(eps), steps=self.steps, clip=self.clip, further=self.tau
        )
        if found is not None:
            return found
        # Of an alpha that is left to the attack, more than the width of the range takes no image further.
        alpha = min(self.step_size(eps), self.clip[1] - self.clip[0])
        step = PGD(steps=1, alpha=alpha, random_start=False, clip=self.clip)
        going = torch.arange(len(x), device=x.device)
        left = torch.full_like(going, self.tau)
        with eval_mode(model), threads.of_pytorch():
            for _ in range(self.steps):
                with torch.no_grad():
                    fooled = model(point[going].clone()).argmax(1) != y[going]
                stays = fooled & (left[going] == 0)
                left[going[fooled]] -= 1
                going = going[~stays]
                if not len(going):
                    break
                point[going] = step.climb(model, x[going], y[going], point[going], eps=eps)
        return point


def stopped_early(attack: PGD, *, tau: int) -> FriendlyPGD:
    """PGD with the same settings that stops tau steps after it has succeeded."""
    settings = {key: getattr(attack, key) for key in ("steps", "alpha", "random_start", "clip")}
    return replace(FriendlyPGD(tau=tau), **settings)
