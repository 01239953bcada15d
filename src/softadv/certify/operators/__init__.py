"""The operators of a network, each with all its rules in one class."""

from softadv.certify.operators.activations import Activation, Clipping, LeakyRelu
from softadv.certify.operators.base import Interval, Operator, Pair
from softadv.certify.operators.branches import Add, Copy
from softadv.certify.operators.gather import Flatten, Gather
from softadv.certify.operators.linear import LinearOperator
from softadv.certify.operators.lines import Lines
from softadv.certify.operators.max_pool import MaxPool
from softadv.certify.operators.relu import Relu, unstable
from softadv.certify.operators.s_shaped import Sigmoid, Tanh
from softadv.certify.operators.scale import Scale
from softadv.certify.operators.weighted import Conv, Dense

Affine = Conv | Dense | Scale | Flatten | Copy | Add | Gather | LinearOperator
Step = Affine | Relu | MaxPool | Activation

# All that softadv has, in the order of its table.
OPERATORS: tuple[type[Operator], ...] = (
    Conv, Dense, Scale, Add, Copy, Flatten, Gather, MaxPool, Relu, LeakyRelu, Clipping, Sigmoid, Tanh,
)  # fmt: skip

__all__ = [
    "OPERATORS", "Activation", "Add", "Affine", "Clipping", "Conv", "Copy", "Dense", "Flatten", "Gather", "Interval",
    "LeakyRelu", "LinearOperator", "Lines", "MaxPool", "Operator", "Pair", "Relu", "Scale", "Sigmoid", "Step", "Tanh",
    "unstable",
]  # fmt: skip
