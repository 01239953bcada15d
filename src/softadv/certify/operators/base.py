"""What all operators of a network have, and what their table in docs/networks.md says of each."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from softadv.certify.linear_forms import Patches

Pair = tuple[int, int]
Interval = tuple[Tensor, Tensor]


class Operator:
    """One operator with all its rules. An activation is (N, C, H, W); a vector is C channels of one pixel.

    interval: bounds of its outputs, from those of its inputs. backward: linear forms over its outputs, as forms over
    its input. A linear one that rounds has errors: how far its outputs, and forms through it, may be off (rounding.py);
    they are those of its terms where an evaluator may merge it with others (merging.py). One that is not linear has
    lines: the linear bounds of its output, with its rounding laid over them.

    onnx: the ONNX operators that it is read from. relaxation, rounding: what its lines and its errors are, in words.
    zonotope: whether the domain deepzono reads it.
    """

    onnx: ClassVar[tuple[str, ...]] = ()
    relaxation: ClassVar[str] = "exact"
    rounding: ClassVar[str]
    zonotope: ClassVar[bool] = True

    def input_patches(self, patches: Patches) -> Patches:
        """The patches of its input that these patches of its output depend on."""
        return patches


def largest_magnitude(lower: Tensor, upper: Tensor) -> Tensor:
    """The largest |x| between two bounds."""
    return torch.maximum(-lower, upper)
