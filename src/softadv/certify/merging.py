"""The terms of sums that an evaluator may merge from several layers into one (rounding.py says which, and why)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softadv.certify.graph import Network
from softadv.certify.operators import Add, Conv, Dense, Flatten, Gather, Interval, LinearOperator, Scale
from softadv.certify.rounding import Arithmetic, Terms, overflow_limit

# From an activation's number to the bounds of its evaluated values.
Evaluated = Callable[[int], Interval]

# A folded weight takes a sum, a root, a quotient and two products, its bias two more sums. They are counted as
# additions; two additions cost as much as one rounding of all terms.
_OF_FOLDING = 16


def terms(network: Network, at: int, arithmetic: Arithmetic, evaluated: Evaluated) -> Terms:
    """All terms whose sum is activation `at`, the output of an addition or of a linear layer that rounds."""
    node = network.nodes[at - 1]
    match node.step:
        case Add():
            first, second = (_operand(network, i, arithmetic, evaluated) for i in node.inputs)
            return first.beside(second)
        case Scale() as step:
            alone = step.terms(arithmetic, *evaluated(node.inputs[0]))
            folded = _folded(network, at, arithmetic)
            if folded is None:
                products = _products(network, node.inputs[0], arithmetic, evaluated)
                if products is None or step.stretch is None:
                    return alone
                return alone.at_most(products.scaled(step, arithmetic).terms)
            layer, constant, entering = folded
            return alone.at_most(layer.terms(arithmetic, *evaluated(entering)).with_constant(constant, _OF_FOLDING))
        case Conv() | Dense() | LinearOperator() as step:
            return step.terms(arithmetic, *evaluated(node.inputs[0]))
    raise AssertionError(f"{node.name} sums nothing")


def _operand(network: Network, at: int, arithmetic: Arithmetic, evaluated: Evaluated) -> Terms:
    """An operand's terms in an addition: those of the linear layer that computes it, else the operand itself."""
    match network.nodes[at - 1].step if at else None:
        case Conv() | Dense() | Scale() | LinearOperator():
            return terms(network, at, arithmetic, evaluated)
        case Flatten() as step:
            return _operand(network, network.nodes[at - 1].inputs[0], arithmetic, evaluated).reshaped(step.out_shape)
        case Gather() as step:  # an evaluator may move what moves numbers behind the addition
            return _operand(network, network.nodes[at - 1].inputs[0], arithmetic, evaluated).moved(step.of)
    return Terms.of_value(arithmetic, *evaluated(at))


def _folded(network: Network, at: int, arithmetic: Arithmetic) -> tuple[Conv | Dense, Tensor, int] | None:
    """A linear layer with the scalings after it folded into its weight, without a bias; None where there is none.

    Also returns the magnitude of the constant's terms, (C,), and the number of the activation that the layer reads.
    """
    node = network.nodes[at - 1] if at else None
    match node.step if node else None:
        case Conv() | Dense() as layer if node:
            return replace(layer, bias=torch.zeros_like(layer.bias)), layer.bias.abs(), node.inputs[0]
        case Scale() as scale if node and scale.stretch is not None:
            before = _folded(network, node.inputs[0], arithmetic)
            if before is None:
                return None
            layer, constant, entering = before
            factor, shape = scale.factor[:, 0, 0], (-1, *[1] * (layer.weight.ndim - 1))
            size, sign = arithmetic.raised(factor.abs()), torch.where(factor < 0, -1.0, 1.0).to(factor.dtype)
            # The parts of the factor are multiplied in one by one: what may underflow on the way, or overflow.
            lost = layer.weight.sign() * (scale.stretch * arithmetic.least).reshape(shape)
            weight = sign.reshape(shape) * (layer.weight * size.reshape(shape) + lost)
            between = torch.maximum(layer.weight.abs().flatten(1).amax(1), constant) * scale.stretch
            constant = constant * size + scale.largest_bias
            constant = constant.masked_fill(~(between < overflow_limit(arithmetic.dtype)), torch.inf)
            return replace(layer, weight=weight), constant, entering
    return None


@dataclass(frozen=True)
class _Products:
    """Sums of weighted inputs behind steps that move them, where a scaling may still be folded into the weights.

    All are planes (N or 1, C, H, W). sums: without a bias. inputs: of magnitudes of the inputs that have a weight.
    weight: the largest. constant: of the terms of the constant.
    """

    sums: Terms
    inputs: Tensor
    weight: Tensor
    constant: Tensor

    @property
    def terms(self) -> Terms:
        """All terms, with those of the constant."""
        positive, negative = self.sums.positive + self.constant, self.sums.negative + self.constant
        return Terms(positive, negative, self.sums.count + _OF_FOLDING, self.sums.most + _OF_FOLDING)

    def moved(self, step: Gather) -> _Products:
        inputs, weight, constant = (step.of(plane) for plane in (self.inputs, self.weight, self.constant))
        return _Products(self.sums.moved(step.of), inputs, weight, constant)

    def scaled(self, step: Scale, arithmetic: Arithmetic) -> _Products:
        """With a scaling folded in, as in `_folded`."""
        assert step.stretch is not None
        size, stretch = arithmetic.raised(step.factor.abs()), step.stretch[:, None, None]
        positive, negative, lost = self.sums.positive, self.sums.negative, self.inputs * (stretch * arithmetic.least)
        positive, negative = (
            torch.where(step.factor < 0, other, own) * size + lost
            for own, other in ((positive, negative), (negative, positive))
        )
        between = torch.maximum(self.weight, self.constant) * stretch
        constant = self.constant * size + step.largest_bias[:, None, None]
        constant = constant.masked_fill(~(between < overflow_limit(arithmetic.dtype)), torch.inf)
        sums = Terms(positive, negative, self.sums.count, self.sums.most)
        return _Products(sums, self.inputs, self.weight * size + stretch * arithmetic.least, constant)


def _products(network: Network, at: int, arithmetic: Arithmetic, evaluated: Evaluated) -> _Products | None:
    """What activation `at` is where it is a linear layer, scaled and moved in any order; else None."""
    node = network.nodes[at - 1] if at else None
    if node is None or not isinstance(node.step, Conv | Dense | Scale | Gather):
        return None
    step, entering = node.step, node.inputs[0]
    if isinstance(step, Conv | Dense):
        bare = replace(step, bias=torch.zeros_like(step.bias))
        sums = bare.terms(arithmetic, *evaluated(entering))
        inputs = replace(bare, weight=step.weight.sign()).terms(arithmetic, *evaluated(entering))
        planes = [size[:, None, None].expand(step.out_shape)[None] for size in
                  (step.weight.abs().flatten(1).amax(1), step.bias.abs())]  # fmt: skip
        return _Products(sums, inputs.positive + inputs.negative, *planes)
    before = _products(network, entering, arithmetic, evaluated)
    if before is None:
        return None
    if isinstance(step, Gather):
        return before.moved(step)
    return None if step.stretch is None else before.scaled(step, arithmetic)
