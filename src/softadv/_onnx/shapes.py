"""The ONNX operators that only reshape or select, translated to one module per output."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._onnx.calls import DTYPES, OPERATORS, Function, Gathered, Modules, OperatorCall, TensorShape, operator
from softadv._onnx.constants import UnreadError, listed, slices
from softadv._onnx.file import MOST_NUMBERS


@operator("Identity", "Dropout")
def _identity(call: OperatorCall) -> Modules:
    training = call.constant(2)
    if training is not None and training.any():
        raise UnreadError("drops activations at random")
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
    axis, rank = call.options.get("axis", 1), len(call.shapes[0]) + 1
    axis += rank if axis < 0 else 0
    if not 1 <= axis <= rank or prod(call.shapes[0][: axis - 1]) != 1:
        raise UnreadError("flattens the batch, too")
    return _reshaped(call, (prod(call.shapes[0]),))


@operator("Reshape")
def _reshape(call: OperatorCall) -> Modules:
    target = call.constant(1)
    if target is None:
        raise UnreadError("its shape is no constant")
    if call.options.get("allowzero", 0) and not target.all():
        raise UnreadError("makes a dimension of no numbers")
    whole = (0, *call.shapes[0])
    sizes = [whole[at] if size == 0 and at else int(size) for at, size in enumerate(listed(target))]
    rest, features = sizes[1:], prod(call.shapes[0])
    known = prod(size for size in rest if size != -1)
    if sizes[0] not in (-1, 0, 1) or (sizes[0] == 1 and call.batch not in (None, 1)):
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
            if not call.unbatched and call.batch in (None, 1):
                raise UnreadError("names no axes, so a batch of one would be squeezed, too")
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
    rank = len(call.shapes[0]) + 1
    perm = tuple(call.options.get("perm", range(rank)[::-1]))
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise UnreadError("moves the batch, or has another number of dimensions")
    return [Function(lambda x: x.permute(perm))]


def _axis(call: OperatorCall, default: int | None = None) -> int:
    """The dimension that an operator works along, counted from the batch's, which it may not be."""
    rank = len(call.shapes[0]) + 1
    axis = call.options.get("axis", default)
    if axis is None or not -rank <= axis < rank:
        raise UnreadError(f"has axis {axis} beside {rank} dimensions")
    if axis % rank == 0:
        raise UnreadError("works along the batch's dimension, which must stay")
    return int(axis % rank)


@operator("Concat")
def _concat(call: OperatorCall) -> Modules:
    axis = _axis(call)
    if len(call.shapes) == len(call.constants):
        return [Function(lambda *values: torch.cat(values, axis))]
    return [Joined(call, axis)]


class Joined(nn.Module):
    """Activations and constants side by side: zeros are put around each activation, and the constants added."""

    constant: Tensor

    def __init__(self, call: OperatorCall, axis: int) -> None:
        super().__init__()
        shapes = iter(call.shapes)
        own: list[tuple[int, ...]] = []
        values: list[Tensor | None] = []
        for at, given in enumerate(call.constants):
            values.append(None if given is None else call.weight(at))
            known = values[-1]
            if known is not None and (known.ndim != len(call.shapes[0]) + 1 or len(known) != 1):
                raise UnreadError("joins a constant with a batch of its own")
            own.append(next(shapes) if known is None else tuple(known.shape[1:]))
        if sum(map(prod, own)) > MOST_NUMBERS:
            raise UnreadError(f"makes an activation of {sum(map(prod, own)):,} numbers")
        parts = [torch.zeros(1, *shape, dtype=call.dtype) if value is None else value
                 for shape, value in zip(own, values, strict=True)]  # fmt: skip
        self.register_buffer("constant", torch.cat(parts, axis))
        ends = np.cumsum([shape[axis - 1] for shape in own]).tolist()
        behind = len(own[0]) - axis
        self._pads = [
            (0, 0) * behind + (end - shape[axis - 1], ends[-1] - end)
            for end, shape, value in zip(ends, own, values, strict=True) if value is None
        ]  # fmt: skip

    def forward(self, *values: Tensor) -> Tensor:
        whole = self.constant
        for value, pad in zip(values, self._pads, strict=True):
            whole = F.pad(value, pad) + whole
        return whole


def _cut(axis: int, first: int, last: int) -> nn.Module:
    return Function(lambda x: x.narrow(axis, first, last - first))


@operator("Slice")
def _slice(call: OperatorCall) -> Modules:
    whole = (1, *call.shapes[0])
    cuts = slices(call.constants, call.options, len(whole), call.opset)
    found = [range(*part.indices(size)) for part, size in zip(cuts, whole, strict=True)]
    last = _ALL if cuts[0].stop is None else cuts[0].stop
    if (cuts[0] != slice(None) and (cuts[0].start, cuts[0].step) != (0, 1)) or last < _ALL:
        raise UnreadError("cuts the batch, which must stay")
    if not all(found[1:]):
        raise UnreadError("leaves nothing")
    changed = [(axis, part) for axis, part in enumerate(found[1:], 1) if part != range(whole[axis])]
    if all(part.step == 1 for _, part in changed):
        parts = [_cut(axis, part.start, part.stop) for axis, part in changed]
    else:
        parts = [Gathered(axis, torch.arange(part.start, part.stop, part.step)) for axis, part in changed]
    return [nn.Sequential(*parts) if parts else nn.Identity()]


@operator("Expand")
def _expand(call: OperatorCall) -> Modules:
    target = call.constant(1)
    if target is None:
        raise UnreadError("its shape is no constant")
    rank, sizes = len(call.shapes[0]) + 1, listed(target)
    sizes = [1] * (rank - len(sizes)) + sizes
    if len(sizes) > rank or sizes[0] != 1:
        raise UnreadError(f"expands to {sizes}; the batch must stay")
    shape = np.broadcast_shapes(call.shapes[0], tuple(sizes[1:]))
    if prod(shape) > MOST_NUMBERS:
        raise UnreadError(f"makes an activation of {prod(shape):,} numbers")
    return [Function(lambda x: x.expand(-1, *shape))]


# An end that stands for the last one, whatever the batch.
_ALL = 2**31 - 1


@operator("Split")
def _split(call: OperatorCall) -> Modules:
    axis = _axis(call, 0)
    size, parts = call.shapes[0][axis - 1], call.outputs
    if call.options.get("num_outputs", parts) != parts:
        raise UnreadError(f"has {parts} outputs and num_outputs={call.options['num_outputs']}")
    sizes = call.number(1, "split")
    if sizes is None:
        most = -(-size // parts)
        sizes = [min(most, size - most * at) for at in range(parts)]
    ends = np.cumsum(sizes).tolist()
    if min(sizes) < 1 or ends[-1] != size or len(sizes) != call.outputs:
        raise UnreadError(f"splits {size} along dimension {axis} into {sizes}")
    return [_cut(axis, end - part, end) for part, end in zip(sizes, ends, strict=True)]


@operator("Gather")
def _gather(call: OperatorCall) -> Modules:
    which = call.constant(1)
    if which is None or which.dtype.kind not in "iu":
        raise UnreadError("is read where its indices are constants")
    axis, index = _axis(call, 0), np.array(which, np.int64)
    size = call.shapes[0][axis - 1]
    if not index.size or index.min() < -size or index.max() >= size:
        raise UnreadError(f"takes {index.reshape(-1)[:8].tolist()} of {size} along dimension {axis}")
    if index.size * prod(call.shapes[0]) // size > MOST_NUMBERS:
        raise UnreadError(f"makes an activation of {index.size * prod(call.shapes[0]) // size:,} numbers")
    shape = (*call.shapes[0][: axis - 1], *index.shape, *call.shapes[0][axis:])
    picked = Gathered(axis, torch.from_numpy(index.reshape(-1) % size))
    return [picked if index.ndim == 1 else nn.Sequential(picked, Function(lambda x: x.reshape(-1, *shape)))]


@operator("Pad")
def _pad(call: OperatorCall) -> Modules:
    rank = len(call.shapes[0]) + 1
    pads, value = call.number(1, "pads"), call.number(2, "value", 0.0)
    axes = call.number(3, "axes_are_an_input", list(range(rank)))
    before, after = [0] * rank, [0] * rank
    if pads is None or len(pads) != 2 * len(axes):
        raise UnreadError(f"has {0 if pads is None else len(pads)} pads beside {len(axes)} dimensions")
    for axis, first, last in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = first, last
    if before[0] or after[0]:
        raise UnreadError("pads the batch, which must stay")
    mode, sizes = call.options.get("mode", "constant"), call.shapes[0]
    made = [size + first + last for size, first, last in zip(sizes, before[1:], after[1:], strict=True)]
    if min(made) < 1 or prod(made) > MOST_NUMBERS:
        raise UnreadError(f"makes an activation of shape {made}, of {prod(made):,} numbers")
    if mode == "constant":
        number = float(np.asarray(value).reshape(()))
        around = [pad for axis in range(rank - 1, 0, -1) for pad in (before[axis], after[axis])]
        while len(around) > 2 and around[-2:] == [0, 0]:
            del around[-2:]
        return [Function(lambda x: F.pad(x, tuple(around), value=number))]
    if mode not in ("reflect", "edge", "wrap") or min(*before, *after) < 0:
        raise UnreadError(f"pads in the mode {mode}, by {pads}")
    parts: list[nn.Module] = []
    for axis in range(1, rank):
        if before[axis] or after[axis]:
            index = np.pad(np.arange(sizes[axis - 1]), (before[axis], after[axis]), mode)
            parts.append(Gathered(axis, torch.from_numpy(index)))
    return [nn.Sequential(*parts) if parts else nn.Identity()]
