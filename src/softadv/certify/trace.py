"""Reading a PyTorch model: torch.fx traces its operations, and each one becomes a step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module

from softadv._as_built import oddity, peculiarity
from softadv.certify.assembly import Assembly
from softadv.certify.functions import (
    ARITHMETIC,
    CONCATENATIONS,
    IN_PLACE,
    MEANS,
    OF_CONSTANTS,
    as_layer,
    broadcast,
    concatenated,
    constant_plane,
    constant_value,
    constant_value_of,
    is_size,
    is_view,
    is_zero_padding,
    padding,
    reduced,
)
from softadv.certify.graph import FinalActivation, Network, as_plane
from softadv.certify.layers import DROPOUTS, SUPPORTED, is_torchvision_normalize
from softadv.certify.moves import MOVES, MOVING_LAYERS, SEVERAL, check_batch, moved
from softadv.certify.tracing import check_other_modes, trace
from softadv.errors import SoftadvError
from softadv.models import Normalize


def read_network(
    model: nn.Module, dims: tuple[int, ...], *, like: Tensor | None = None, least_outputs: int = 2
) -> Network:
    """Read a module of the operations named in SUPPORTED, as layers or as functions, in any order.

    dims: the shape of one input, without the batch: (C, H, W) of an image, (D,) of a vector. like: a tensor with the
    dtype and the device of the steps; default: the model's first parameter.
    least_outputs: the smallest number of outputs that is accepted; a classifier has at least two.
    Weights are shared with the model where possible. Raises SoftadvError that names the first operation that is not
    supported, has an option that is not supported, or does not fit its input.
    """
    if module._global_forward_hooks or module._global_forward_pre_hooks:
        raise SoftadvError("model: PyTorch has global forward hooks, which may change what it computes")
    if len({parameter.dtype for parameter in model.parameters()}) > 1:
        raise SoftadvError("model: has parameters of several floating-point types")
    for name, layer in model.named_modules():
        reason = oddity(layer)
        if reason is not None:
            raise SoftadvError(f"{_place(name, layer)}: {reason}")
    if type(model) is nn.DataParallel:
        model = model.module
    graph, constants = trace(model)
    reader = _Reader(model, constants, dims, next(model.parameters(), torch.zeros(0)) if like is None else like)
    output = reader.read(graph)
    check_other_modes(model, graph)
    if len(reader.made.dims[output]) != 1:
        shape = reader.made.dims[output]
        raise SoftadvError(f"model: ends in shape {shape}, not in a vector of class scores; is a Flatten missing?")
    (classes,) = reader.made.dims[output]
    if classes < least_outputs:
        raise SoftadvError("model: has one output, classification needs at least two")
    in_shape = as_plane(reader.made.dims[0])
    nodes = tuple(reader.made.finished(output, in_shape))
    return Network(nodes, in_shape, classes, reader.ending, reader.order)


class _Reader:
    """Reads a graph of torch.fx, node by node.

    made: the steps so far. ending: a softmax, which only the last operation may be. own: tensors that the model's code
    makes.
    """

    def __init__(self, model: nn.Module, own: dict[str, Tensor], dims: tuple[int, ...], like: Tensor) -> None:
        self.model, self.own, self.made = model, own, Assembly(dims, like)
        self.ending: FinalActivation | None = None
        self.order: Tensor | None = None
        self._activations: dict[fx.Node, int] = {}
        self._several: dict[fx.Node, list[int]] = {}  # of what makes several at once
        self._constants: dict[fx.Node, Tensor] = {}

    def read(self, graph: fx.Graph) -> int:
        """Read a graph; returns the activation that it returns."""
        for node in graph.nodes:
            if node.op == "placeholder":
                if self._activations:
                    raise SoftadvError(f"model: {type(self.model).__name__} takes more than one input")
                self._activations[node] = 0
            elif node.op == "output":
                if node.args[0] not in self._activations:
                    raise SoftadvError("model: returns something other than one vector of class scores")
                return self._activations[node.args[0]]
            elif not is_size(node):
                self._read(node)
        raise SoftadvError("model: returns nothing")

    def _read(self, node: fx.Node) -> None:
        if node.op == "call_module":
            layer = self.model.get_submodule(str(node.target))
            if len(node.args) > 1 or node.kwargs:
                raise SoftadvError(f"{_place(str(node.target), layer)}: is read where it is given one activation alone")
            self._activations[node] = self._read_layer(node, _place(str(node.target), layer), layer)
            return
        where = f"{getattr(node.target, '__name__', node.target)} ({node.name})"
        if node.op == "get_attr":
            self._constants[node] = self._weight(where, str(node.target))
        elif node.target in OF_CONSTANTS and node.args and node.args[0] in self._constants:
            self._constants[node] = self._of_constants(where, node)
        elif node.target is operator.getitem and node.args[0] in self._several:
            self._activations[node] = self._several[node.args[0]][node.args[1]]  # type: ignore[index]
        elif node.target in ARITHMETIC:
            self._activations[node] = self._arithmetic(node, where)
        elif node.target in CONCATENATIONS:
            self._activations[node] = self._concatenate(node, where)
        elif node.target in MEANS:
            self._activations[node] = self._mean(node, where)
        elif node.target in MOVES and not is_zero_padding(
            where, node, len(self.made.dims[self._input(node, where, 0)])
        ):
            self._move(node, where)
        else:
            same = self._prelu(where, node) if node.target in (F.prelu, torch.prelu, "prelu") else as_layer(where, node)
            if same is None:
                raise SoftadvError(f"{where}: not supported; the certifier reads {SUPPORTED}")
            self._activations[node] = self._read_layer(node, where, same)

    def _read_layer(self, node: fx.Node, where: str, layer: nn.Module) -> int:
        entering = self._input(node, where, 0)
        if getattr(layer, "inplace", False) and type(layer) not in DROPOUTS:  # in eval mode they write nothing
            self._check_inplace(node.args[0], where)
        if type(layer) in _SOFTMAXES:
            self._end(node, where, layer, self.made.dims[entering])
            return entering
        if type(layer) in MOVING_LAYERS:
            return self._moved(node, where, layer, entering)[0]
        dims = self.made.dims[entering]
        if type(layer) is nn.Linear:
            return self.made.linear(where, layer, entering)
        if type(layer) is nn.BatchNorm1d and len(dims) > 2:
            raise SoftadvError(f"{where}: its input is not a vector but has shape {dims}; is a Flatten missing?")
        if len(dims) != 3 and (type(layer) in _OF_IMAGES or is_torchvision_normalize(layer)):
            kind = "is a vector" if len(dims) == 1 else f"has shape {dims}"
            raise SoftadvError(f"{where}: its input {kind}, not an image (C, H, W)")
        return self.made.append_layer(layer, entering, where)

    def _move(self, node: fx.Node, where: str) -> None:
        """Read a function that moves numbers, which may make several activations."""
        entering = self._input(node, where, 0)

        def function(x: Tensor) -> Any:
            if node.target is F.pad:
                pad, mode, _ = padding(where, node)
                check_batch(F.pad, x, (pad,), {})
                return F.pad(x, pad, mode)
            arguments, keywords = fx.map_arg((node.args[1:], dict(node.kwargs)), lambda n: self._told(where, n, len(x)))
            check_batch(node.target, x, arguments, keywords)
            if isinstance(node.target, str):
                return getattr(x, node.target)(*arguments, **keywords)
            return node.target(x, *arguments, **keywords)

        found = self._moved(node, where, function, entering)
        if node.target in SEVERAL:
            self._several[node] = found
            return
        (self._activations[node],) = found
        if node.target is F.pad and padding(where, node)[2]:
            dims, value = self.made.dims[entering], padding(where, node)[2]
            around = F.pad(torch.zeros(1, *dims, dtype=torch.float64), padding(where, node)[0], value=value)
            self._activations[node] = self._shifted(where, found[0], around[0])

    def _moved(self, node: fx.Node, where: str, function: Callable[[Tensor], Any], entering: int) -> list[int]:
        """What a function makes. Where the input goes there alone, it is laid out so from the start, without a step."""
        if entering or self.made.nodes or not _is_alone(node.args[0]):
            return self.made.move(where, function, entering)
        laid_out = moved(where, function, self.made.dims[0])
        index, dims = laid_out[0]
        stays = torch.equal(index, torch.arange(prod(self.made.dims[0])))
        if len(laid_out) > 1 or (index < 0).any() or len(index.unique()) < len(index) or (stays and len(dims) == 1):
            return self.made.move(where, function, entering)
        if not stays:
            self.order = index if self.order is None else self.order[index]
        self.made.dims[0] = dims
        return [0]

    def _told(self, where: str, node: fx.Node, count: int) -> Any:
        """The value of an argument that is no activation: a constant, or a size of an activation of `count` rows."""
        if node in self._constants:
            return self._constants[node].cpu()
        if not is_size(node):
            raise SoftadvError(f"{where}: depends on what is computed")
        if node.target is operator.getitem:
            return self._told(where, node.args[0], count)[node.args[1]]  # type: ignore[arg-type]
        if node.args[0] not in self._activations:
            raise SoftadvError(f"{where}: takes the size of something other than an activation of the network")
        sizes = torch.Size((count, *self.made.dims[self._activations[node.args[0]]]))  # type: ignore[index]
        return sizes[node.args[1]] if node.op == "call_method" and len(node.args) > 1 else sizes  # type: ignore[index]

    def _shifted(self, where: str, entering: int, shift: Tensor) -> int:
        plane = constant_plane(shift, self.made.dims[entering]).to(self.made.like.device)
        zero = plane.new_zeros(())
        return self.made.compute(where, entering, factor=zero + 1, divides=False, shift=plane, mean=zero)

    def _mean(self, node: fx.Node, where: str) -> int:
        entering = self._input(node, where, 0)
        try:
            over, keep = reduced(node, len(self.made.dims[entering]))
        except (TypeError, ValueError) as error:
            raise SoftadvError(f"{where}: its arguments cannot be read ({error})") from error
        return self.made.mean(where, entering, over, keep=keep)

    def _end(self, node: fx.Node, where: str, layer: Any, dims: tuple[int, ...]) -> None:
        if any(user.op != "output" for user in node.users):
            raise SoftadvError(f"{where}: is read as the last operation only; leave it out in between")
        if len(dims) != 1 or layer.dim not in (1, -1):
            raise SoftadvError(f"{where}: is read over the classes of a vector of scores only, dim=1")
        self.ending = _SOFTMAXES[type(layer)]

    def _arithmetic(self, node: fx.Node, where: str) -> int:
        kind = ARITHMETIC[node.target]
        if len(node.args) != 2 or node.kwargs:
            raise SoftadvError(f"{where}: only a {kind} of two values is supported, without further arguments")
        left, right = node.args
        if node.target in IN_PLACE:
            self._check_inplace(left, where)
        if left in self._activations and right in self._activations:
            if kind not in ("add", "sub"):
                raise SoftadvError(f"{where}: of two activations only the sum and the difference are supported")
            sign = 1 if kind == "add" else -1
            return self.made.add(where, self._input(node, where, 0), self._input(node, where, 1), sign=sign)
        first = left in self._activations
        if not first and right not in self._activations:
            raise SoftadvError(f"{where}: its input is not an activation of the network")
        entering = self._input(node, where, 0 if first else 1)
        if not first and kind == "div":
            raise SoftadvError(f"{where}: dividing by an activation is not supported")
        like = self.made.like
        value = constant_value_of(where, right if first else left, self._constants, like.dtype)
        entering = self.made.expanded(where, entering, broadcast(where, value, self.made.dims[entering]))
        constant = constant_plane(value, self.made.dims[entering]).to(like.device)
        one, zero = constant.new_ones(()), constant.new_zeros(())
        return self.made.compute(
            where, entering, divides=kind == "div",
            factor=constant if kind in ("mul", "div") else (-one if not first and kind == "sub" else one),
            shift=constant if kind == "add" or (kind == "sub" and not first) else zero,
            mean=constant if kind == "sub" and first else zero,
        )  # fmt: skip

    def _concatenate(self, node: fx.Node, where: str) -> int:
        tensors, dim = concatenated(where, node)
        if not all(tensor in self._activations for tensor in tensors):
            raise SoftadvError(f"{where}: joins something other than activations of the network")
        parts = [self._activations[tensor] for tensor in tensors]
        channels = dim % (len(self.made.dims[parts[0]]) + 1) == 1
        return self.made.join(where, lambda *values: torch.cat(values, dim), parts, channels=channels)

    def _prelu(self, where: str, node: fx.Node) -> nn.Module:
        weight = self._constants.get(node.args[1]) if len(node.args) == 2 else None  # type: ignore[arg-type]
        if weight is None or weight.ndim != 1:
            raise SoftadvError(f"{where}: its slopes are no weights of the model")
        layer = nn.PReLU(len(weight), dtype=weight.dtype, device=weight.device)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer

    def _weight(self, where: str, name: str) -> Tensor:
        if name in self.own:
            return self.own[name]
        owner, _, attribute = name.rpartition(".")
        value = getattr(self.model.get_submodule(owner), attribute, None)
        reason = peculiarity(value) if isinstance(value, Tensor) else "is no tensor"
        if reason is not None or not isinstance(value, Tensor):
            raise SoftadvError(f"{where}: {name} {reason}")
        return value.detach()

    def _of_constants(self, where: str, node: fx.Node) -> Tensor:
        try:
            arguments, keywords = fx.map_arg((node.args, dict(node.kwargs)), self._constants.__getitem__)
            return constant_value(node, arguments, keywords)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise SoftadvError(f"{where}: its arguments cannot be read ({error})") from error

    def _input(self, node: fx.Node, where: str, at: int) -> int:
        argument = node.args[at] if len(node.args) > at else None
        if not isinstance(argument, fx.Node) or argument not in self._activations:
            raise SoftadvError(f"{where}: its input is not an activation of the network")
        return self._activations[argument]

    def _check_inplace(self, argument: Any, where: str) -> None:
        """Refuse in-place operations on values that are used again: the trace would not show the change."""
        while len(_uses(argument)) == 1 and argument.op != "placeholder" and _is_view(self.model, argument):
            argument = argument.args[0]
        if len(_uses(argument)) > 1:
            raise SoftadvError(f"{where}: works in place on a value that is used again; give it inplace=False")


def _place(name: str, layer: nn.Module) -> str:
    return f"layer {name} ({type(layer).__name__})" if name else f"model ({type(layer).__name__})"


def _uses(node: fx.Node) -> list[fx.Node]:
    """The operations that use a node's value."""
    return [user for user in node.users if not is_size(user)]


def _is_alone(argument: Any) -> bool:
    """Whether a value comes from the network's input by a chain of operations of which nothing else takes a value."""
    while len(_uses(argument)) == 1:
        if argument.op == "placeholder":
            return True
        argument = argument.args[0]
    return False


def _is_view(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node's value may share memory with its input's."""
    if node.op == "call_module":
        kinds = (*MOVING_LAYERS, nn.Identity, *DROPOUTS)
        return type(model.get_submodule(str(node.target))) in kinds
    return is_view(node)


_OF_IMAGES = (
    nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d, Normalize,
)  # fmt: skip
_SOFTMAXES: dict[type[nn.Module], FinalActivation] = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}
