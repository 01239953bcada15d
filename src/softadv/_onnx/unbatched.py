"""Operators of a file whose activations have no batch: each call is put into the words of one that has it.

A model computes any number of inputs at once, in a first dimension that such a file does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from torch import Tensor, nn

from softadv._onnx.calls import OPERATORS, Function, Modules, OperatorCall, TensorShape
from softadv._onnx.constants import UnreadError, listed

_OF_IMAGES = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Sum")
# The axis where none is given.
_ALONG: dict[str, int | None] = {"Concat": None, "Split": 0, "Gather": 0, "Softmax": -1, "LogSoftmax": -1}


def build_unbatched(operator: str, call: OperatorCall) -> Modules:
    """The modules of a call whose activations have no batch. Raises UnreadError for what is not read there."""
    if operator in _OF_IMAGES:
        if call.shapes[0][:1] != (1,):
            raise UnreadError(f"takes an activation of shape {call.shapes[0]} without a batch")
        first = replace(call, shapes=[call.shapes[0][1:]])
        return [nn.Sequential(
            Function(lambda x: x.squeeze(1)), *OPERATORS[operator](first), Function(lambda x: x.unsqueeze(1))
        )]  # fmt: skip
    more = _rank(operator, call) - len(call.shapes[0])
    if more > 0:
        shapes = [(1,) * more + shape for shape in call.shapes]
        return [_Raised(shapes, *build_unbatched(operator, replace(call, shapes=shapes)))]
    if operator in _SHIFTED:
        operator, call = _SHIFTED[operator](operator, call)
    return OPERATORS[operator](replace(call, unbatched=True))


def _rank(operator: str, call: OperatorCall) -> int:
    """The most dimensions that a constant gives to an activation beside it."""
    known = [constant for constant in call.constants if constant is not None]
    if operator == "Expand":
        return known[0].size if known else 0
    return max((constant.ndim for constant in known), default=0) if operator in _ARITHMETIC else 0


class _Raised(nn.Module):
    """A module whose activations get dimensions of size 1 first, as a constant of more dimensions makes them."""

    def __init__(self, shapes: list[TensorShape], module: nn.Module) -> None:
        super().__init__()
        self._shapes, self.module = shapes, module

    def forward(self, *values: Tensor) -> Any:
        return self.module(*(x.reshape(x.shape[0], *s) for x, s in zip(values, self._shapes, strict=True)))


Shifted = tuple[str, OperatorCall]


def _up(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _with(call: OperatorCall, at: int, key: str, values: list[int]) -> OperatorCall:
    """A call with another list of numbers, which is an input where there is one, else an attribute."""
    if call.constant(at) is None:
        return replace(call, options=call.options | {key: values})
    return replace(call, constants=[*call.constants[:at], np.array(values, np.int64), *call.constants[at + 1 :]])


def _along(operator: str, call: OperatorCall) -> Shifted:
    usual = 1 if operator.endswith("oftmax") and call.opset < 13 else _ALONG[operator]
    axis = call.options.get("axis", usual)
    if operator == "Concat":  # constants beside activations get the batch, too
        call = replace(call, constants=[None if known is None else known[None] for known in call.constants])
    return operator, call if axis is None else replace(call, options=call.options | {"axis": _up(axis)})


def _axes(operator: str, call: OperatorCall) -> Shifted:
    axes = call.number(1, "axes")
    if operator.startswith("Reduce") and not axes:
        if call.options.get("noop_with_empty_axes", 0):
            return operator, call
        axes = range(len(call.shapes[0]))
    return operator, call if axes is None else _with(call, 1, "axes", [_up(axis) for axis in axes])


def _flatten(operator: str, call: OperatorCall) -> Shifted:
    axis, shape = call.options.get("axis", 1), call.shapes[0]
    axis += len(shape) if axis < 0 else 0
    target = np.array([0, prod(shape[:axis]), prod(shape[axis:])])
    return "Reshape", replace(call, constants=[None, target], options={})


def _reshape(operator: str, call: OperatorCall) -> Shifted:
    target = call.constant(1)
    if target is None or (call.options.get("allowzero", 0) and not target.all()):
        return operator, call
    return operator, replace(_with(call, 1, "shape", [0, *listed(target)]), options={})


def _expand(operator: str, call: OperatorCall) -> Shifted:
    target = call.constant(1)
    if target is None:
        return operator, call
    sizes = listed(target)
    return operator, _with(call, 1, "shape", [1] * (len(call.shapes[0]) + 1 - len(sizes)) + sizes)


def _transpose(operator: str, call: OperatorCall) -> Shifted:
    perm = call.options.get("perm", range(len(call.shapes[0]))[::-1])
    return operator, replace(call, options={"perm": [0, *(axis + 1 for axis in perm)]})


def _slice(operator: str, call: OperatorCall) -> Shifted:
    if call.opset < 10:
        axes = call.options.get("axes", range(len(call.options["starts"])))
        return operator, replace(call, options=call.options | {"axes": [_up(axis) for axis in axes]})
    given, starts = call.constant(3), call.constant(1)
    if starts is None:
        raise UnreadError("its starts are no constant")
    axes = range(starts.size) if given is None else listed(given)
    constants = [*call.constants, None, None, None][:5]
    constants[3] = np.array([_up(axis) for axis in axes], np.int64)
    return operator, replace(call, constants=constants)


def _pad(operator: str, call: OperatorCall) -> Shifted:
    axes, pads = call.constant(3), call.number(1, "pads")
    if axes is not None:
        constants = [*call.constants[:3], np.array([_up(axis) for axis in listed(axes)], np.int64)]
        return operator, replace(call, constants=constants)
    count = len(pads) // 2
    return operator, _with(call, 1, "pads", [0, *pads[:count], 0, *pads[count:]])


_SHIFTED: dict[str, Callable[[str, OperatorCall], Shifted]] = {
    **dict.fromkeys(_ALONG, _along), **dict.fromkeys(("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"), _axes),
    "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Slice": _slice, "Pad": _pad, "Expand": _expand,
}  # fmt: skip
