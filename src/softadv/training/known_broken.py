"""Images that an adversarial example of the last epoch still breaks, which no certifier need be asked about.

A sound certifier verifies an image only if the network classifies every point of its box correctly. A point of the box
that is misclassified is thus a proof that the image cannot be verified: one forward pass instead of a certification,
and the split comes out the same.

Of an example only the direction of each pixel is kept, one bit: attacks along the sign of a gradient end at corners of
the box. What is asked about is the corner in that direction, which is a point of the box whatever the example was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv._ranges import UNIT, Clip
from softadv.training.precision import rounding_to_tf32

_BATCH = 500
_BITS = 8
# How far inside of its box a point is looked for, as a share of the radius: rounding must not lead out of it.
_INSIDE = 1 - 2**-10
# How clearly a point has to be misclassified, as a share of the largest score. A certificate holds for sums of float32
# products in any order, so that any misclassification would do; this is for what may add up otherwise.
_CLEAR = 1e-3


class Examples:
    """The directions of an epoch's adversarial examples: one bit a pixel, 19 MB for CIFAR-10."""

    def __init__(self, x: Tensor) -> None:
        """None yet. x: float (N, C, H, W), the training images."""
        self._bytes = x.new_zeros(len(x), -(-x[0].numel() // _BITS), dtype=torch.uint8)
        self._there = x.new_zeros(len(x), dtype=torch.bool)

    def forget(self) -> None:
        """Begin a new epoch."""
        self._there.zero_()

    def keep(self, images: Tensor, x: Tensor, found: Tensor) -> None:
        """Keep examples. images: int64 (K,), their places in the training set; x, found: (K, C, H, W)."""
        self._bytes[images] = _packed((found >= x).flatten(1))
        self._there[images] = True

    def breaking(
        self, model: nn.Module, images: Tensor, x: Tensor, y: Tensor, *, eps: float, clip: Clip = UNIT
    ) -> Tensor:
        """Which images have a point in their box that the model clearly misclassifies, bool (K,).

        images: int64 (K,), their places in the training set; x: (K, C, H, W); y: int64 (K,). eps, clip: of the boxes.
        The model is used in eval mode and left in the mode it was in.
        """
        broken = torch.zeros_like(images, dtype=torch.bool)
        with eval_mode(model), torch.no_grad(), rounding_to_tf32(False):
            for part in self._there[images].nonzero()[:, 0].split(_BATCH):
                up = _unpacked(self._bytes[images[part]], pixels=x[0].numel()).view_as(x[part])
                scores: Tensor = model(_corners(x[part], up, eps=eps, clip=clip))
                own = scores.gather(1, y[part, None])[:, 0]
                broken[part] = scores.amax(1) - own > _CLEAR * scores.abs().amax(1)  # not where one is NaN
        return broken


def _corners(x: Tensor, up: Tensor, *, eps: float, clip: Clip) -> Tensor:
    """The corner of each image's box in a direction: points of the box in exact arithmetic. up: bool, of x's shape."""
    step = eps * _INSIDE
    corners = torch.where(up, x + step, x - step).clamp(*clip)
    # The nearest number to a difference is below eps only where the difference is.
    inside = (corners.double() - x.double()).abs() < eps
    return torch.where(inside, corners, x)


def _packed(bits: Tensor) -> Tensor:
    """bool (K, P) as uint8 (K, P / 8, rounded up)."""
    padded = F.pad(bits, (0, -bits.shape[1] % _BITS)).unflatten(1, (-1, _BITS))
    places = torch.arange(_BITS, device=bits.device)
    packed: Tensor = (padded.long() << places).sum(2).to(torch.uint8)
    return packed


def _unpacked(packed: Tensor, *, pixels: int) -> Tensor:
    """What _packed was given: bool (K, P)."""
    places = torch.arange(_BITS, device=packed.device)
    return ((packed[:, :, None].long() >> places) & 1).bool().flatten(1)[:, :pixels]
