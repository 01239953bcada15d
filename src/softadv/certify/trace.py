"""Reading a PyTorch model: torch.fx traces its operations, and each one becomes a step."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module

from softadv._as_built import oddity, peculiarity
from softadv.certify.functions import (
    ARITHMETIC,
    CONCATENATIONS,
    OF_CONSTANTS,
    PERMUTATIONS,
    SELECTIONS,
    as_layer,
    chosen,
    concatenated,
    constant_plane,
    constant_value,
    is_size,
    is_view,
    permutation,
)
from softadv.certify.graph import FinalActivation, Network, Node, as_plane
from softadv.certify.layers import SUPPORTED, Mean, arithmetic, is_torchvision_normalize, layer_steps
from softadv.certify.linear_forms import PlaneShape
from softadv.certify.ops import Add, Copy, Dense, Flatten, Step
from softadv.certify.selections import placed, selected
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
    if len(reader.dims[output]) != 1:
        shape = reader.dims[output]
        raise SoftadvError(f"model: ends in shape {shape}, not in a vector of class scores; is a Flatten missing?")
    (classes,) = reader.dims[output]
    if classes < least_outputs:
        raise SoftadvError("model: has one output, classification needs at least two")
    in_shape = as_plane(reader.dims[0])
    nodes = tuple(_with_copies(reader.nodes[:output], in_shape))
    return Network(nodes, in_shape, classes, reader.ending, reader.axes)


def _with_copies(nodes: list[Node], in_shape: PlaneShape) -> list[Node]:
    """The same nodes, with a Copy for each use of an activation that is used more than once."""
    uses = Counter(at for node in nodes for at in node.inputs)
    found: list[Node] = []
    places: dict[int, list[int]] = {}  # of each old activation, the new ones that are still to be used

    def place(at: int, shape: PlaneShape) -> None:
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

    dims: each activation's shape in PyTorch, without the batch; the steps store it as a plane (as_plane).
    ending: a softmax, which only the last operation may be. made: tensors that the model's code creates.
    """

    def __init__(self, model: nn.Module, made: dict[str, Tensor], dims: tuple[int, ...], like: Tensor) -> None:
        self.model, self.made, self.like = model, made, like
        self.nodes: list[Node] = []
        self.dims = [dims]
        self.ending: FinalActivation | None = None
        self.axes: tuple[int, ...] | None = None
        self._activations: dict[fx.Node, int] = {}
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
            self._activations[node] = self._read_layer(node, _place(str(node.target), layer), layer)
            return
        where = f"{getattr(node.target, '__name__', node.target)} ({node.name})"
        if node.op == "get_attr":
            self._constants[node] = self._weight(where, str(node.target))
        elif node.target in OF_CONSTANTS and node.args and node.args[0] in self._constants:
            self._constants[node] = self._of_constants(where, node)
        elif node.target in ARITHMETIC:
            self._activations[node] = self._arithmetic(node, where)
        elif node.target in SELECTIONS and node.args[0] in self._activations:
            self._activations[node] = self._select(node, where)
        elif node.target in PERMUTATIONS:
            self._activations[node] = self._permute(node, where)
        elif node.target in CONCATENATIONS:
            self._activations[node] = self._concatenate(node, where)
        else:
            same = self._prelu(where, node) if node.target in (F.prelu, torch.prelu, "prelu") else as_layer(where, node)
            if same is None:
                raise SoftadvError(f"{where}: not supported; the certifier reads {SUPPORTED}")
            self._activations[node] = self._read_layer(node, where, same)

    def _read_layer(self, node: fx.Node, where: str, layer: nn.Module) -> int:
        entering = self._input(node, where, 0)
        if getattr(layer, "inplace", False):
            self._check_inplace(node.args[0], where)
        if type(layer) in _SOFTMAXES:
            self._end(node, where, layer, self.dims[entering])
            return entering
        if type(layer) is nn.Unflatten:
            return self._unflatten(node, where, layer, entering)
        for part in layer if type(layer) is nn.Sequential else (layer,):
            entering = self._append_layer(part, entering, where)
        return entering

    def _append_layer(self, layer: nn.Module, entering: int, where: str) -> int:
        dims = self.dims[entering]
        if isinstance(layer, nn.Flatten) and layer.end_dim == -1 and layer.start_dim == -1 and len(dims) == 1:
            return entering
        if type(layer) in (nn.Linear, nn.BatchNorm1d) and len(dims) != 1:
            raise SoftadvError(f"{where}: its input is not a vector but has shape {dims}; is a Flatten missing?")
        if len(dims) != 3 and (type(layer) in _OF_IMAGES or is_torchvision_normalize(layer)):
            kind = "is a vector" if len(dims) == 1 else f"has shape {dims}"
            raise SoftadvError(f"{where}: its input {kind}, not an image (C, H, W)")
        for step in layer_steps(where, layer, as_plane(dims), like=self.like):
            entering = self._append(step, (entering,), where)
        return entering

    def _unflatten(self, node: fx.Node, where: str, layer: nn.Unflatten, entering: int) -> int:
        shape, features = tuple(layer.unflattened_size), prod(self.dims[entering])
        if layer.dim != 1 or prod(shape) != features:
            raise SoftadvError(f"{where}: reshapes {features} numbers of an input to {shape}")
        if self.dims[entering] == shape:
            return entering
        if entering == 0 and self._used_once(node.args[0]):
            self.dims[0] = shape  # the image has another shape from the start
            return entering
        if as_plane(shape) != as_plane(self.dims[entering]):
            raise SoftadvError(f"{where}: only the network's input is reshaped to an image; begin with it")
        plane = as_plane(shape)
        return self._append(Flatten(plane, plane), (entering,), where, dims=shape)

    def _permute(self, node: fx.Node, where: str) -> int:
        entering = self._input(node, where, 0)
        axes = permutation(where, node, len(self.dims[entering]))
        if axes != tuple(range(len(axes))):
            if entering != 0 or self.axes is not None or not self._used_once(node.args[0]):
                raise SoftadvError(f"{where}: only the network's input is permuted; begin with it")
            self.axes, self.dims[0] = axes, tuple(self.dims[0][axis] for axis in axes)
        return entering

    def _select(self, node: fx.Node, where: str) -> int:
        entering = self._input(node, where, 0)
        dims = self.dims[entering]
        index = chosen(where, node, dims[0], self._constants)
        if not len(index):
            raise SoftadvError(f"{where}: chooses no channel")
        if len(index) == dims[0] and torch.equal(index, torch.arange(dims[0])):
            return entering
        step = selected(as_plane(dims), index, like=self.like)
        return self._append(step, (entering,), where, dims=(len(index), *dims[1:]))

    def _used_once(self, argument: Any) -> bool:
        """Whether the network's input is used by one operation only, so that a permutation applies to all of it."""
        return argument.op == "placeholder" and len(_uses(argument)) == 1 and not self.nodes

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
        if node.target is operator.iadd:
            self._check_inplace(left, where)
        if left in self._activations and right in self._activations:
            if kind != "add":
                raise SoftadvError(f"{where}: of two activations only the sum is supported")
            return self._add(self._input(node, where, 0), self._input(node, where, 1), where)
        first = left in self._activations
        if not first and right not in self._activations:
            raise SoftadvError(f"{where}: its input is not an activation of the network")
        entering = self._input(node, where, 0 if first else 1)
        dims = self.dims[entering]
        constant = constant_plane(where, right if first else left, dims, self._constants, self.like.dtype)
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if not first and kind == "div":
            raise SoftadvError(f"{where}: dividing by an activation is not supported")
        factor = constant if kind in ("mul", "div") else (-one if not first and kind == "sub" else one)
        step = arithmetic(
            where, as_plane(dims), self.like, factor=factor.to(self.like.device), divides=kind == "div",
            shift=(constant if kind == "add" or (kind == "sub" and not first) else zero).to(self.like.device),
            mean=(constant if kind == "sub" and first else zero).to(self.like.device),
        )  # fmt: skip
        return self._append(step, (entering,), where)

    def _add(self, left: int, right: int, where: str) -> int:
        if self.dims[left] != self.dims[right]:
            raise SoftadvError(f"{where}: adds shapes {self.dims[left]} and {self.dims[right]}")
        shape = as_plane(self.dims[left])
        return self._append(Add(shape, shape), (left, right), where)

    def _concatenate(self, node: fx.Node, where: str) -> int:
        tensors, dim = concatenated(where, node)
        if not all(tensor in self._activations for tensor in tensors):
            raise SoftadvError(f"{where}: joins something other than activations of the network")
        parts = [self._activations[tensor] for tensor in tensors]
        sizes = [self.dims[part] for part in parts]
        if dim % (len(sizes[0]) + 1) != 1 or len({size[1:] for size in sizes}) > 1:
            raise SoftadvError(f"{where}: joins shapes {sizes} along dimension {dim}; only channels are joined, dim=1")
        channels, first, found = sum(size[0] for size in sizes), 0, -1
        for part, size in zip(parts, sizes, strict=True):
            step = placed(as_plane(size), first=first, channels=channels, like=self.like)
            at = self._append(step, (part,), where, dims=(channels, *size[1:]))
            found = at if found < 0 else self._add(found, at, where)
            first += size[0]
        return found

    def _prelu(self, where: str, node: fx.Node) -> nn.Module:
        weight = self._constants.get(node.args[1]) if len(node.args) == 2 else None  # type: ignore[arg-type]
        if weight is None or weight.ndim != 1:
            raise SoftadvError(f"{where}: its slopes are no weights of the model")
        layer = nn.PReLU(len(weight), dtype=weight.dtype, device=weight.device)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer

    def _weight(self, where: str, name: str) -> Tensor:
        if name in self.made:
            return self.made[name]
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

    def _append(self, step: Step, inputs: tuple[int, ...], where: str, *, dims: tuple[int, ...] | None = None) -> int:
        self.nodes.append(Node(step, inputs, where))
        if isinstance(step, Flatten | Dense):
            self.dims.append(step.out_shape[:1])
        else:
            same = self.dims[inputs[0]] if step.out_shape == step.in_shape else step.out_shape
            self.dims.append(dims or same)
        return len(self.nodes)


def _place(name: str, layer: nn.Module) -> str:
    return f"layer {name} ({type(layer).__name__})" if name else f"model ({type(layer).__name__})"


def _uses(node: fx.Node) -> list[fx.Node]:
    """The operations that use a node's value."""
    return [user for user in node.users if not is_size(user)]


def _is_view(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node's value may share memory with its input's."""
    if node.op == "call_module":
        kinds = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
        return type(model.get_submodule(str(node.target))) in kinds
    return is_view(node)


_OF_IMAGES = (
    nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d, Mean, Normalize,
)  # fmt: skip
_SOFTMAXES: dict[type[nn.Module], FinalActivation] = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}
