"""PGD away from the model's own scores, as TRADES trains against (Zhang et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._modes import in_eval_mode
from softadv._ranges import UNIT, Clip

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
        return _climb(model, x, eps=eps, generator=generator, settings=self)


@in_eval_mode
def _climb(model: nn.Module, x: Tensor, *, eps: float, generator: torch.Generator, settings: DivergencePGD) -> Tensor:
    alpha = settings.alpha
    if alpha is None:
        alpha = 2.5 * eps / max(settings.steps, 1)
    lowest, highest = (x - eps).clamp_(min=settings.clip[0]), (x + eps).clamp_(max=settings.clip[1])
    # Without the parameters in the graph, backward skips their gradients.
    frozen = {name: value.detach() for name, value in model.named_parameters()}

    def scores(images: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, frozen, (images.clone(),))
        return found

    with torch.no_grad():
        target = scores(x).softmax(1)
    noise = torch.empty(x.shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
    point = x + _START * noise
    for _ in range(settings.steps):
        point.requires_grad_()
        with torch.enable_grad():
            divergence = F.kl_div(scores(point).log_softmax(1), target, reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, point)
        point = torch.clamp(point.detach() + alpha * gradient.sign(), lowest, highest)
    return point.detach()
