"""The operators that move numbers and compute nothing: each output is an input, or zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, Patches, PlaneShape
from softadv.certify.operators.base import Interval, Operator, largest_magnitude
from softadv.certify.rounding import Arithmetic, Errors


@dataclass(frozen=True)
class Gather(Operator):
    """y[k] = x[index[k]], or zero where the index is -1: slices, permutations, reshapes, repetitions, padding.

    index: int64, one for each output. Neurons are counted as PyTorch does, channel by channel.
    """

    bias = None
    onnx = (
        "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Concat", "Pad", "MaxPool",
        "AveragePool", "MatMul", "ReduceMean", "ReduceSum", "Expand", "PRelu", "Add", "Sub", "Mul", "Div", "Sum",
    )  # fmt: skip
    rounding = "nothing forwards; coefficients are added on the way back where an input is several outputs"

    index: Tensor
    in_shape: PlaneShape
    out_shape: PlaneShape

    def of(self, plane: Tensor) -> Tensor:
        """(N, *in_shape) to (N, *out_shape)."""
        padded = torch.cat([plane.flatten(1), plane.new_zeros(len(plane), 1)], 1)
        return padded[:, self.index].reshape(-1, *self.out_shape)

    @cached_property
    def uses(self) -> Tensor:
        """How many outputs each input is, int64 (C * H * W,)."""
        return torch.bincount(self.index[self.index >= 0], minlength=prod(self.in_shape))

    @property
    def repeats(self) -> bool:
        """Whether an input is more than one output."""
        return bool((self.uses > 1).any())

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.of(lower), self.of(upper)

    def errors(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Errors | None:
        """Nothing rounds on the way forward; on the way back, the coefficients of one input are added up."""
        if not self.repeats:
            return None
        added = self.of((self.uses > 1).to(lower.dtype).reshape(1, *self.in_shape))
        cost = self.of(largest_magnitude(lower, upper)) * (added * arithmetic.gamma(int(self.uses.max())))
        return Errors(cost, torch.zeros_like(cost))

    def backward(self, forms: LinearForms) -> LinearForms:
        whole = forms.whole(*self.out_shape[1:])
        flat = whole.coefs.movedim(5, 3).flatten(3)  # (N, 1, R, K)
        kept = self.index >= 0
        coefs = flat.new_zeros(*flat.shape[:3], prod(self.in_shape))
        coefs.index_add_(3, self.index[kept], flat[..., kept])
        coefs = coefs.reshape(*flat.shape[:3], *self.in_shape).movedim(3, 5).contiguous()
        return LinearForms(coefs, whole.const, self.input_patches(whole.patches))

    def input_patches(self, patches: Patches) -> Patches:
        return Patches.whole(*self.in_shape[1:])


@dataclass(frozen=True)
class Flatten(Operator):
    """(C, H, W) to (C * H * W, 1, 1)."""

    bias = None
    onnx = ("Flatten", "Reshape", "Squeeze")
    rounding = "nothing"

    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower.reshape(-1, *self.out_shape), upper.reshape(-1, *self.out_shape)

    def backward(self, forms: LinearForms) -> LinearForms:
        coefs = forms.coefs.reshape(*forms.coefs.shape[:3], *self.in_shape)
        return LinearForms(coefs.movedim(3, 5).contiguous(), forms.const, self.input_patches(forms.patches))

    def input_patches(self, patches: Patches) -> Patches:
        return Patches.whole(*self.in_shape[1:])
