"""What is broken needs no proof: one step of gradient ascent comes before a certification, which costs far more.

By the theorem in rounding.py no image with a point in its box that the model misclassifies is verified in sound mode.
So leaving such images out changes no verdict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softadv.kernels.pgd import climb


def broken(model: nn.Module, x: Tensor, y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """bool (N,): images whose boxes hold a corner that the model, as it is evaluated here, does not classify as y.

    x, lower, upper: (N, C, H, W), of the model's floating-point type: images within their boxes. y: int64 (N,). None is
    found where the compiled kernel cannot tell the gradient.
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
