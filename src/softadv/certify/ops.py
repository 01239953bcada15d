"""The operators of a network, each with all its rules in one class.

A step propagates intervals forwards, bounds the magnitude of its outputs (rounding.py needs it), and
substitutes linear forms backwards. ReLU and max pooling are the steps that are not linear; their
relaxations are in relu.py and pooling.py.

An activation is (N, C, H, W); a vector is C channels of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.certify.activations import Activation
from softadv.certify.gather import Gather
from softadv.certify.linear_forms import LinearForms, Patches, PlaneShape
from softadv.certify.pooling import maximum_lines, pooled_windows
from softadv.certify.relu import Lines, along
from softadv.certify.rounding import Arithmetic, Errors, Terms, overflow_limit
from softadv.kernels.transposed_conv import TransposedConv

Pair = tuple[int, int]
Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Conv:
    """y = weight * x + bias, a convolution with zero padding.

    selects: each output equals one of the inputs, or zero, so nothing rounds.
    """

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
        return LinearForms(_inside(coefs, patches, self.in_shape), forms.const, patches)

    def input_patches(self, patches: Patches) -> Patches:
        return patches.through(stride=self.stride, padding=self.padding, reach=self.reach)

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class Dense:
    """y = weight x + bias on a vector."""

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

    def input_patches(self, patches: Patches) -> Patches:
        return patches

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x.flatten(1), weight, bias)[:, :, None, None]


@dataclass(frozen=True)
class Scale:
    """y = factor * x + bias: Normalize, a batch normalisation, the mean of a pooling window's edge.

    parts: (mean, std) of a Normalize layer, which an exporter writes as two nodes; else None.
    stretch: (C,), a bound on every intermediate value between x and y, relative to max(|x|, 1), for any order in
        which the parts of the factor are multiplied; infinite where there is none. None for a pooling's edge, which
        has one factor per neuron.
    """

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
        largest = arithmetic.raised(_largest(lower, upper))
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

    def input_patches(self, patches: Patches) -> Patches:
        return patches


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) to (C * H * W, 1, 1)."""

    in_shape: PlaneShape
    out_shape: PlaneShape

    bias = None

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower.reshape(-1, *self.out_shape), upper.reshape(-1, *self.out_shape)

    def backward(self, forms: LinearForms) -> LinearForms:
        coefs = forms.coefs.reshape(*forms.coefs.shape[:3], *self.in_shape)
        return LinearForms(coefs.movedim(3, 5).contiguous(), forms.const, self.input_patches(forms.patches))

    def input_patches(self, patches: Patches) -> Patches:
        return Patches.whole(*self.in_shape[1:])


@dataclass(frozen=True)
class Copy:
    """y = x, for an activation that is used more than once.

    Only here are forms that went back through different branches added up again.
    """

    uses: int
    in_shape: PlaneShape
    out_shape: PlaneShape

    bias = None

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower, upper

    def errors(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Errors:
        cost = _largest(lower, upper) * arithmetic.gamma(self.uses)
        return Errors(cost, torch.zeros_like(cost))

    def backward(self, forms: LinearForms) -> LinearForms:
        return forms

    def input_patches(self, patches: Patches) -> Patches:
        return patches


@dataclass(frozen=True)
class Add:
    """y = a + b, two activations of one shape."""

    in_shape: PlaneShape
    out_shape: PlaneShape

    bias = None

    def interval(self, lower: Tensor, upper: Tensor, other_lower: Tensor, other_upper: Tensor) -> Interval:
        return lower + other_lower, upper + other_upper

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        return arithmetic.sum_errors(terms, None, back=(1, 2))

    def backward(self, forms: LinearForms) -> LinearForms:
        return forms

    def input_patches(self, patches: Patches) -> Patches:
        return patches


@dataclass(frozen=True)
class Relu:
    """y = max(x, 0)."""

    in_shape: PlaneShape
    out_shape: PlaneShape

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return lower.clamp(min=0), upper.clamp(min=0)

    def backward(self, forms: LinearForms, lines: Lines) -> LinearForms:
        return along(forms, lines)

    def input_patches(self, patches: Patches) -> Patches:
        return patches


@dataclass(frozen=True)
class MaxPool:
    """y = the largest input of each window."""

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
        return LinearForms(_inside(coefs, patches, self.in_shape), onto.const, patches)

    def input_patches(self, patches: Patches) -> Patches:
        return patches.through(stride=self.stride, padding=self.padding, reach=self.kernel)


Affine = Conv | Dense | Scale | Flatten | Copy | Add | Gather
Step = Affine | Relu | MaxPool | Activation


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


def _largest(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.maximum(-lower, upper)


def _inside(coefs: Tensor, patches: Patches, shape: PlaneShape) -> Tensor:
    """The coefficients with those beyond the plane's edge set to zero: padding is no neuron."""
    _, height, width = shape
    if patches.inside(height, width):
        return coefs
    return coefs * patches.cut(coefs.new_ones(1, 1, height, width)).unsqueeze(2)
