"""The linear relaxation of max pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.certify.relu import Lines
from softadv.certify.rounding import Arithmetic


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
