"""The ONNX operators that only reshape or select, translated to one module per output."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from softadv._onnx.calls import DTYPES, OPERATORS, Function, Modules, OperatorCall, TensorShape, operator
from softadv._onnx.constants import UnreadError, slices


@operator("Identity", "Dropout")
def _identity(call: OperatorCall) -> Modules:
    training = call.constant(2)
    if training is not None and training.any():
        raise UnreadError("drops activations at random")
    if call.outputs != 1:
        raise UnreadError("has more than one output")
    return [nn.Identity()]


@operator("Cast")
def _cast(call: OperatorCall) -> Modules:
    if call.options["to"] != DTYPES[call.dtype]:
        raise UnreadError("casts to another type")
    return [nn.Identity()]


def _reshaped(call: OperatorCall, shape: TensorShape) -> Modules:
    """An activation with another shape, its numbers in the same order."""
    if shape == call.shapes[0]:
        return [nn.Identity()]
    return [nn.Flatten()] if len(shape) == 1 else [Function(lambda x: x.reshape(x.shape[0], *shape))]


@operator("Flatten")
def _flatten(call: OperatorCall) -> Modules:
    if call.options.get("axis", 1) % (len(call.shapes[0]) + 1) != 1:
        raise UnreadError("flattens the batch, too")
    return _reshaped(call, (prod(call.shapes[0]),))


@operator("Reshape")
def _reshape(call: OperatorCall) -> Modules:
    call.refuse(allowzero=0)
    target = call.constant(1)
    if target is None:
        raise UnreadError("its shape is no constant")
    whole = (0, *call.shapes[0])
    sizes = [whole[at] if size == 0 and at else int(size) for at, size in enumerate(target.tolist())]
    rest, features = sizes[1:], prod(call.shapes[0])
    known = prod(size for size in rest if size != -1)
    if sizes[0] not in (-1, 0, 1):
        rest = []
    if rest.count(-1) == 1 and sizes[0] in (0, 1) and features % max(known, 1) == 0:
        rest = [features // known if size == -1 else size for size in rest]
    if min(rest, default=0) < 1 or prod(rest) != features:
        raise UnreadError(f"reshapes (N, {', '.join(map(str, whole[1:]))}) to {target.tolist()}; the batch must stay")
    return _reshaped(call, tuple(rest))


def _squeezed(insert: bool) -> Callable[[OperatorCall], Modules]:
    def build(call: OperatorCall) -> Modules:
        axes, whole = call.number(1, "axes"), [0, *call.shapes[0]]
        rank = len(whole) + (len(axes or ()) if insert else 0)
        if axes is None:
            axes = [at for at, size in enumerate(whole) if size == 1]
        axes = sorted(axis % rank for axis in axes)
        if 0 in axes:
            raise UnreadError("changes the batch's dimension")
        for axis in axes if insert else reversed(axes):
            if insert:
                whole.insert(axis, 1)
            elif whole.pop(axis) != 1:
                raise UnreadError("squeezes a dimension that is not 1")
        return _reshaped(call, tuple(whole[1:]))

    return build


OPERATORS |= {"Squeeze": _squeezed(insert=False), "Unsqueeze": _squeezed(insert=True)}


@operator("Transpose")
def _transpose(call: OperatorCall) -> Modules:
    perm = tuple(call.options["perm"])
    return [Function(lambda x: x.permute(perm))]


@operator("Concat")
def _concat(call: OperatorCall) -> Modules:
    if len(call.shapes) != len(call.constants):
        raise UnreadError("joins constants with activations")
    if call.options["axis"] % (len(call.shapes[0]) + 1) != 1:
        raise UnreadError("joins along another axis than that of channels")
    return [Function(lambda *values: torch.cat(values, 1))]


def _channels(first: int, last: int, step: int = 1) -> nn.Module:
    return Function(lambda x: x[:, first:last:step])


@operator("Slice")
def _slice(call: OperatorCall) -> Modules:
    whole = (1, *call.shapes[0])
    found = [part.indices(size) for part, size in zip(slices(call.constants, call.options, len(whole), call.opset),
                                                      whole, strict=True)]  # fmt: skip
    if any(part != (0, size, 1) for part, size in zip(found[2:], whole[2:], strict=True)) or found[0] != (0, 1, 1):
        raise UnreadError("cuts another axis than that of channels")
    return [_channels(*found[1])]


@operator("Split")
def _split(call: OperatorCall) -> Modules:
    if call.options.get("axis", 0) % (len(call.shapes[0]) + 1) != 1:
        raise UnreadError("splits another axis than that of channels")
    channels = call.shapes[0][0]
    sizes = call.number(1, "split")
    if sizes is None:
        most = -(-channels // call.outputs)
        sizes = [min(most, channels - most * at) for at in range(call.outputs)]
    ends = np.cumsum(sizes).tolist()
    if min(sizes) < 1 or ends[-1] != channels:
        raise UnreadError(f"splits {channels} channels into {sizes}")
    return [_channels(end - size, end) for size, end in zip(sizes, ends, strict=True)]


@operator("Gather")
def _gather(call: OperatorCall) -> Modules:
    which = call.constant(1)
    if which is None or which.ndim != 1 or call.options.get("axis", 0) % (len(call.shapes[0]) + 1) != 1:
        raise UnreadError("is read with a list of channels only")
    index = torch.from_numpy(np.array(which)).long() % call.shapes[0][0]
    if (torch.from_numpy(np.array(which)).long().abs() > call.shapes[0][0]).any():
        raise UnreadError(f"takes channels {which.tolist()} of {call.shapes[0][0]}")
    return [Gathered(index)]


class Gathered(nn.Module):
    """Channels selected by index, each any number of times."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.index)
