"""Reading a PyTorch model: torch.fx traces what it computes, and each operation becomes a step."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module

from softadv._as_built import oddity
from softadv.certify.graph import Network, Node, as_plane
from softadv.certify.layers import SUPPORTED, Reshape, layer_steps
from softadv.certify.ops import Add, Copy, Dense, Flatten, Shape, Step
from softadv.certify.tracing import check_other_modes, trace
from softadv.errors import SoftadvError
from softadv.models import Normalize


def read_network(model: nn.Module, dims: tuple[int, ...], *, like: Tensor | None = None) -> Network:
    """Read a module of the operations named in SUPPORTED, as layers or as functions, in any order.

    dims: the shape of one input, without the batch: (C, H, W) of an image, (D,) of a vector. like: a tensor of the
    floating-point type and device of the steps; default: the model's first parameter.
    Weights are shared with the model where they can be. Raises SoftadvError that names the first operation that is of
    another kind, has an option that is not supported, or does not fit its input.
    """
    if module._global_forward_hooks or module._global_forward_pre_hooks:
        raise SoftadvError("model: PyTorch has global forward hooks, which may change what it computes")
    if len({parameter.dtype for parameter in model.parameters()}) > 1:
        raise SoftadvError("model: has parameters of several floating-point types")
    for name, layer in model.named_modules():
        reason = oddity(layer)
        if reason is not None:
            raise SoftadvError(f"{_place(name, layer)}: {reason}")
    reader = _Reader(model, dims, next(model.parameters(), torch.zeros(0)) if like is None else like)
    graph = trace(model)
    output = reader.read(graph)
    check_other_modes(model, graph)
    if len(reader.dims[output]) != 1:
        shape = reader.dims[output]
        raise SoftadvError(f"model: ends in shape {shape}, not in a vector of class scores; is a Flatten missing?")
    (classes,) = reader.dims[output]
    if classes < 2:
        raise SoftadvError("model: has one output, classification needs at least two")
    in_shape = as_plane(dims)
    return Network(tuple(_with_copies(reader.nodes[:output], in_shape)), in_shape, classes)


def _with_copies(nodes: list[Node], in_shape: Shape) -> list[Node]:
    """The same nodes, with a Copy for each use of an activation that is used more than once."""
    uses = Counter(at for node in nodes for at in node.inputs)
    found: list[Node] = []
    places: dict[int, list[int]] = {}  # of each old activation, the new ones that are still to be used

    def place(at: int, shape: Shape) -> None:
        made, places[at] = len(found), [len(found)]
        if uses[at] > 1:
            found.extend(Node(Copy(uses[at], shape, shape), (made,), "copy") for _ in range(uses[at]))
            places[at] = list(range(made + 1, made + 1 + uses[at]))

    place(0, in_shape)
    for at, node in enumerate(nodes, 1):
        found.append(replace(node, inputs=tuple(places[i].pop() for i in node.inputs)))
        place(at, node.step.out_shape)
    return found


class _Reader:
    """The steps read so far; activation 0 is the image.

    dims: the shape that PyTorch gives each activation, without the batch; the steps keep it as a plane (as_plane).
    """

    def __init__(self, model: nn.Module, dims: tuple[int, ...], like: Tensor) -> None:
        self.model, self.like = model, like
        self.nodes: list[Node] = []
        self.dims = [dims]
        self._activations: dict[fx.Node, int] = {}

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
            elif not _is_size(node):
                self._activations[node] = self._read(node)
        raise SoftadvError("model: returns nothing")

    def _read(self, node: fx.Node) -> int:
        if node.op == "call_module":
            layer = self.model.get_submodule(str(node.target))
            return self._read_layer(node, _place(str(node.target), layer), layer)
        where = f"{getattr(node.target, '__name__', node.target)} ({node.name})"
        if node.op == "get_attr":
            raise SoftadvError(f"{where}: only layers may have weights; the certifier reads {SUPPORTED}")
        for names, build in _FUNCTIONS:
            if node.target in names:
                try:
                    same = build(where, node)
                except (TypeError, ValueError, IndexError) as error:
                    raise SoftadvError(f"{where}: its arguments cannot be read ({error})") from error
                return self._add(node, where) if same is None else self._read_layer(node, where, same)
        raise SoftadvError(f"{where}: not supported; the certifier reads {SUPPORTED}")

    def _read_layer(self, node: fx.Node, where: str, layer: nn.Module) -> int:
        entering = self._input(node, where, 0)
        if getattr(layer, "inplace", False):
            self._check_inplace(node.args[0], where)
        dims = self.dims[entering]
        if isinstance(layer, nn.Flatten) and layer.end_dim == -1 and layer.start_dim == -1 and len(dims) == 1:
            return entering
        if type(layer) is nn.Linear and len(dims) != 1:
            raise SoftadvError(f"{where}: its input is not a vector but has shape {dims}; is a Flatten missing?")
        if len(dims) != 3 and type(layer) in _OF_IMAGES:
            kind = "is a vector" if len(dims) == 1 else f"has shape {dims}"
            raise SoftadvError(f"{where}: its input {kind}, not an image (C, H, W)")
        for step in layer_steps(where, layer, as_plane(dims), like=self.like):
            entering = self._append(step, (entering,), where)
        return entering

    def _add(self, node: fx.Node, where: str) -> int:
        if len(node.args) != 2 or node.kwargs:
            raise SoftadvError(f"{where}: only a + b of two activations is supported")
        left, right = self._input(node, where, 0), self._input(node, where, 1)
        if node.target is operator.iadd:
            self._check_inplace(node.args[0], where)
        if self.dims[left] != self.dims[right]:
            raise SoftadvError(f"{where}: adds shapes {self.dims[left]} and {self.dims[right]}")
        shape = as_plane(self.dims[left])
        return self._append(Add(shape, shape), (left, right), where)

    def _input(self, node: fx.Node, where: str, at: int) -> int:
        argument = node.args[at] if len(node.args) > at else None
        if not isinstance(argument, fx.Node) or argument not in self._activations:
            raise SoftadvError(f"{where}: its input is not an activation of the network")
        return self._activations[argument]

    def _check_inplace(self, argument: Any, where: str) -> None:
        """Refuse to overwrite what is used again: the trace would not show the change."""
        while len(_uses(argument)) == 1 and argument.op != "placeholder" and _is_view(self.model, argument):
            argument = argument.args[0]
        if len(_uses(argument)) > 1:
            raise SoftadvError(f"{where}: works in place on a value that is used again; give it inplace=False")

    def _append(self, step: Step, inputs: tuple[int, ...], where: str) -> int:
        self.nodes.append(Node(step, inputs, where))
        if isinstance(step, Flatten | Dense):
            self.dims.append(step.out_shape[:1])
        else:
            self.dims.append(self.dims[inputs[0]] if step.out_shape == step.in_shape else step.out_shape)
        return len(self.nodes)


def _place(name: str, layer: nn.Module) -> str:
    return f"layer {name} ({type(layer).__name__})" if name else f"model ({type(layer).__name__})"


def _uses(node: fx.Node) -> list[fx.Node]:
    """The operations on a node's values."""
    return [user for user in node.users if not _is_size(user)]


def _is_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.shape, x.shape[0] or the like: numbers that only a reshape may use."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _is_size(node.args[0])
    return _is_method(node, "size") or bool(node.target is getattr and node.args[1] == "shape")


def _is_method(node: fx.Node, name: str) -> bool:
    """Whether a node calls a tensor's method; a module, a parameter or an argument may have the same name."""
    return node.op == "call_method" and node.target == name


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.size()[0] or x.shape[0]."""
    if node.target is operator.getitem:
        return _is_size(node) and bool(node.args[1] == 0)
    return _is_method(node, "size") and bool(node.args[1:] == (0,))


def _is_view(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node's value may share memory with its input's."""
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target))) in (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
    return any(node.target in names for names, build in _FUNCTIONS if build is _as_flatten or build is _as_reshape)


# Functions and methods, as the layers that do the same. None stands for an addition.


def _as_relu(where: str, node: fx.Node) -> nn.Module:
    if len(node.args) > 2 or set(node.kwargs) - {"inplace"}:
        raise SoftadvError(f"{where}: takes one activation")
    return nn.ReLU(inplace=bool(node.kwargs.get("inplace", (*node.args, False)[1])))


def _as_flatten(where: str, node: fx.Node) -> nn.Module:
    dimensions: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return nn.Flatten(**({"start_dim": 0, "end_dim": -1} | dimensions))


def _as_reshape(where: str, node: fx.Node) -> nn.Module:
    sizes = node.args[1:] if len(node.args) != 2 else node.args[1]
    first, second, *more = (*sizes, None, None) if isinstance(sizes, tuple | list) else (None, None)
    batch = isinstance(first, fx.Node) and _is_batch_size(first)
    if node.kwargs or any(more) or not ((batch and second == -1) or (first == -1 and isinstance(second, int))):
        raise SoftadvError(f"{where}: only a reshape to (batch, -1) is supported, as torch.flatten(x, 1)")
    return Reshape(None if second == -1 else second)


def _as_max_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.MaxPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_average_pool(where: str, node: fx.Node) -> nn.Module:
    return nn.AvgPool2d(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _as_sum(where: str, node: fx.Node) -> None:
    return None


_FUNCTIONS: list[tuple[tuple[object, ...], Callable[[str, fx.Node], nn.Module | None]]] = [
    ((F.relu, torch.relu, "relu"), _as_relu),
    ((torch.flatten, "flatten"), _as_flatten),
    (("view", "reshape", torch.reshape), _as_reshape),
    ((F.max_pool2d, torch.max_pool2d), _as_max_pool),
    ((F.avg_pool2d,), _as_average_pool),
    ((operator.add, operator.iadd, torch.add, "add"), _as_sum),
]

_OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, Normalize)
