"""One call of an ONNX operator, and modules for operations without a PyTorch layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softadv._onnx.constants import UnreadError, listed
from softadv._onnx.file import Array
from softadv.errors import SoftadvError

TensorShape = tuple[int, ...]
DTYPES = {torch.float32: 1, torch.float64: 11}


@dataclass(frozen=True)
class OperatorCall:
    """One node.

    constants: its constant inputs, None for activations and omitted inputs. shapes: the activations', but the batch.
    unbatched: whether the file's activations have no batch; axes count from the one that the model gives them.
    batch: the size of the batch that the constants are written for; None if they fit any.
    """

    constants: list[Array | None]
    options: dict[str, Any]
    opset: int
    shapes: list[TensorShape]
    first_active: int
    dtype: torch.dtype
    outputs: int
    unbatched: bool = False
    batch: int | None = None

    def constant(self, at: int) -> Array | None:
        """A constant input; None if it is omitted."""
        return self.constants[at] if at < len(self.constants) else None

    def number(self, at: int, key: str, default: Any = None) -> Any:
        """Numbers that are an input in newer opsets and an attribute in older ones."""
        given = self.constant(at)
        return self.options.get(key, default) if given is None else listed(given)

    def weight(self, at: int) -> Tensor:
        """An input that must be a constant of the network's dtype."""
        given = self.constant(at)
        if given is None:
            raise UnreadError(f"its input {at} is no constant")
        tensor = torch.from_numpy(np.array(given))
        if tensor.dtype != self.dtype:
            raise UnreadError(f"its input {at} is of {tensor.dtype} beside {self.dtype}")
        return tensor

    def refuse(self, **usual: Any) -> None:
        """Raise UnreadError for options that differ from the given usual values."""
        for key, value in usual.items():
            if self.options.get(key, value) != value:
                raise UnreadError(f"has {key}={self.options[key]}; only {value} is read")


Modules = list[nn.Module]
OPERATORS: dict[str, Callable[[OperatorCall], Modules]] = {}
# Whose first input may be a constant beside an activation.
EITHER = ("Add", "Sub", "Mul", "Div", "Sum", "MatMul", "Concat")
# What is read without a module: their outputs are constants.
_CONSTANTS = ("Constant", "ConstantOfShape", "Shape")


def known_operators() -> list[str]:
    """The names of all operators that are read."""
    return sorted((*OPERATORS, *_CONSTANTS))


def operator(*names: str) -> Callable[[Callable[[OperatorCall], Modules]], Callable[[OperatorCall], Modules]]:
    def add(build: Callable[[OperatorCall], Modules]) -> Callable[[OperatorCall], Modules]:
        OPERATORS.update(dict.fromkeys(names, build))
        return build

    return add


_BY_USERS: set[str] = set()


def read_as_layer(name: str, kind: type[nn.Module]) -> None:
    """Read an ONNX operator of one activation, without attributes, as a layer of this kind.

    Raises SoftadvError for an operator that softadv reads itself.
    """
    if name in OPERATORS and name not in _BY_USERS:
        raise SoftadvError(f"onnx: {name} is read already")

    def build(call: OperatorCall) -> Modules:
        if call.options or len(call.constants) != 1:
            raise UnreadError(f"has attributes or more inputs; {kind.__name__} stands for it without")
        return [kind()]

    _BY_USERS.add(name)
    OPERATORS[name] = build


class Function(nn.Module):
    """A function of activations that has no weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *values: Tensor) -> Tensor:
        found: Tensor = self._function(*values)
        return found


class Gathered(nn.Module):
    """Numbers along a dimension in an order of their own, each any number of times."""

    index: Tensor

    def __init__(self, axis: int, index: Tensor) -> None:
        super().__init__()
        self._axis = axis
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, self._axis, self.index)


class ConstantArithmetic(nn.Module):
    """x + c, x - c, x * c, x / c, c - x or c / x."""

    constant: Tensor

    def __init__(self, operator: str, constant: Tensor, *, first: bool) -> None:
        super().__init__()
        self._operator, self._first = operator, first
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x, self.constant) if self._first else (self.constant, x)
        match self._operator:
            case "Add":
                return a + b
            case "Sub":
                return a - b
            case "Mul":
                return a * b
        return a / b
