"""Activations other than ReLU: each class holds one function's interval, linear bounds and rounding error.

For a slope of any line, the offset that makes it hold is the extreme value of f(x) - slope x over the bounds of x. It
lies at an end of the bounds or at a point that the function names, so that a line is sound whatever its slope is:
slopes are a matter of precision, and offsets are computed in float64 and rounded outwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.linear_forms import LinearForms, PlaneShape
from softadv.certify.operators.base import Operator
from softadv.certify.operators.lines import Lines, along
from softadv.certify.rounding import Arithmetic, outwards

# How far float64 may be off in value() and in what is made from it, relative to the largest number involved.
_FLOAT64_ERROR = 2.0**-40


@dataclass(frozen=True)
class Activation(Operator, ABC):
    """An elementwise activation y = f(x). For one of your own, write these methods and register it
    (layers.register_operator).

    The tensors x, lower and upper are float64 (N, C, H, W). The methods return float64 that broadcasts to that shape.
    """

    bias = None
    relaxation = "least area of the chord and a branch"
    rounding = "as its class says"

    in_shape: PlaneShape
    out_shape: PlaneShape

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """f(x), with a relative error of at most 2**-42."""

    @abstractmethod
    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes of the lower and the upper line between two bounds. Any slope is sound; good ones are tight."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        """The points strictly between the bounds where f(x) - slope x may be extreme; NaN where there is none."""

    def evaluation_error(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest error of an evaluated f(x), in the arithmetic's type. Zero where f only compares numbers."""
        return torch.zeros_like(lower)

    def parallel_slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The slope that both lines of a zonotope share: the chord's."""
        return self.chord(lower, upper)

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """bool: the neurons whose lines would be tighter with narrower bounds; by default all."""
        return torch.ones_like(lower, dtype=torch.bool)

    def chord(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The slope between the two bounds; 0 where they are equal."""
        width = upper - lower
        return torch.where(width > 0, (self.value(upper) - self.value(lower)) / width.clamp(min=1e-300), 0.0)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the real function, rounded outwards."""
        low, high = lower.double(), upper.double()
        flat = torch.zeros_like(low)
        ends = self._extreme(flat, low, high, sign=-1), self._extreme(flat, low, high, sign=1)
        return outwards(*ends, lower.dtype)

    def lines(self, lower: Tensor, upper: Tensor, rounding: Arithmetic | None, *, parallel: bool) -> Lines:
        """Lines that bound the evaluated f(x). parallel: both lines share one slope, as a zonotope needs it."""
        low, high, dtype = lower.double(), upper.double(), lower.dtype
        if parallel:
            below = above = self.parallel_slope(low, high)
        else:
            below, above = self.slopes(low, high)
        below, above = (slope.expand_as(low).to(dtype) for slope in (below, above))
        least = self._extreme(below.double(), low, high, sign=-1)
        most = self._extreme(above.double(), low, high, sign=1)
        if rounding is None:
            return Lines(below, above, most.to(dtype), least.to(dtype))
        error = self.evaluation_error(rounding, low, high)
        largest = torch.maximum(-low, high).clamp(min=0)

        def cost(slope: Tensor, offset: Tensor) -> Tensor:
            # A coefficient times the slope is rounded; the offset is summed with many others.
            of_slope, of_sum = 3 * rounding.unit, rounding.gamma(rounding.depth + 2)
            return error + slope.double().abs() * largest * of_slope + (offset.abs() + error) * of_sum + rounding.least

        least, most = outwards(least - cost(below, least), most + cost(above, most), dtype)
        return Lines(below, above, most, least)

    def backward(self, forms: LinearForms, lines: Lines) -> LinearForms:
        return along(forms, lines)

    def _extreme(self, slope: Tensor, lower: Tensor, upper: Tensor, *, sign: int) -> Tensor:
        """The minimum (sign -1) or maximum (sign 1) of f(x) - slope x between the bounds, rounded outwards."""
        found = None
        for x in (lower, upper, *self.stationary(slope)):
            point = torch.minimum(torch.maximum(torch.where(x.isnan(), lower, x), lower), upper)
            value, line = self.value(point), slope * point
            room = (value.abs() + line.abs()) * _FLOAT64_ERROR
            reached = sign * (value - line) + room
            found = reached if found is None else torch.maximum(found, reached)
        assert found is not None
        return sign * found


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """x where x > 0, else negative_slope * x. negative_slope: float64, (1,) or (C,), with the evaluated value."""

    onnx = ("LeakyRelu", "PRelu")
    rounding = "one product"

    negative_slope: Tensor

    def value(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, x * self._slope)

    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The chord on the side where it is sound; on the other side, the branch that leaves the smaller area."""
        one = torch.ones_like(lower)
        slope = self._slope.expand_as(lower)
        bent = (lower < 0) & (upper > 0)
        straight = torch.where(lower >= 0, one, slope)
        chord, side = self.chord(lower, upper), torch.where(upper > -lower, one, slope)
        convex = slope <= 1
        below = torch.where(bent, torch.where(convex, side, chord), straight)
        return below, torch.where(bent, torch.where(convex, chord, side), straight)

    def parallel_slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        straight = torch.where(lower >= 0, torch.ones_like(lower), self._slope.expand_as(lower))
        return torch.where(self.undecided(lower, upper), self.chord(lower, upper), straight)

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros_like(slope),)

    def evaluation_error(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Tensor:
        """One rounded product, for negative x only."""
        return self._slope.abs() * (-lower).clamp(min=0) * (2 * arithmetic.unit) + torch.finfo(arithmetic.dtype).tiny

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 0) & (upper > 0)

    @property
    def _slope(self) -> Tensor:
        return self.negative_slope[:, None, None]


@dataclass(frozen=True)
class Clipping(Activation):
    """x clipped to [low, high]; one of them may be infinite. ReLU6, Hardtanh and clamp. Both as evaluated."""

    onnx = ("Clip",)
    rounding = "nothing"

    low: float
    high: float

    def value(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The chord where only one bend lies between the bounds; else a line through the nearer end, or slope 0,
        whichever leaves the smaller area.
        """
        zero, one = torch.zeros_like(lower), torch.ones_like(lower)
        starts, ends = (lower < self.low) & (upper > self.low), (lower < self.high) & (upper > self.high)
        below = above = torch.where((upper <= self.low) | (lower >= self.high), zero, one)
        chord, height = self.chord(lower, upper), self.high - self.low
        rising = torch.where(upper - self.low > self.low - lower, one, zero)
        falling = torch.where(self.high - lower > upper - self.high, one, zero)
        below = torch.where(starts, rising, torch.where(ends, chord, below))
        above = torch.where(ends, falling, torch.where(starts, chord, above))
        both = starts & ends
        below = torch.where(both, rising * height / (upper - self.low).clamp(min=1e-300), below)
        return below, torch.where(both, falling * height / (self.high - lower).clamp(min=1e-300), above)

    def parallel_slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        inside = (lower >= self.low) & (upper <= self.high)
        return torch.where(inside, torch.ones_like(lower), self.chord(lower, upper))

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.full_like(slope, bend) for bend in (self.low, self.high))

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        return ((lower < self.low) & (upper > self.low)) | ((lower < self.high) & (upper > self.high))
