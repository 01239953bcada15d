"""ReLU and its two linear relaxations, which are the only difference between DeepPoly and DeepZono.

For l <= x <= u, both bound max(x, 0) by a lower and an upper line. A stable neuron is exact: the identity for
l >= 0, zero for u <= 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, PlaneShape
from softadv.certify.operators.base import Interval, Operator, largest_magnitude
from softadv.certify.operators.lines import Lines, along
from softadv.certify.rounding import Arithmetic


@dataclass(frozen=True)
class Relu(Operator):
    """y = max(x, 0)."""

    onnx = ("Relu",)
    relaxation = "Singh et al. 2019 (4.2), 2018 (3.1)"
    rounding = "nothing"

    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower.clamp(min=0), upper.clamp(min=0)

    def lines(self, lower: Tensor, upper: Tensor, rounding: Arithmetic | None, *, parallel: bool) -> Lines:
        """parallel: both lines share one slope, as a zonotope needs it."""
        return (zonotope_lines if parallel else deeppoly_lines)(lower, upper, rounding)

    def backward(self, forms: LinearForms, lines: Lines) -> LinearForms:
        return along(forms, lines)


def unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """The neurons whose ReLU is neither the identity nor zero on their bounds."""
    return (lower < 0) & (upper > 0)


def deeppoly_lines(lower: Tensor, upper: Tensor, rounding: Arithmetic | None) -> Lines:
    """DeepPoly's lines: Singh et al., An Abstract Domain for Certifying Neural Networks (POPL 2019), section 4.2.

    The lower line of an unstable neuron is x where u > -l, else 0: whichever leaves the smaller area.
    """
    slope, offset = _upper_line(lower, upper, rounding)
    steep = ((lower >= 0) | (upper > -lower)).to(lower.dtype)
    return Lines(steep, slope, offset)


def zonotope_lines(lower: Tensor, upper: Tensor, rounding: Arithmetic | None) -> Lines:
    """DeepZono's lines: Singh et al., Fast and Effective Robustness Certification (NeurIPS 2018), theorem 3.1.

    The zonotope's ReLU is slope * x + mu + mu * e with a new noise symbol e in [-1, 1] and
    mu = offset / 2: two parallel lines. The slopes do not depend on the sign of the coefficient, so
    substituting them backwards ends in the same linear form, with the same minimum over the noise
    symbols, as propagating the zonotope forwards.
    """
    slope, offset = _upper_line(lower, upper, rounding)
    if rounding is None:
        return Lines(slope, slope, offset)
    # The lower line goes through 0; its offset is what the rounding of slope * coefficient costs.
    zero = torch.zeros_like(upper)
    down = torch.where(unstable(lower, upper), -rounding.offset(zero, largest_magnitude(lower, upper)), zero)
    return Lines(slope, slope, offset, down)


def _upper_line(lower: Tensor, upper: Tensor, rounding: Arithmetic | None) -> tuple[Tensor, Tensor]:
    """The chord through (l, 0) and (u, u): slope u / (u - l), offset -slope * l; exact where stable."""
    slope, offset = (lower >= 0).to(upper.dtype), torch.zeros_like(upper)
    # Most neurons are stable: the chords are computed for the others alone.
    at = unstable(lower, upper).nonzero(as_tuple=True)
    low, high = lower[at], upper[at]
    chord = high / (high - low)
    height = -chord * low
    if rounding is not None:
        # Whatever the rounded slope is, this line lies above both corners of the chord.
        height = rounding.offset(torch.maximum(height, (1 - chord) * high), largest_magnitude(low, high))
    return slope.index_put_(at, chord), offset.index_put_(at, height)
