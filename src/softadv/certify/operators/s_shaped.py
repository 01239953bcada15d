"""Sigmoid and tanh."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.certify.operators.activations import Activation
from softadv.certify.rounding import Arithmetic

# The errors of PyTorch and onnxruntime, in units u of their type. test_activations.py measures them in steps over the
# whole float32 range; the largest errors found are below a quarter of these.
SIGMOID_ERROR = 16.0
TANH_ERROR = 128.0


class SShaped(Activation):
    """Convex below 0 and concave above; the derivative is largest at 0 and falls on both sides.

    Singh et al., An Abstract Domain for Certifying Neural Networks (POPL 2019), section 4.3; the zonotope's slope
    after Singh et al., Fast and Effective Robustness Certification (NeurIPS 2018), section 3.
    """

    relaxation = "Singh et al. 2019 (4.3), 2018 (3)"

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """f'(x)."""

    def slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        chord, flattest = self.chord(lower, upper), self.parallel_slope(lower, upper)
        chord = torch.where(upper > lower, chord, flattest).clamp(0, 1)
        return torch.where(lower >= 0, chord, flattest), torch.where(upper <= 0, chord, flattest)

    def parallel_slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.minimum(self.derivative(lower), self.derivative(upper))


@dataclass(frozen=True)
class Sigmoid(SShaped):
    """1 / (1 + exp(-x))."""

    onnx = ("Sigmoid",)
    rounding = f"{SIGMOID_ERROR:g} u"

    def value(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * torch.sigmoid(-x)

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        """y (1 - y) = slope: with r = sqrt(1 - 4 slope), y is (1 + r) / 2 or (1 - r) / 2."""
        x = torch.log((1 + (1 - 4 * slope).sqrt()).square() / (4 * slope))
        return x, -x

    def evaluation_error(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.full_like(lower, SIGMOID_ERROR * arithmetic.unit)


@dataclass(frozen=True)
class Tanh(SShaped):
    """tanh(x)."""

    onnx = ("Tanh",)
    rounding = f"{TANH_ERROR:g} u of the input, up to 1"

    def value(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / torch.cosh(x).square()

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        """1 - y**2 = slope: x = log((1 + y) / sqrt(slope))."""
        x = torch.log((1 + (1 - slope).sqrt()) / slope.sqrt())
        return x, -x

    def evaluation_error(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Tensor:
        """Relative to the largest |x|, since |tanh x| <= |x|, and libraries keep the relative error small near 0."""
        largest = torch.maximum(-lower, upper).clamp(0, 1)
        return largest * (TANH_ERROR * arithmetic.unit) + torch.finfo(arithmetic.dtype).tiny
