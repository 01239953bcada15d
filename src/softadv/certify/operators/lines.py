"""Lines that bound an operator that is not linear, and forms that are substituted along them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms


@dataclass(frozen=True)
class Lines:
    """lower_slope * x + lower_offset <= output <= upper_slope * x + upper_offset, each (N, C, H, W).

    lower_offset: None for zero. choice: int64 (N, C, H, W), for max pooling: which of a window's
    inputs x is, counted row by row; None where the output has one input.
    """

    lower_slope: Tensor
    upper_slope: Tensor
    upper_offset: Tensor
    lower_offset: Tensor | None = None
    choice: Tensor | None = None


def along(forms: LinearForms, lines: Lines) -> LinearForms:
    """Replace each output in a form by the line that keeps the form a lower bound."""
    cut = forms.patches.cut
    negative = forms.coefs < 0
    slope = torch.where(negative, cut(lines.upper_slope).unsqueeze(2), cut(lines.lower_slope).unsqueeze(2))
    const = forms.const + forms.dot(forms.coefs.clamp(max=0), lines.upper_offset)
    if lines.lower_offset is not None:
        const = const + forms.dot(forms.coefs.clamp(min=0), lines.lower_offset)
    return LinearForms(slope.mul_(forms.coefs), const, forms.patches)
