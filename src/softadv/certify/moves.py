"""PyTorch's functions that move numbers: what they do to the numbers of neurons says what they do to any."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.certify.graph import as_plane
from softadv.certify.operators import Flatten, Gather, Step
from softadv.certify.selections import selected
from softadv.errors import SoftadvError

MOVES = (
    operator.getitem, "view", "reshape", torch.reshape, "flatten", torch.flatten, "unflatten", torch.unflatten,
    "squeeze", torch.squeeze, "unsqueeze", torch.unsqueeze, "permute", torch.permute, "transpose", torch.transpose,
    "swapaxes", torch.swapaxes, "movedim", torch.movedim, "index_select", torch.index_select, "narrow", torch.narrow,
    "select", torch.select, "flip", torch.flip, "roll", torch.roll, "expand", "repeat", "tile", torch.tile,
    "repeat_interleave", torch.repeat_interleave, "split", torch.split, "chunk", torch.chunk, "unbind", torch.unbind,
    "contiguous", F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle,
)  # fmt: skip
SEVERAL = ("split", torch.split, "chunk", torch.chunk, "unbind", torch.unbind)  # make several tensors
MOVING_LAYERS = (nn.Flatten, nn.Unflatten)

# What has more numbers, or makes more of one input, is refused.
_MOST = 2**22
# A slice that ends here or behind leaves the whole batch, whatever its size.
_END = 2**31 - 1

Dims = tuple[int, ...]


def moved(where: str, move: Callable[..., Any], *inputs: Dims) -> list[tuple[Tensor, Dims]]:
    """What a function makes of activations of these shapes, without the batch: the index and shape of each output.

    move: of tensors (N, *dims), whose numbers it moves. An index is int64, -1 for zero; neurons of all inputs are
    counted on, one input after the other. Raises SoftadvError where it moves numbers from one input of a batch to
    another, needs a batch of a certain size, or makes something else of one size than of another.
    """
    total = sum(map(prod, inputs))
    if total > _MOST:
        raise SoftadvError(f"{where}: moves {total:,} numbers; {_MOST:,} are moved")
    found: list[tuple[Tensor, Dims]] = []
    try:
        for count in (3, 2, 1):  # a literal size of the batch fits one of them at most; of 1, squeeze() takes it away
            # Counted from 1, so that a 0 is a number that no input has.
            numbers = torch.arange(1, count * total + 1, dtype=torch.float64).reshape(count, total)
            parts = numbers.split([prod(dims) for dims in inputs], 1)
            made = move(*(part.reshape(count, *dims) for part, dims in zip(parts, inputs, strict=True)))
            before, found = (
                found,
                [_index(output, count, total) for output in (made if isinstance(made, Sequence) else [made])],
            )
            if before and not _alike(before, found):
                raise ValueError("it depends on the size of the batch")
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise SoftadvError(
            f"{where}: cannot be read; the batch must stay as it is ({error})".replace("\n", " ")
        ) from error
    return found


def check_batch(target: Any, x: Tensor, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Raise ValueError where a function's arguments cut or shift the batch of x (N, *dims).

    `moved` tries small batches; there x[:100] or a roll by 6 changes nothing.
    """

    def given(at: int, name: str, default: Any) -> Any:
        return arguments[at] if len(arguments) > at else keywords.get(name, default)

    match getattr(target, "__name__", target):
        case "getitem":
            cuts = _cuts_batch(arguments[0], x)
        case "roll":
            dims = given(1, "dims", ())
            dims = dims if isinstance(dims, Sequence) else [dims]
            cuts = not dims or any(dim % x.ndim == 0 for dim in dims)
        case "split" | "chunk":
            cuts = given(1, "dim", 0) % x.ndim == 0
        case "pad":
            pad = given(0, "pad", ())
            cuts = len(pad) == 2 * x.ndim and any(pad[-2:])
        case _:
            cuts = False
    if cuts:
        raise ValueError("it cuts or shifts the batch")


def _cuts_batch(index: Any, x: Tensor) -> bool:
    """Whether an index takes a slice of the batch. Whatever else it may do to the batch, two sizes of it show."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if parts and parts[0] is ...:
        taken = sum(part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else 1
                    for part in parts[1:] if part is not None)  # fmt: skip
        parts = parts[1:] if taken == x.ndim else []
    if not parts or not isinstance(parts[0], slice):
        return False
    first = parts[0]
    whole = first.stop is None or first.stop >= _END or first.stop == len(x)
    return bool(first.start or first.step not in (None, 1) or not whole)


def _index(output: Any, count: int, total: int) -> tuple[Tensor, Dims]:
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != count:
        raise ValueError(f"it changes a batch of {count}")
    dims = tuple(output.shape[1:])
    if not 0 < prod(dims) <= _MOST:
        raise ValueError(f"it makes {prod(dims):,} numbers of one input")
    rows = output.reshape(count, -1)
    first = torch.where(rows == 0, 0, rows - total * torch.arange(count)[:, None])
    if not (first == first[0]).all() or not ((first[0] >= 0) & (first[0] <= total)).all():
        raise ValueError("it mixes the inputs of a batch")
    return first[0].long() - 1, dims


def _alike(left: list[tuple[Tensor, Dims]], right: list[tuple[Tensor, Dims]]) -> bool:
    return len(left) == len(right) and all(
        one[1] == other[1] and torch.equal(one[0], other[0]) for one, other in zip(left, right, strict=True)
    )


def composed(step: Gather | Flatten, index: Tensor) -> Tensor:
    """The index that reads from a step's input what another index reads from its output."""
    if isinstance(step, Flatten):
        return index
    before = step.index.to(index.device)
    return torch.where(index < 0, index, before[index.clamp(min=0)])


def move_step(index: Tensor, dims: Dims, new_dims: Dims, *, like: Tensor) -> Step | None:
    """The step that moves an activation's numbers; None where they stay, and the shape with them."""
    shape, out_shape = as_plane(dims), as_plane(new_dims)
    stays = len(index) == prod(shape) and torch.equal(index, torch.arange(len(index)))
    if stays and dims == new_dims:
        return None
    if stays and len(new_dims) == 1:
        return Flatten(shape, out_shape)
    if len(dims) == 3 and dims[1:] == new_dims[1:] and bool((index >= 0).all()):
        pixels = shape[1] * shape[2]
        channels = index.reshape(-1, pixels)[:, 0] // pixels
        whole = channels[:, None] * pixels + torch.arange(pixels)
        if torch.equal(whole.flatten(), index) and len(channels.unique()) == len(channels):
            return selected(shape, channels, like=like)
    return Gather(index.to(like.device), shape, out_shape)
