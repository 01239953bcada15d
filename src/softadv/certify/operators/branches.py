"""Where the branches of a network part, and where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, PlaneShape
from softadv.certify.operators.base import Interval, Operator, largest_magnitude
from softadv.certify.rounding import Arithmetic, Errors, Terms


@dataclass(frozen=True)
class Copy(Operator):
    """y = x, for an activation that is used more than once.

    Only here are forms that went back through different branches added up again.
    """

    bias = None
    rounding = "nothing forwards; coefficients are added on the way back"

    uses: int
    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower, upper

    def errors(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Errors:
        cost = largest_magnitude(lower, upper) * arithmetic.gamma(self.uses)
        return Errors(cost, torch.zeros_like(cost))

    def backward(self, forms: LinearForms) -> LinearForms:
        return forms


@dataclass(frozen=True)
class Add(Operator):
    """y = a + b, two activations of one shape."""

    bias = None
    onnx = ("Add", "Sub", "Sum", "Concat")
    rounding = "one sum of all terms of both"

    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor, other_lower: Tensor, other_upper: Tensor) -> Interval:
        return lower + other_lower, upper + other_upper

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        return arithmetic.sum_errors(terms, None, back=(1, 2))

    def backward(self, forms: LinearForms) -> LinearForms:
        return forms
