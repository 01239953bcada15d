"""Projected gradient descent (Madry et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv._modes import eval_mode, in_eval_mode
from softadv._ranges import MOST_STEPS, UNIT, Clip, check_clip, check_count, check_radius
from softadv.attacks.base import register
from softadv.data import check_finite, check_images, check_labels, check_pixels
from softadv.kernels import pgd as kernel
from softadv.kernels import threads
from softadv.kernels.input_gradients import input_gradient
from softadv.models import first_scores


@register("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Steps along the sign of the gradient of the cross-entropy, within an L-infinity ball.

    x_{t+1} = P(x_t + alpha * sgn(grad_x L(x_t, y))), where P projects onto the ball of radius eps around x, cut to
    clip (equation 3 of the paper).

    steps: gradient steps, 0 to 1,000,000. alpha: step size in the units of the images; None is 2.5 * eps / steps,
    Madry et al.'s choice. random_start: begin at a uniform point of the ball instead of at x.
    clip: the smallest and the largest pixel value.
    Raises SoftadvError for numbers out of range.
    """

    steps: int = 20
    alpha: float | None = None
    random_start: bool = True
    clip: Clip = UNIT

    title = "PGD"
    norm = "Linf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", check_clip(self.clip))
        object.__setattr__(self, "steps", check_count(self.steps, key="steps", most=MOST_STEPS))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", check_radius(self.alpha, key="alpha", clip=self.clip))

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator | None
    ) -> Tensor:
        """Adversarial examples, (N, C, H, W). Arguments as in pgd, but not checked, since this runs for every batch."""
        x = x.detach()
        with kernel.threads_of_attack(model, x, y):
            return self.climb(model, x, y, self.start(x, eps=eps, generator=generator), eps=eps)

    def step_size(self, eps: float) -> float:
        """The step size at radius eps."""
        if self.alpha is None:
            return 2.5 * eps / self.steps if self.steps else 0.0
        return self.alpha

    def start(self, x: Tensor, *, eps: float, generator: torch.Generator | None) -> Tensor:
        """The starting point of each image's attack: a new tensor of the shape of x."""
        if not self.random_start:
            return x.clone()
        # Not empty_like: random numbers fill memory in order, and must not depend on the memory format of x.
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        noise.uniform_(-eps, eps, generator=generator)
        return (x + noise).clamp_(*self.clip)

    def climb(self, model: nn.Module, x: Tensor, y: Tensor, point: Tensor, *, eps: float) -> Tensor:
        """Take all steps from `point`, which may be overwritten. Images are independent; no host-device sync.

        y: labels, int64 (N,); or target probabilities, float (N, classes).
        """
        alpha = self.step_size(eps)
        found = kernel.climb(model, x, y, point, eps=eps, alpha=alpha, steps=self.steps, clip=self.clip)
        if found is not None:
            return found
        lowest, highest = (x - eps).clamp_(min=self.clip[0]), (x + eps).clamp_(max=self.clip[1])
        with eval_mode(model), threads.of_pytorch():
            gradient = input_gradient(model)
            for _ in range(self.steps):
                point.add_(gradient(point, y).sign_(), alpha=alpha)
                torch.clamp(point, lowest, highest, out=point)
        return point


@float32_products()
@in_eval_mode
@threads.of_their_own()
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    alpha: float | None = None,
    steps: int = 20,
    random_start: bool = True,
    clip: Clip = UNIT,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Check the arguments, then attack images by projected gradient descent; the settings are those of PGD.

    x: float (N, C, H, W), pixels within clip; y: int64 (N,), both on the model's device.
    eps: radius in the units of x.
    generator: source of the random start, on the device of x; None is PyTorch's global one. The random start depends
    on the shape of x, not on its memory format.

    The model is used in eval mode and left in the mode it was in; its parameters get no gradients. Scores and gradients
    are computed in plain float32, whatever PyTorch is set to (_float32.py).
    Returns adversarial examples (N, C, H, W), detached. Raises SoftadvError for images that certify would refuse,
    labels outside of the model's classes, and numbers out of range; NotFiniteError where the model's scores or the
    examples are NaN or infinite.
    """
    check_images(x, y)
    attack = PGD(alpha=alpha, steps=steps, random_start=random_start, clip=clip)
    eps = check_radius(eps, key="eps", clip=attack.clip)
    check_pixels(x, clip=attack.clip)
    if not len(x):
        return x.detach().clone()
    scores = first_scores(model, x)
    check_labels(y, classes=scores.shape[1])
    check_finite(scores, what="the scores of image")
    found = attack(model, x, y, eps=eps, generator=generator)
    check_finite(found, what="the pixels found for image")
    return found
