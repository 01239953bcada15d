"""PGD away from the model's own scores, as TRADES trains against (Zhang et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv._ranges import UNIT, Clip
from softadv.attacks.pgd import PGD

# The standard deviation of the first step away from the image, where the divergence has no gradient: the authors'.
_START = 0.001


@dataclass(frozen=True, kw_only=True)
class DivergencePGD:
    """Steps along the sign of the gradient of KL(f(x) || f(x')) with respect to x', within an L-infinity ball.

    Algorithm 1 of Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy. The labels play no
    part. steps: gradient steps. alpha: step size in the units of the images; None is 2.5 * eps / steps.
    clip: the lowest and the highest pixel there can be.
    """

    steps: int = 10
    alpha: float | None = None
    clip: Clip = UNIT

    title = "PGD on the divergence"
    norm = "Linf"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W); the labels y are not looked at. Returns the images found, of the shape of x."""
        x = x.detach()
        with eval_mode(model), torch.no_grad():
            target = model(x.clone()).softmax(1)  # a model that begins with an in-place layer would change the image
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
        # KL(f(x) || f(x')) is the cross-entropy of f(x') with f(x) for its classes, and a constant.
        steps = PGD(steps=self.steps, alpha=self.alpha, random_start=False, clip=self.clip)
        return steps.climb(model, x, target, x + _START * noise, eps=eps)
