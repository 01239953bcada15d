"""A factor and a constant for each channel or neuron."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, PlaneShape
from softadv.certify.operators.base import Interval, Operator, largest_magnitude
from softadv.certify.rounding import Arithmetic, Errors, Terms, overflow_limit


@dataclass(frozen=True)
class Scale(Operator):
    """y = factor * x + bias: Normalize, a batch normalisation, the mean of a pooling window's edge.

    parts: (mean, std) of a Normalize layer, which an exporter writes as two nodes; else None.
    stretch: (C,), a bound on every intermediate value between x and y, relative to max(|x|, 1), for any order in
        which the parts of the factor are multiplied; infinite where there is none. None for a pooling's edge, which
        has one factor per neuron.
    """

    onnx = ("BatchNormalization", "Add", "Sub", "Mul", "Div", "Neg", "Sum", "Gemm", "Pad", "Concat", "AveragePool")
    rounding = "16 roundings, folded into a convolution or not"

    factor: Tensor  # (C, H, W)
    bias: Tensor  # (C,)
    largest_bias: Tensor  # (C,), what rounding of the bias is relative to
    parts: tuple[Tensor, Tensor] | None
    stretch: Tensor | None
    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        middle = self.factor * ((lower + upper) / 2) + self.bias[:, None, None]
        spread = self.factor.abs() * ((upper - lower) / 2)
        return middle - spread, middle + spread

    def terms(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Terms:
        largest = arithmetic.raised(largest_magnitude(lower, upper))
        whole = largest * arithmetic.raised(self.factor.abs()) + arithmetic.raised(self.largest_bias)[:, None, None]
        if self.stretch is not None:
            between = self.stretch[:, None, None] * largest.clamp(min=1)
            between = between.masked_fill(~(between < overflow_limit(arithmetic.dtype)), torch.inf)
            whole = whole + between * arithmetic.least
        # Variance plus eps, its root, the quotient and two products, however they are arranged: fewer than 16.
        return Terms(whole, whole, whole.new_tensor(16.0), 16)

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        return arithmetic.sum_errors(terms, self.bias[:, None, None], back=(1, 16))

    def backward(self, forms: LinearForms) -> LinearForms:
        return LinearForms(forms.coefs * forms.patches.cut(self.factor[None]).unsqueeze(2), forms.const, forms.patches)
