"""The operators that sum weighted inputs: convolutions, matrix products, means; and choices of inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, Patches, PlaneShape
from softadv.certify.operators.base import Interval, Operator, Pair
from softadv.certify.rounding import Arithmetic, Errors, Terms
from softadv.kernels.transposed_conv import TransposedConv


@dataclass(frozen=True)
class Conv(Operator):
    """y = weight * x + bias, a convolution with zero padding.

    selects: each output equals one of the inputs, or zero, so nothing rounds.
    """

    onnx = (
        "Conv", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "MatMul", "Pad", "Concat", "Slice",
        "Split", "Gather",
    )  # fmt: skip
    rounding = "a sum of its terms, in any order; nothing where it only selects"

    weight: Tensor  # (O, C / groups, kh, kw)
    bias: Tensor  # (O,)
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    in_shape: PlaneShape
    out_shape: PlaneShape
    selects: bool = False

    @property
    def reach(self) -> Pair:
        """The kernel's extent in pixels, height and width, including the gaps of a dilation."""
        _, _, kh, kw = self.weight.shape
        return ((kh - 1) * self.dilation[0] + 1, (kw - 1) * self.dilation[1] + 1)

    @cached_property
    def transposed(self) -> TransposedConv | None:
        """The transposed convolution by phases, which is faster, where there is one."""
        plain = self.groups == 1 and self.dilation == (1, 1)
        return TransposedConv(self.weight, stride=self.stride) if plain else None

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        middle = self._apply((lower + upper) / 2, self.weight, self.bias)
        spread = self._apply((upper - lower) / 2, self.weight.abs(), None)
        return middle - spread, middle + spread

    def terms(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Terms:
        outputs, inputs, kh, kw = self.weight.shape
        ones = self.weight.new_ones(self.groups, inputs, kh, kw)
        live = self._apply(_live(lower, upper), ones, None)  # one number for all channels of a group
        live = live if self.groups == 1 else live.repeat_interleave(outputs // self.groups, 1)
        found = _terms(self, arithmetic, lower, upper, live=live)
        return replace(found, count=torch.ones_like(live), most=1) if self.selects else found

    @property
    def back(self) -> Pair:
        """How many terms of how many taps a coefficient sums on its way back."""
        outputs, _, kh, kw = self.weight.shape
        # An input meets every stride-th tap of the kernel.
        taps = kh * kw if self.dilation != (1, 1) else -(-kh // self.stride[0]) * -(-kw // self.stride[1])
        return outputs // self.groups, taps

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        if self.selects:
            return arithmetic.sum_errors(terms, None, back=(1, 1))
        return arithmetic.sum_errors(terms, self.bias[:, None, None], back=self.back)

    def backward(self, forms: LinearForms) -> LinearForms:
        flat = forms.coefs.flatten(0, 2).permute(0, 3, 1, 2)
        if self.transposed is not None:
            coefs = self.transposed(flat)
        else:
            coefs = F.conv_transpose2d(
                flat, self.weight, stride=self.stride, groups=self.groups, dilation=self.dilation
            )
        coefs = coefs.permute(0, 2, 3, 1)
        coefs = coefs.reshape(*forms.coefs.shape[:3], *coefs.shape[1:])
        patches = self.input_patches(forms.patches)
        return LinearForms(inside(coefs, patches, self.in_shape), forms.const, patches)

    def input_patches(self, patches: Patches) -> Patches:
        return patches.through(stride=self.stride, padding=self.padding, reach=self.reach)

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class Dense(Operator):
    """y = weight x + bias on a vector."""

    onnx = ("Gemm", "MatMul")
    rounding = "a sum of its terms, in any order"

    weight: Tensor  # (O, D)
    bias: Tensor  # (O,)
    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        middle = self._apply((lower + upper) / 2, self.weight, self.bias)
        spread = self._apply((upper - lower) / 2, self.weight.abs(), None)
        return middle - spread, middle + spread

    def terms(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Terms:
        return _terms(self, arithmetic, lower, upper, live=_live(lower, upper).sum(1, keepdim=True))

    @property
    def back(self) -> Pair:
        """How many terms of how many taps a coefficient sums on its way back."""
        return len(self.weight), 1

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        return arithmetic.sum_errors(terms, self.bias[:, None, None], back=self.back)

    def backward(self, forms: LinearForms) -> LinearForms:
        return LinearForms(torch.matmul(forms.coefs, self.weight), forms.const, forms.patches)

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x.flatten(1), weight, bias)[:, :, None, None]


def _terms(step: Conv | Dense, arithmetic: Arithmetic, lower: Tensor, upper: Tensor, *, live: Tensor) -> Terms:
    """The terms of weighted sums, from bounds of the evaluated inputs; live: how many terms may differ from zero."""
    raised = arithmetic.raised
    plus, minus, high = raised(step.weight), raised(-step.weight), raised(upper)
    positive, negative = step._apply(high, plus, raised(step.bias)), step._apply(high, minus, raised(-step.bias))
    if (lower < 0).any():
        low = raised(-lower)
        positive, negative = positive + step._apply(low, minus, None), negative + step._apply(low, plus, None)
    return Terms(positive, negative, live + 1, step.weight[0].numel() + 1)


def _live(lower: Tensor, upper: Tensor) -> Tensor:
    """1 where an input may differ from zero, else 0."""
    return ((lower != 0) | (upper != 0)).to(lower.dtype)


def inside(coefs: Tensor, patches: Patches, shape: PlaneShape) -> Tensor:
    """The coefficients with those beyond the plane's edge set to zero: padding is no neuron."""
    _, height, width = shape
    if patches.inside(height, width):
        return coefs
    return coefs * patches.cut(coefs.new_ones(1, 1, height, width)).unsqueeze(2)
