"""PGD that maximises the KL divergence from the model's own prediction: the attack of TRADES (Zhang et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv._ranges import UNIT, Clip
from softadv.attacks.pgd import PGD
from softadv.kernels import pgd as kernel
from softadv.kernels import threads

# The standard deviation of the random start, as in the authors' code. At the image itself the gradient is zero.
_START = 0.001


@dataclass(frozen=True, kw_only=True)
class DivergencePGD:
    """Steps along the sign of the gradient of KL(f(x) || f(x')) with respect to x', within an L-infinity ball.

    Algorithm 1 of Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019. Labels
    are not used. steps: gradient steps. alpha: step size in the units of the images; None is 2.5 * eps / steps.
    clip: the smallest and the largest pixel value.
    """

    steps: int = 10
    alpha: float | None = None
    clip: Clip = UNIT

    title = "PGD on the divergence"
    norm = "Linf"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W); the labels y are ignored. Returns adversarial examples of the shape of x."""
        x = x.detach()
        with eval_mode(model), torch.no_grad(), threads.of_pytorch():
            target = model(x.clone()).softmax(1)  # a model that begins with an in-place layer would change the image
        with kernel.threads_of_attack(model, x, target):
            return self._climb(model, x, target, eps=eps, generator=generator)

    def _climb(self, model: nn.Module, x: Tensor, target: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
        # KL(f(x) || f(x')) is the cross-entropy of f(x') with target probabilities f(x), plus a constant.
        steps = PGD(steps=self.steps, alpha=self.alpha, random_start=False, clip=self.clip)
        start = x + _START * noise
        if not self.steps:  # every step is projected, the start alone is not
            return start.clamp(x - eps, x + eps).clamp_(*self.clip)
        return steps.climb(model, x, target, start, eps=eps)
