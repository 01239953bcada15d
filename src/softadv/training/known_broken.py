"""Skip the certification of images that the model still misclassifies at the last epoch's adversarial example.

A sound certifier verifies an image only if the network classifies every point of its box correctly. So a misclassified
point of the box proves that the image cannot be verified: one forward pass replaces a certification, and the split is
the same.
Of each example only one bit per pixel is stored, the sign of its perturbation, since attacks along the sign of a
gradient end at corners of the box. The corner with these signs is then tested; it is a point of the box, whatever the
example was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv._modes import eval_mode
from softadv._ranges import UNIT, Clip

_BATCH = 500
_BITS = 8
# The tested corner lies this far out, as a fraction of the radius, so that rounding cannot leave the box.
_INSIDE = 1 - 2**-10
# By how much a point has to be misclassified, as a fraction of the largest score. In theory any misclassification is
# enough, since certificates hold for float32 sums in any order; this is a reserve for other arithmetic.
_CLEAR = 1e-3


class Examples:
    """The directions of an epoch's adversarial examples: one bit a pixel, 19 MB for CIFAR-10."""

    def __init__(self, x: Tensor) -> None:
        """None yet. x: float (N, C, H, W), the training images."""
        self._bytes = x.new_zeros(len(x), -(-x[0].numel() // _BITS), dtype=torch.uint8)
        self._there = x.new_zeros(len(x), dtype=torch.bool)

    def forget(self) -> None:
        """Drop all examples, for a new epoch."""
        self._there.zero_()

    def keep(self, images: Tensor, x: Tensor, found: Tensor) -> None:
        """Store examples. images: int64 (K,), indices into the training set; x, found: (K, C, H, W)."""
        self._bytes[images] = _packed((found >= x).flatten(1))
        self._there[images] = True

    def breaking(
        self, model: nn.Module, images: Tensor, x: Tensor, y: Tensor, *, eps: float, clip: Clip = UNIT
    ) -> Tensor:
        """bool (K,): images with a point in their box that the model misclassifies by a margin.

        images: int64 (K,), indices into the training set; x: (K, C, H, W); y: int64 (K,). eps, clip: of the boxes.
        The model is used in eval mode and left in the mode it was in.
        """
        broken = torch.zeros_like(images, dtype=torch.bool)
        with eval_mode(model), torch.no_grad(), float32_products():
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
