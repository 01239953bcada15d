"""PyTorch's functions and methods, as torch.fx records them, translated to the layers that do the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from softadv.certify.graph import as_plane
from softadv.certify.layers import Clamp, Mean, Reshape
from softadv.errors import SoftadvError


def is_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.shape, x.shape[0] or the like: numbers that only a reshape may use."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and is_size(node.args[0])
    return _is_method(node, "size") or bool(node.target is getattr and node.args[1] == "shape")


def _is_method(node: fx.Node, name: str) -> bool:
    """Whether a node calls a tensor's method; a module, a parameter or an argument may have the same name."""
    return node.op == "call_method" and node.target == name


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.size()[0] or x.shape[0]."""
    if node.target is operator.getitem:
        return is_size(node) and bool(node.args[1] == 0)
    return _is_method(node, "size") and bool(node.args[1:] == (0,))


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
    moves = (*SELECTIONS, *PERMUTATIONS)
    return node.target in moves or any(node.target in names for names, build in _FUNCTIONS if build in _VIEWS)


# Functions of weights and buffers alone, computed once, before any image.
OF_CONSTANTS: tuple[object, ...] = (
    operator.getitem, "view", "reshape", "unsqueeze", "squeeze", "expand", "flatten", "detach", "to", "float", "double",
    torch.unsqueeze, torch.reshape, torch.flatten, operator.neg,
)  # fmt: skip

# Operations on an activation and a constant.
ARITHMETIC: dict[object, str] = {
    operator.add: "add", torch.add: "add", "add": "add", operator.iadd: "add", operator.sub: "sub", torch.sub: "sub",
    "sub": "sub", operator.mul: "mul", torch.mul: "mul", "mul": "mul", operator.truediv: "div", torch.div: "div",
    "div": "div",
}  # fmt: skip

PERMUTATIONS = (torch.permute, "permute")
SELECTIONS = (operator.getitem, torch.index_select, "index_select")
CONCATENATIONS = (torch.cat, torch.concat)


def concatenated(where: str, node: fx.Node) -> tuple[list[Any], int]:
    """The tensors that a concatenation joins, and along which dimension."""
    named: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
    tensors, dim = named.get("tensors"), named.get("dim", 0)
    if not isinstance(tensors, list | tuple) or not tensors or not isinstance(dim, int):
        raise SoftadvError(f"{where}: its arguments cannot be read")
    return list(tensors), dim


def chosen(where: str, node: fx.Node, channels: int, constants: Mapping[fx.Node, Tensor]) -> Tensor:
    """The channels that x[:, a:b] or an index_select chooses, int64 (K,)."""
    every = torch.arange(channels)
    if node.target is operator.getitem:
        where_to: Any = node.args[1]
        parts = where_to if isinstance(where_to, tuple) else (where_to,)
        if all(isinstance(part, slice) for part in parts) and not any(
            part != slice(None) for at, part in enumerate(parts) if at != 1
        ):
            return every[parts[1]] if len(parts) > 1 else every
    elif len(node.args) == 3 and node.args[1] == 1 and node.args[2] in constants:
        found = every[constants[node.args[2]].cpu()]  # type: ignore[index]
        if len(found.unique()) == len(found):
            return found
    raise SoftadvError(f"{where}: only a choice of channels is supported, x[:, a:b], each at most once")


def permutation(where: str, node: fx.Node, rank: int) -> tuple[int, ...]:
    """The order of an image's dimensions, without the batch, counted from 0."""
    given: Any = node.args[1] if len(node.args) == 2 else node.args[1:]
    axes = tuple(given) if isinstance(given, tuple | list) else (given,)
    if node.kwargs or sorted(axes) != list(range(rank + 1)) or axes[0] != 0:
        raise SoftadvError(f"{where}: moves the batch, or has another number of dimensions")
    return tuple(axis - 1 for axis in axes[1:])


def _named(node: fx.Node, *names: str, **defaults: Any) -> dict[str, Any]:
    """A function's arguments by name, without the activation."""
    if len(node.args) > len(names) + 1:
        raise TypeError(f"{len(node.args)} arguments")
    found = defaults | dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    if set(found) - set(names) or any(isinstance(value, fx.Node) for value in found.values()):
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


def _as_flatten(where: str, node: fx.Node) -> nn.Module:
    dimensions: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return nn.Flatten(**({"start_dim": 0, "end_dim": -1} | dimensions))


def _as_reshape(where: str, node: fx.Node) -> nn.Module:
    sizes = node.args[1:] if len(node.args) != 2 else node.args[1]
    first, second, *more = (*sizes, None, None) if isinstance(sizes, tuple | list) else (None, None)
    if isinstance(sizes, tuple | list) and len(sizes) == 4 and all(isinstance(size, int) for size in sizes[1:]):
        if node.kwargs or not (first == -1 or (isinstance(first, fx.Node) and _is_batch_size(first))):
            raise SoftadvError(f"{where}: only a reshape that keeps the batch is supported")
        return nn.Unflatten(1, tuple(sizes[1:]))  # type: ignore[arg-type]
    batch = isinstance(first, fx.Node) and _is_batch_size(first)
    features = isinstance(second, int) and second > 0
    if node.kwargs or any(more) or not ((batch and (second == -1 or features)) or (first == -1 and features)):
        raise SoftadvError(f"{where}: only a reshape to (batch, -1) is supported, as torch.flatten(x, 1)")
    return Reshape(None if second == -1 else second)


def _as_max_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.MaxPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_average_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.AvgPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_adaptive_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.AdaptiveAvgPool2d(_named(node, "output_size")["output_size"])


def _as_mean(where: str, node: fx.Node) -> nn.Module:
    named = _named(node, "dim", "keepdim", keepdim=False)
    dims = named["dim"]
    if not isinstance(dims, list | tuple) or sorted(dim % 4 for dim in dims) != [2, 3]:
        raise SoftadvError(f"{where}: only the mean over height and width is supported, dim=(2, 3)")
    return Mean() if named["keepdim"] else nn.Sequential(Mean(), nn.Flatten())


def _as_dropout(where: str, node: fx.Node) -> nn.Module:
    if _named(node, "p", "training", "inplace", training=True)["training"] is not False:
        raise SoftadvError(f"{where}: drops activations at random; give it training=self.training")
    return nn.Identity()


def _as_pad(where: str, node: fx.Node) -> nn.Module:
    named = _named(node, "pad", "mode", "value", mode="constant", value=None)
    pad = named["pad"]
    if named["mode"] != "constant" or named["value"] not in (None, 0) or len(pad) not in (2, 4):
        raise SoftadvError(f"{where}: only zeros around height and width are supported")
    return nn.ZeroPad2d((*pad, 0, 0)[:4])


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
    ((torch.flatten, "flatten"), _as_flatten),
    (("view", "reshape", torch.reshape), _as_reshape),
    ((F.max_pool2d, torch.max_pool2d), _as_max_pool),
    ((F.avg_pool2d,), _as_average_pool),
    ((F.adaptive_avg_pool2d,), _as_adaptive_pool),
    ((torch.mean, "mean"), _as_mean),
    ((F.dropout, F.dropout2d), _as_dropout),
    ((F.pad,), _as_pad),
]
_VIEWS = (_as_flatten, _as_reshape, _as_dropout)


def constant_value(node: fx.Node, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """The value of a node of OF_CONSTANTS."""
    if node.op == "call_method":
        found = getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
    else:
        found = node.target(*arguments, **keywords)  # type: ignore[operator]
    if not isinstance(found, Tensor):
        raise TypeError("it is no tensor")
    return found


def constant_plane(
    where: str, value: object, dims: tuple[int, ...], constants: Mapping[fx.Node, Tensor], dtype: torch.dtype
) -> Tensor:
    """A number or a constant that is combined with an activation of shape dims: float64, broadcasts to (C, H, W)."""
    found = constants.get(value) if isinstance(value, fx.Node) else value
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = torch.tensor(float(found), dtype=torch.float64)
    elif not isinstance(found, Tensor):
        raise SoftadvError(f"{where}: its other value is neither an activation, nor a weight, nor a number")
    elif found.ndim and found.is_floating_point() and found.dtype != dtype:
        raise SoftadvError(f"{where}: its constant is of {found.dtype} beside {dtype}")
    if found.numel() == 1:
        return found.double().reshape(())
    shape = tuple(found.shape[1:]) if found.ndim == len(dims) + 1 and len(found) == 1 else tuple(found.shape)
    try:
        plane = found.double().reshape(shape).expand(dims)
    except RuntimeError:
        raise SoftadvError(f"{where}: a constant of shape {tuple(found.shape)} beside shape {dims}") from None
    return plane.reshape(as_plane(dims))
