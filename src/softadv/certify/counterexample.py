"""A cheap attack before certification: one gradient step finds images that cannot be verified.

By the theorem in rounding.py, no image is verified in sound mode if the model misclassifies a point of its box. So
skipping such images changes no verdict, and certification costs far more than the step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softadv.kernels.pgd import climb


def broken(model: nn.Module, x: Tensor, y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """bool (N,): images with a corner of their box that the model, as evaluated here, does not classify as y.

    x, lower, upper: (N, C, H, W), in the model's dtype: images within their boxes. y: int64 (N,). All False where the
    compiled kernel cannot compute the model's gradient.
    """
    nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if x.ndim != 4 or not len(x):
        return nothing
    room = (float(x.min()) - 2, float(x.max()) + 2)
    ahead = climb(model, x, y, x.clone(), eps=1.0, alpha=1.0, steps=1, clip=room)
    if ahead is None:
        return nothing
    corner = torch.where(ahead > x, upper, torch.where(ahead < x, lower, x))
    scores = model(corner)
    own = scores.gather(1, y[:, None])
    found: Tensor = (scores.scatter(1, y[:, None], -torch.inf) >= own).any(1)
    return found
