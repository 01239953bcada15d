"""PyTorch's functions and methods, as torch.fx records them, translated to the layers that do the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from softadv.certify.graph import as_plane
from softadv.certify.layers import Clamp
from softadv.certify.moves import MOVES
from softadv.errors import SoftadvError


def is_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.shape, x.shape[0] or the like: numbers that only a reshape may use."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and is_size(node.args[0])
    return _is_method(node, "size") or bool(node.target is getattr and node.args[1] == "shape")


def _is_method(node: fx.Node, name: str) -> bool:
    """Whether a node calls a tensor's method; a module, a parameter or an argument may have the same name."""
    return node.op == "call_method" and node.target == name


def as_layer(where: str, node: fx.Node) -> nn.Module | None:
    """The layer that computes a function of one activation; None where the certifier knows none.

    Raises SoftadvError for arguments that no layer has.
    """
    for names, build in _FUNCTIONS:
        if node.target in names:
            try:
                return build(where, node)
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise SoftadvError(f"{where}: its arguments cannot be read ({error})") from error
    return None


def is_view(node: fx.Node) -> bool:
    """Whether a function's value may share memory with its input's."""
    return node.target in MOVES or any(node.target in names for names, build in _FUNCTIONS if build is _as_dropout)


# Functions of weights and buffers alone, computed once, before any image.
OF_CONSTANTS: tuple[object, ...] = (
    operator.getitem, "view", "reshape", "unsqueeze", "squeeze", "expand", "flatten", "detach", "to", "float", "double",
    torch.unsqueeze, torch.reshape, torch.flatten, operator.neg,
)  # fmt: skip

# Operations on an activation and a constant.
ARITHMETIC: dict[object, str] = {
    operator.add: "add", torch.add: "add", "add": "add", operator.sub: "sub", torch.sub: "sub", "sub": "sub",
    operator.mul: "mul", torch.mul: "mul", "mul": "mul", operator.truediv: "div", torch.div: "div", "div": "div",
    operator.iadd: "add", operator.isub: "sub", operator.imul: "mul", operator.itruediv: "div",
}  # fmt: skip
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)

CONCATENATIONS = (torch.cat, torch.concat)
MEANS = (torch.mean, "mean")


def concatenated(where: str, node: fx.Node) -> tuple[list[Any], int]:
    """The tensors that a concatenation joins, and along which dimension."""
    named: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
    tensors, dim = named.get("tensors"), named.get("dim", 0)
    if (
        not isinstance(tensors, list | tuple)
        or not tensors
        or not isinstance(dim, int)
        or named.keys() - {"tensors", "dim"}
    ):
        raise SoftadvError(f"{where}: its arguments cannot be read")
    return list(tensors), dim


def _named(node: fx.Node, *names: str, **defaults: Any) -> dict[str, Any]:
    """A function's arguments by name, without the activation."""
    if len(node.args) > len(names) + 1:
        raise TypeError(f"{len(node.args)} arguments")
    found = defaults | dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    parts = [part for value in found.values() for part in (value if isinstance(value, list | tuple) else [value])]
    if set(found) - set(names) or any(isinstance(part, fx.Node) for part in parts):
        raise TypeError("an argument that depends on the image, or of another name")
    return found


def _as_relu(where: str, node: fx.Node) -> nn.Module:
    if len(node.args) > 2 or set(node.kwargs) - {"inplace"}:
        raise SoftadvError(f"{where}: takes one activation")
    return nn.ReLU(inplace=bool(node.kwargs.get("inplace", (*node.args, False)[1])))


def _as_leaky_relu(where: str, node: fx.Node) -> nn.Module:
    return nn.LeakyReLU(**_named(node, "negative_slope", "inplace"))


def _as_relu6(where: str, node: fx.Node) -> nn.Module:
    return nn.ReLU6(**_named(node, "inplace"))


def _as_hardtanh(where: str, node: fx.Node) -> nn.Module:
    return nn.Hardtanh(**_named(node, "min_val", "max_val", "inplace"))


def _as_clamp(where: str, node: fx.Node) -> nn.Module:
    ends = _named(node, "min", "max", min=None, max=None)
    if not all(end is None or isinstance(end, int | float) for end in ends.values()):
        raise SoftadvError(f"{where}: its ends must be numbers")
    return Clamp(ends["min"], ends["max"])


def _as_sigmoid(where: str, node: fx.Node) -> nn.Module:
    _named(node)
    return nn.Sigmoid()


def _as_tanh(where: str, node: fx.Node) -> nn.Module:
    _named(node)
    return nn.Tanh()


def _as_softmax(where: str, node: fx.Node) -> nn.Module:
    return nn.Softmax(_named(node, "dim", "_stacklevel", "dtype", dim=None)["dim"])


def _as_log_softmax(where: str, node: fx.Node) -> nn.Module:
    return nn.LogSoftmax(_named(node, "dim", "_stacklevel", "dtype", dim=None)["dim"])


def _as_max_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.MaxPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_average_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.AvgPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_adaptive_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.AdaptiveAvgPool2d(_named(node, "output_size")["output_size"])


def _as_dropout(where: str, node: fx.Node) -> nn.Module:
    if _named(node, "p", "training", "inplace", training=True)["training"] is not False:
        raise SoftadvError(f"{where}: drops activations at random; give it training=self.training")
    return nn.Identity()


def reduced(node: fx.Node, rank: int) -> tuple[list[int], bool]:
    """The dimensions, from 1 to rank, over which a mean is taken, and whether they are kept with the size 1."""
    named = _named(node, "dim", "keepdim", dim=None, keepdim=False)
    dims = named["dim"] if isinstance(named["dim"], list | tuple) else [named["dim"]]
    if not all(isinstance(dim, int) for dim in dims):
        raise ValueError("it is the mean over the batch, too")
    found = sorted({dim % (rank + 1) for dim in dims})
    if not found or found[0] == 0:
        raise ValueError("the batch must stay as it is")
    return found, bool(named["keepdim"])


def padding(where: str, node: fx.Node) -> tuple[tuple[int, ...], str, float]:
    """What F.pad puts around, as its argument says it, in which mode and with which number, which is finite."""
    try:
        named = _named(node, "pad", "mode", "value", mode="constant", value=None)
        pad, mode, value = tuple(map(int, named["pad"])), str(named["mode"]), float(named["value"] or 0)
    except (TypeError, ValueError, KeyError) as error:
        raise SoftadvError(f"{where}: its arguments cannot be read ({error})") from error
    if not isfinite(value):
        raise SoftadvError(f"{where}: pads with {value:g}, not with a finite number; MaxPool2d has padding of its own")
    return pad, mode, value


def is_zero_padding(where: str, node: fx.Node, rank: int) -> bool:
    """Whether a node is F.pad with zeros around the height and width of images."""
    if node.target is not F.pad or rank != 3:
        return False
    pad, mode, value = padding(where, node)
    return mode == "constant" and value == 0 and len(pad) in (2, 4) and min(pad) >= 0


def _as_pad(where: str, node: fx.Node) -> nn.Module:
    return nn.ZeroPad2d((*padding(where, node)[0], 0, 0)[:4])  # type: ignore[arg-type]


_FUNCTIONS: list[tuple[tuple[object, ...], Callable[[str, fx.Node], nn.Module]]] = [
    ((F.relu, torch.relu, "relu"), _as_relu),
    ((F.leaky_relu,), _as_leaky_relu),
    ((F.relu6,), _as_relu6),
    ((F.hardtanh,), _as_hardtanh),
    ((torch.clamp, torch.clip, "clamp", "clip"), _as_clamp),
    ((F.sigmoid, torch.sigmoid, "sigmoid"), _as_sigmoid),
    ((F.tanh, torch.tanh, "tanh"), _as_tanh),
    ((F.softmax, torch.softmax, "softmax"), _as_softmax),
    ((F.log_softmax, torch.log_softmax, "log_softmax"), _as_log_softmax),
    ((F.max_pool2d, torch.max_pool2d), _as_max_pool),
    ((F.avg_pool2d,), _as_average_pool),
    ((F.adaptive_avg_pool2d,), _as_adaptive_pool),
    ((F.dropout, F.dropout2d), _as_dropout),
    ((F.pad,), _as_pad),
]


def constant_value(node: fx.Node, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """The value of a node of OF_CONSTANTS."""
    if node.op == "call_method":
        found = getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
    else:
        found = node.target(*arguments, **keywords)  # type: ignore[operator]
    if not isinstance(found, Tensor):
        raise TypeError("it is no tensor")
    return found


def constant_value_of(where: str, value: object, constants: Mapping[fx.Node, Tensor], dtype: torch.dtype) -> Tensor:
    """A number or a constant beside an activation, float64."""
    found = constants.get(value) if isinstance(value, fx.Node) else value
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = torch.tensor(float(found), dtype=torch.float64)
    elif not isinstance(found, Tensor):
        raise SoftadvError(f"{where}: its other value is neither an activation, nor a weight, nor a number")
    elif found.ndim and found.is_floating_point() and found.dtype != dtype:
        raise SoftadvError(f"{where}: its constant is of {found.dtype} beside {dtype}")
    return found.double()


def broadcast(where: str, value: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, without the batch, of an activation and a constant that meet."""
    own = tuple(value.shape[1:]) if value.ndim == len(dims) + 1 and len(value) == 1 else tuple(value.shape)
    try:
        found = tuple(torch.broadcast_shapes(own, dims))
    except RuntimeError:
        found = ()
    if len(found) != len(dims):
        raise SoftadvError(f"{where}: a constant of shape {tuple(value.shape)} beside shape {dims}")
    return found


def constant_plane(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    """A constant that broadcasts to an activation's shape: it broadcasts to its plane (C, H, W)."""
    if value.numel() == 1:
        return value.reshape(())
    own = tuple(value.shape[1:]) if value.ndim == len(dims) + 1 else tuple(value.shape)
    return value.reshape(own).expand(dims).reshape(as_plane(dims))
