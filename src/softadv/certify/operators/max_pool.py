"""Max pooling and its linear relaxation."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, Patches, PlaneShape
from softadv.certify.operators.base import Interval, Operator, Pair
from softadv.certify.operators.lines import Lines, along
from softadv.certify.operators.weighted import inside
from softadv.certify.rounding import Arithmetic


@dataclass(frozen=True)
class MaxPool(Operator):
    """y = the largest input of each window."""

    onnx = ("MaxPool",)
    relaxation = "Singh et al. 2019 (4.4)"
    rounding = "nothing"
    zonotope = False

    kernel: Pair
    stride: Pair
    padding: Pair
    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.windows(lower).amax(4), self.windows(upper).amax(4)

    def lines(self, lower: Tensor, upper: Tensor, rounding: Arithmetic | None) -> Lines:
        # If overlapping windows choose the same input, a form's coefficients for them are added.
        meeting = prod(-(-size // stride) for size, stride in zip(self.kernel, self.stride, strict=True))
        lower = lower.clamp(min=torch.finfo(lower.dtype).min)  # else -inf may tie with the padding, and lose to it
        return maximum_lines(self.windows(lower), self.windows(upper), rounding, meeting=meeting)

    def windows(self, plane: Tensor) -> Tensor:
        return pooled_windows(plane, kernel=self.kernel, stride=self.stride, padding=self.padding)

    def backward(self, forms: LinearForms, lines: Lines) -> LinearForms:
        assert lines.choice is not None
        onto = along(forms, lines)
        choice = forms.patches.cut(lines.choice).unsqueeze(2)
        patches = self.input_patches(forms.patches)
        n, positions, count = onto.coefs.shape[:3]
        coefs = onto.coefs.new_zeros(n, positions, count, *patches.size, self.in_shape[0])
        height, width = (size * stride for size, stride in zip(forms.patches.size, self.stride, strict=True))
        for tap in range(prod(self.kernel)):
            row, column = divmod(tap, self.kernel[1])
            part = coefs[:, :, :, row : row + height : self.stride[0], column : column + width : self.stride[1]]
            part += torch.where(choice == tap, onto.coefs, 0)
        return LinearForms(inside(coefs, patches, self.in_shape), onto.const, patches)

    def input_patches(self, patches: Patches) -> Patches:
        return patches.through(stride=self.stride, padding=self.padding, reach=self.kernel)


def pooled_windows(
    plane: Tensor, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The inputs of each pooling window: (N, C, H, W) to (N, C, H', W', kh * kw), -inf in the padding."""
    padded = F.pad(plane, (padding[1], padding[1], padding[0], padding[0]), value=-torch.inf)
    return padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).flatten(4)


def maximum_lines(lower: Tensor, upper: Tensor, rounding: Arithmetic | None, *, meeting: int) -> Lines:
    """Lines of max pooling, after Singh et al., An Abstract Domain for Certifying Neural Networks (POPL 2019), 4.4.

    If one input is never below another, it is the output. Otherwise the lower line is the input with the largest
    lower bound, and the upper line is the constant largest upper bound.

    lower, upper: (N, C, H', W', K), bounds of the inputs of each window, -inf in the padding. meeting:
    how many windows may choose the same input; slopes are 0 or 1, so this addition alone rounds.
    """
    least, choice = lower.max(4)
    highest = upper.amax(4)
    chosen = torch.zeros_like(lower, dtype=torch.bool).scatter_(4, choice[..., None], True)
    dominates = least >= upper.masked_fill(chosen, -torch.inf).amax(4)
    slope, offset = dominates.to(lower.dtype), torch.where(dominates, torch.zeros_like(highest), highest)
    if rounding is None:
        return Lines(torch.ones_like(slope), slope, offset, choice=choice)
    largest = torch.maximum(-least, upper.gather(4, choice[..., None]).squeeze(4)).clamp(min=0)
    cost = largest * (rounding.gamma(meeting) if meeting > 1 else 0.0)
    # The offset has either sign, so the cost of summing is relative to its magnitude.
    offset = offset + offset.abs() * rounding.gamma(rounding.depth + 2)
    cost = cost * (1 + rounding.gamma(rounding.depth + 2))
    return Lines(torch.ones_like(slope), slope, offset + cost, -cost, choice)
