"""Rounding errors: the bounds that make certificates hold in floating point.

Theorem. Let `certify(..., rounding="sound")` call an image verified. Take any real point of the box
|x' - x| <= eps within clip, round it to the model's floating-point type, and evaluate the network
there in that type. Then output y is strictly larger than every other output, in whatever order the
sums of a layer are taken, with or without fused multiply-add.

Model of arithmetic (IEEE 754, round to nearest; u = 2^-24 for float32, 2^-53 for float64). Each
operation returns (a op b)(1 + d) + e with |d| <= u; e is 0 unless a product or a quotient underflows,
then |e| <= `tiny`, the smallest normal number, which also covers results and operands flushed to zero.
A sum of n products, in any order, is then off by at most gamma(n) sum |a_i b_i| with
gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002,
sections 2.2, 3.1 and 4.2; underflow as in section 2.8). ReLU, max pooling and comparisons are exact.

The evaluation. A linear layer returns z = W a + b + d. However its sum is arranged, it is a tree with
one addition for each term but one, and each addition is off by at most u times what it returns, which
is at most the larger of the sum of all positive terms and the sum of all negative ones
(`evaluation`; Higham, section 4.2, equation 4.3). Terms that are certainly zero are added exactly and
do not count. How large the terms can be follows from bounds that already contain every evaluated
value, since they are proven layer by layer for the evaluation, not for the ideal network. Underflow is
covered by raising every magnitude to at least `tiny` 2^22 / u and counting two more operations.

The analysis. Back-substitution keeps "target >= c . z + constant" for every evaluated z. It may
replace c by any other coefficients c' if it pays |c - c'| M, M being the largest magnitude of what c
multiplies. So:
- through a linear layer, c W is computed with an error of gamma(k) |c| |W|, which costs gamma(k) |c| m,
  where m = |W| M + |b| and k is the most additions that a product passes through;
- where forms meet that went through different branches, their coefficients are added: `Copy` pays;
- through a ReLU, c * slope costs u |c| A, A being the largest magnitude of the ReLU's input. The slope
  may be any number in [0, 1]: the offset is what makes the line hold, so the offset is what is rounded
  up (operators/relu.py), and this cost is added to it;
- the constant is one sum of products whose every term passes through at most `depth` roundings, which
  costs gamma(depth) of each term's magnitude;
- the box is center +- radius, with the radius rounded up.
Every cost is a number per neuron times |c|: a layer's bias simply becomes an interval b +- error, a
ReLU's offset and the box's radius become a little larger. Each gamma is at most 1/256 (checked) and is
taken 1/32 larger than it is, which pays for products of errors and for the rounding of the errors
themselves. Underflow inside the analysis, in fewer than 2^40 operations, costs each of its bounds `flat`.
Where a bound or a sum of magnitudes is not below `overflow_limit`, nothing is proven: the margin is then
NaN, and the image not verified.

Other activations (operators/). LeakyReLU, PReLU and clipping are comparisons and at most one product. Sigmoid and
tanh are what a library makes of them: off by no more than SIGMOID_ERROR and TANH_ERROR, which are measured over all of
float32, and laid over both lines. Each line holds for the slope that was rounded, since its offset is computed for it.
What moves numbers (operators/gather.py) rounds nothing. Where an input is several outputs, its coefficients are added
up on the way back, which is paid for as where branches meet. An evaluator may move it past additions and scalings (ONNX
Runtime does so with transpositions, from the basic level on), so that merged sums look through it.
Constants that a model adds or multiplies by are scalings, too. A number that a product of matrices is multiplied by,
before or behind, may come into each of its terms (ONNX Runtime's scaled MatMul): it is between 2^-20 and 2^20, so that
what underflows there is covered. Behind a softmax, scores are ordered where they are further apart than it blurs them.

Merged layers. An evaluator may make one sum of several (merging.py):
- An addition and the convolutions and linear layers that it adds. Partial sums of products then meet the other
  operand many times. ONNX Runtime does so with Gemm or MatMul and Add from the basic level on, with Conv and Add
  at the last one, which is its default, a block of channels at a time; inductor with addmm, mm_plus_mm and
  oneDNN's sums. So an addition is one sum of all terms of its operands.
- A convolution and the batch normalisations and Normalize layers behind it. PyTorch's exporter, ONNX Runtime from
  the basic level on, and inductor where it freezes weights multiply their factors into its weight, one by one and
  in any order. That is one sum, too, of products that are rounded up to eight times; the scaling pays for the
  costlier of the two ways.
- Both, as in residual blocks. A ReLU or a max pooling that is merged behind them stays exact.
For the proof, a value that is not stored in memory counts as exact, and the merged sum has all the errors. The proof
assumes of evaluators, and all levels and passes satisfy it: a value that is used several times is computed once; sums
of sums are taken as written; no layer is folded into a later one, and no two weights are multiplied. Their other
fusions (layer norms, attention, GELU, a scale after a product of matrices, quantised layers) match nothing that
the certifier reads.
A batch normalisation takes its factors in any order even when it stands alone, so that what lies between may be
larger or smaller than both ends. Where that may overflow, or where the variance plus eps is so small that numbers
flushed to zero are seen in it, nothing is proven.

What it covers. Direct convolutions, matrix products of any blocking (im2col, implicit GEMM) and their
gradual or parallel reductions: PyTorch on CPUs and NVIDIA GPUs, torch.compile with inductor, ONNX Runtime's
provider for CPUs at every level of optimisation. Not Winograd and FFT convolutions, whose errors are not
bounded by sums of |a_i b_i|, and not TF32, bfloat16, autocast, emulated or otherwise coarse products, whose u
is another: `check_evaluation` and api.py refuse where PyTorch may use them, for the analysis as for the
evaluation. ONNX Runtime's other providers (the one for CUDA uses TF32 unless told not to) and its session
options for bfloat16 products are not looked at. What a model's own code does only under a compiler, an
exporter or a jit, because it asks for them, is another network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from softadv.errors import SoftadvError

_SECOND_ORDER = 1 + 1 / 32
_LARGEST_GAMMA = 1 / 256
_ANALYSIS_OPERATIONS = 2.0**40


@dataclass(frozen=True)
class Errors:
    """How far the outputs of a linear layer may be off, each (N, C, H, W).

    of_forms: the cost of each output to a form: the evaluation and the substitution through the layer.
    of_bounds: the cost to an output's interval: the evaluation and the interval arithmetic.
    """

    of_forms: Tensor
    of_bounds: Tensor


@dataclass(frozen=True)
class Terms:
    """The terms of an output of a linear layer or of an addition; all tensors broadcast to (N, C, H, W).

    positive, negative: the largest magnitudes that the sums of its positive and of its negative terms can have.
    count: how many terms may differ from zero, as floats; most: the largest possible count.
    """

    positive: Tensor
    negative: Tensor
    count: Tensor
    most: int

    @staticmethod
    def of_value(arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Terms:
        """A value that enters a sum as it is, from its bounds (N, C, H, W)."""
        return Terms(arithmetic.raised(upper), arithmetic.raised(-lower), lower.new_ones(()), 1)

    def beside(self, other: Terms) -> Terms:
        """The terms of both."""
        positive, negative = self.positive + other.positive, self.negative + other.negative
        return Terms(positive, negative, self.count + other.count, self.most + other.most)

    def at_most(self, other: Terms) -> Terms:
        """Terms that cover both cases: the evaluator may sum either these or the others."""
        return Terms(
            torch.maximum(self.positive, other.positive), torch.maximum(self.negative, other.negative),
            torch.maximum(self.count, other.count), max(self.most, other.most),
        )  # fmt: skip

    def with_constant(self, size: Tensor, count: int) -> Terms:
        """These terms with `count` more, of either sign, that sum to at most size (C,) in magnitude."""
        size = size[:, None, None]
        return Terms(self.positive + size, self.negative + size, self.count + count, self.most + count)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Terms:
        """The same where values only change places; move: of planes (N, C, H, W)."""
        positive, negative, count = (
            move(values.expand_as(self.positive)) for values in (self.positive, self.negative, self.count)
        )
        return Terms(positive, negative, count, self.most)

    def reshaped(self, shape: tuple[int, int, int]) -> Terms:
        """The same for a flattened activation."""
        positive, negative, count = (
            values.expand_as(self.positive).reshape(-1, *shape) for values in (self.positive, self.negative, self.count)
        )
        return Terms(positive, negative, count, self.most)


@dataclass(frozen=True)
class SumCosts:
    """What the errors of a sum are multiples of: P and Q, the sums of its positive and negative terms, and its bias.

    addition: of max(P, Q), for each term. evaluation: of P + Q. form, constant: of P + Q and of |bias|, what a form
    pays beside. bound: of P + Q, what an interval pays beside.
    """

    addition: float
    evaluation: float
    form: float
    constant: float
    bound: float


@dataclass(frozen=True)
class Arithmetic:
    """The costs above, for one floating-point type and the way back-substitution takes its sums.

    depth: the most roundings that a term of a form's constant passes through.
    depth_of_sum: the same for a coefficient that sums `terms` products for each of `taps` places.
    """

    dtype: torch.dtype
    depth: int
    depth_of_sum: Callable[[int, int], int]

    @property
    def unit(self) -> float:
        """u, the largest relative error of one operation."""
        return torch.finfo(self.dtype).eps / 2

    def gamma(self, n: int) -> float:
        """gamma(n) with room for the products of errors. Raises SoftadvError where n is too large."""
        value = n * self.unit / (1 - n * self.unit)
        if not 0 <= value <= _LARGEST_GAMMA:
            raise SoftadvError(
                f"rounding: sums of {n:,} terms are too long to be bounded in {self.dtype}; use rounding='none'"
            )
        return value * _SECOND_ORDER

    @property
    def least(self) -> float:
        """The smallest magnitude that is used, so that underflow is covered."""
        return torch.finfo(self.dtype).tiny * 2.0**22 / self.unit

    def raised(self, values: Tensor) -> Tensor:
        """The positive part of values, raised so that underflow is paid for."""
        return values.clamp(min=self.least)

    def sum_costs(self, most: int, *, back: tuple[int, int]) -> SumCosts:
        """What sums of at most so many terms cost. back: terms and taps of a coefficient on the way back."""
        addition = self.unit * (_SECOND_ORDER * (1 + 2 * self.gamma(most)))
        form = self.gamma(self.depth_of_sum(*back) + 2)
        return SumCosts(addition, self.gamma(4), form, self.gamma(self.depth), self.gamma(8))

    def sum_errors(self, terms: Terms, bias: Tensor | None, *, back: tuple[int, int]) -> Errors:
        """The errors of sums. back: the terms and taps of a coefficient in back-substitution through the step."""
        costs = self.sum_costs(terms.most, back=back)
        whole = terms.positive + terms.negative
        if not whole.amax() < overflow_limit(self.dtype):  # NaN is not
            whole = whole.masked_fill(~(whole < overflow_limit(self.dtype)), torch.inf)
        additions = terms.count * costs.addition
        evaluation = additions * torch.maximum(terms.positive, terms.negative) + costs.evaluation * whole
        of_forms = evaluation + costs.form * whole
        if bias is not None:
            of_forms = of_forms + bias.abs() * costs.constant
        # Center and radius of the inputs are summed once each; the sums are at most 1 and 2 times the largest.
        return Errors(of_forms, 4 * evaluation + costs.bound * whole)

    def radius(self, center: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """A radius that makes center +- radius contain the bounds, with the cost of summing over the box."""
        radius = torch.maximum(upper - center, center - lower) * (1 + 4 * self.unit)
        return radius + (center.abs() + radius) * self.gamma(self.depth + 2)

    def offset(self, values: Tensor, largest_input: Tensor) -> Tensor:
        """A ReLU line's offset, rounded up, with the cost of its slope's product and of summing.

        values: non-negative offsets, at most four roundings off. largest_input: A, both in one shape.
        """
        grown = values * (1 + 8 * self.unit + self.gamma(self.depth))
        return grown + largest_input * (3 * self.unit) + torch.finfo(self.dtype).tiny

    def flat(self, largest: Tensor) -> Tensor:
        """What underflow in the analysis costs; largest: (N,), the largest magnitude of any activation."""
        return (1 + largest) * (torch.finfo(self.dtype).tiny * _ANALYSIS_OPERATIONS)


def overflow_limit(dtype: torch.dtype) -> float:
    """Nothing is proven where larger numbers may occur: below it, no arrangement of a sum or a mean overflows."""
    return torch.finfo(dtype).max * 2.0**-24


def box(
    x: Tensor, *, eps: float | Tensor, clip: tuple[float, float], dtype: torch.dtype, sound: bool
) -> tuple[Tensor, Tensor]:
    """The bounds of {x' : |x' - x| <= eps, clip[0] <= x' <= clip[1]} in a floating-point type.

    eps: a number, or a tensor that broadcasts to x. Sound bounds contain the real box, and so the rounded value of
    each of its points.
    """
    if not sound:
        x = x.to(dtype)
        size = eps.to(dtype) if isinstance(eps, Tensor) else eps
        return (x - size).clamp(min=clip[0]), (x + size).clamp(max=clip[1])
    exact = x.double()
    size = eps.double() if isinstance(eps, Tensor) else eps
    below, above = _sum_below(exact, -size).clamp(min=clip[0]), -_sum_below(-exact, -size).clamp(min=-clip[1])
    return outwards(below, above, dtype)


def outwards(below: Tensor, above: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float64 bounds in a floating-point type, rounded outwards."""
    lower, upper = below.to(dtype), above.to(dtype)
    infinity = lower.new_tensor(torch.inf)
    lower = torch.where(lower.double() > below, lower.nextafter(-infinity), lower)
    return lower, torch.where(upper.double() < above, upper.nextafter(infinity), upper)


def _sum_below(a: Tensor, b: float | Tensor) -> Tensor:
    """a + b in float64, rounded down: Knuth's two-sum tells on which side the rounded sum lies."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return torch.where(error < 0, total.nextafter(total.new_tensor(-torch.inf)), total)


def evaluation_settings() -> tuple[object, ...]:
    """All global PyTorch settings that affect how a model is evaluated."""
    cuda, cudnn, mkldnn = (cast(Any, m) for m in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn))
    return (
        torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"), torch._C._get_mkldnn_enabled(),
        mkldnn.matmul.fp32_precision, mkldnn.conv.fp32_precision, cuda.matmul.fp32_precision, cudnn.enabled,
        cudnn.conv.fp32_precision, torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(),
    )  # fmt: skip


# Environment variables that let the libraries below PyTorch lower the precision of float32 products, and the values
# that do not.
_COARSE: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {
        "DNNL_DEFAULT_FPMATH_MODE": ("", "strict"), "ONEDNN_DEFAULT_FPMATH_MODE": ("", "strict"),
        "MKL_BLAS_COMPUTE_MODE": ("", "standard"),
    },
    "cuda": {"NVIDIA_TF32_OVERRIDE": ("", "0"), "CUBLAS_EMULATE_SINGLE_PRECISION": ("", "0")},
}  # fmt: skip


def check_evaluation(dtype: torch.dtype, device: torch.device) -> None:
    """Raise SoftadvError where PyTorch may evaluate a model in another arithmetic than the theorem's."""
    wanted = "; rounding='sound' needs plain float32 or float64 (or ask for rounding='none')"
    if dtype not in (torch.float32, torch.float64):
        raise SoftadvError(f"rounding: the model is in {str(dtype).removeprefix('torch.')}{wanted}")
    if device.type not in _COARSE or (device.type == "cuda" and torch.version.hip is not None):
        kind = "ROCm" if device.type == "cuda" else device.type
        raise SoftadvError(f"rounding: nothing is known of the arithmetic of {kind}, only of CPUs and CUDA{wanted}")
    if torch.is_autocast_enabled(device.type):
        raise SoftadvError(f"rounding: autocast is on{wanted}")
    if dtype == torch.float64:
        return
    for name, harmless in _COARSE[device.type].items():
        if os.environ.get(name, "").strip().lower() not in harmless:
            raise SoftadvError(f"rounding: the environment has {name}={os.environ[name]}{wanted}")
    # PyTorch's stubs know nothing of these settings.
    cuda, cudnn, mkldnn = (cast(Any, m) for m in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn))
    settings = {
        "cpu": {"torch.backends.mkldnn.matmul": mkldnn.matmul, "torch.backends.mkldnn.conv": mkldnn.conv},
        "cuda": {"torch.backends.cuda.matmul": cuda.matmul, "torch.backends.cudnn.conv": cudnn.conv},
    }
    for name, backend in settings[device.type].items():
        if backend.fp32_precision not in ("none", "ieee"):
            raise SoftadvError(f"rounding: {name}.fp32_precision is {backend.fp32_precision!r}{wanted}")
