"""The base class of linear operators of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from softadv.certify.linear_forms import LinearForms, Patches, PlaneShape
from softadv.certify.operators.base import Interval, Operator, Pair, largest_magnitude
from softadv.certify.rounding import Arithmetic, Errors, Terms


@dataclass(frozen=True)
class LinearOperator(Operator, ABC):
    """y = A x. For one of your own, write these methods and register it (layers.register_operator).

    The compiled kernel does not know it: PyTorch computes networks that have one. The certificates hold for an
    evaluation that takes each output as one sum of products of inputs and entries of A, in any order, and folds no
    scaling into it.

    in_shape, out_shape: (C, H, W); a vector is C channels of one pixel.
    """

    bias = None
    rounding = "a sum of its terms, in any order"

    in_shape: PlaneShape
    out_shape: PlaneShape

    @abstractmethod
    def apply(self, x: Tensor, *, magnitudes: bool) -> Tensor:
        """A x, float (N, *in_shape) to (N, *out_shape). magnitudes: with the magnitudes of A's entries, |A| x."""

    @abstractmethod
    def transposed(self, y: Tensor) -> Tensor:
        """y A, float (N, *out_shape) to (N, *in_shape)."""

    @property
    @abstractmethod
    def most_terms(self) -> Pair:
        """The most entries of A that are not zero, in one of its rows and in one of its columns."""

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        middle = self.apply((lower + upper) / 2, magnitudes=False)
        spread = self.apply((upper - lower) / 2, magnitudes=True)
        return middle - spread, middle + spread

    def terms(self, arithmetic: Arithmetic, lower: Tensor, upper: Tensor) -> Terms:
        # One term more, as large as what underflows, with the entries of A that may be flushed to zero.
        count = self.most_terms[0] + 1
        size = arithmetic.raised(largest_magnitude(lower, upper))
        lost = arithmetic.least * (1 + count * size.amax((1, 2, 3), keepdim=True))
        whole = self.apply(size, magnitudes=True) + lost
        return Terms(whole, whole, whole.new_tensor(float(count)), count)

    def errors(self, arithmetic: Arithmetic, terms: Terms) -> Errors:
        return arithmetic.sum_errors(terms, None, back=(self.most_terms[1], 1))

    def backward(self, forms: LinearForms) -> LinearForms:
        whole = forms.whole(*self.out_shape[1:])
        count = whole.coefs.shape[2]
        coefs = self.transposed(whole.coefs.movedim(5, 3).reshape(-1, *self.out_shape))
        coefs = coefs.reshape(-1, 1, count, *self.in_shape).movedim(3, 5).contiguous()
        return LinearForms(coefs, whole.const, self.input_patches(whole.patches))

    def input_patches(self, patches: Patches) -> Patches:
        return Patches.whole(*self.in_shape[1:])
