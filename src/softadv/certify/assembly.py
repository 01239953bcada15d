"""A network's steps as a reader puts them together, with the shape that PyTorch gives each activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from softadv.certify.graph import Node, as_plane
from softadv.certify.layers import Clamp, Mean, arithmetic, layer_steps
from softadv.certify.linear_forms import PlaneShape
from softadv.certify.moves import Dims, composed, move_step, moved
from softadv.certify.operators import Add, Copy, Dense, Flatten, Gather, LinearOperator, Step
from softadv.certify.selections import placed
from softadv.errors import SoftadvError


@dataclass(frozen=True)
class _Permuted:
    """An activation, and which of its neurons each one is in the order that it was put into."""

    entering: int
    index: Tensor


class Assembly:
    """The steps so far; activation 0 is the input.

    dims: the shape of each activation, without the batch; the steps keep it as a plane (graph.as_plane). like: a
    tensor of the steps' floating-point type and device.
    """

    def __init__(self, dims: Dims, like: Tensor) -> None:
        self.nodes: list[Node] = []
        self.dims, self.like = [dims], like

    def append(self, step: Step, inputs: tuple[int, ...], where: str, *, dims: Dims | None = None) -> int:
        """Add a step; returns the activation that it makes. dims: its shape, where it is another than its plane."""
        self.nodes.append(Node(step, inputs, where))
        of_vector = isinstance(step, LinearOperator) and len(self.dims[inputs[0]]) == 1
        if of_vector or isinstance(step, Flatten | Dense):
            self.dims.append(step.out_shape[:1])
        else:
            same = self.dims[inputs[0]] if step.out_shape == step.in_shape else step.out_shape
            self.dims.append(dims or same)
        return len(self.nodes)

    def append_layer(self, layer: nn.Module, entering: int, where: str) -> int:
        """The steps of a layer that PyTorch has, or that was registered."""
        before = self._permuted(entering) if type(layer) in _ELEMENTWISE else None
        if before is not None:  # in the order that was before, so that permutations meet and cancel
            made = self.append_layer(layer, before.entering, where)
            return made if made == before.entering else self._moved(where, made, before.index, self.dims[entering])
        for step in layer_steps(where, layer, as_plane(self.dims[entering]), like=self.like):
            entering = self.append(step, (entering,), where)
        return entering

    def move(self, where: str, function: Callable[..., Any], entering: int) -> list[int]:
        """What a function that moves numbers makes of an activation, one or several."""
        return [
            self._moved(where, entering, index, dims) for index, dims in moved(where, function, self.dims[entering])
        ]

    def _permuted(self, at: int) -> _Permuted | None:
        """What an activation was before its neurons were put into another order; None where they were not."""
        step = self.nodes[at - 1].step if at else None
        if not isinstance(step, Gather) or step.repeats or len(step.index) != prod(step.in_shape):
            return None
        return None if (step.index < 0).any() else _Permuted(self.nodes[at - 1].inputs[0], step.index.cpu())

    def one(self, where: str, function: Callable[..., Any], entering: int) -> int:
        """The same where it makes one."""
        (found,) = self.move(where, function, entering)
        return found

    def _moved(self, where: str, entering: int, index: Tensor, dims: Dims) -> int:
        # What was moved before is moved once: permutations that undo each other leave nothing.
        while entering and isinstance(self.nodes[entering - 1].step, Gather | Flatten):
            node = self.nodes[entering - 1]
            index, entering = composed(node.step, index), node.inputs[0]  # type: ignore[arg-type]
        step = move_step(index, self.dims[entering], dims, like=self.like)
        return entering if step is None else self.append(step, (entering,), where, dims=dims)

    def expanded(self, where: str, entering: int, dims: Dims) -> int:
        """An activation repeated along its dimensions to a larger shape."""
        if self.dims[entering] == dims:
            return entering
        own = (1,) * (len(dims) - len(self.dims[entering])) + self.dims[entering]
        return self.one(where, lambda x: x.reshape(-1, *own).expand(-1, *dims), entering)

    def add(self, where: str, left: int, right: int, *, sign: int = 1) -> int:
        """left + right, or left - right where the sign is -1."""
        shapes = [self.dims[left], self.dims[right]]
        try:
            dims = tuple(torch.broadcast_shapes(*shapes))
        except RuntimeError:
            raise SoftadvError(f"{where}: adds shapes {shapes[0]} and {shapes[1]}") from None
        if len(shapes[0]) != len(shapes[1]):
            raise SoftadvError(f"{where}: adds shapes {shapes[0]} and {shapes[1]}")  # one would meet the batch
        left, right = (self.expanded(where, at, dims) for at in (left, right))
        if sign < 0:
            zero = torch.zeros((), dtype=torch.float64, device=self.like.device)
            right = self.compute(where, right, factor=zero - 1, divides=False, shift=zero, mean=zero)
        first, second = self._permuted(left), self._permuted(right)
        alike = first is not None and second is not None and torch.equal(first.index, second.index)
        if first and second and alike and self.dims[first.entering] == self.dims[second.entering]:
            return self._moved(where, self.add(where, first.entering, second.entering), first.index, dims)
        shape = as_plane(dims)
        return self.append(Add(shape, shape), (left, right), where, dims=dims)

    def compute(self, where: str, entering: int, *, factor: Tensor, divides: bool, shift: Tensor, mean: Tensor) -> int:
        """(x - mean) * factor + shift, or / factor; float64, and broadcast to the activation's plane."""
        dims = self.dims[entering]
        before = self._permuted(entering)
        if before is not None:
            shape, own = as_plane(dims), as_plane(self.dims[before.entering])
            values = [
                torch.empty(prod(shape), dtype=value.dtype, device=value.device)
                .index_copy_(0, before.index.to(value.device), value.expand(shape).reshape(-1))
                .reshape(own)
                for value in (factor, shift, mean)
            ]
            found = self.compute(
                where, before.entering, factor=values[0], divides=divides, shift=values[1], mean=values[2]
            )
            return self._moved(where, found, before.index, dims)
        steps = arithmetic(
            where, as_plane(dims), self.like, factor=factor, divides=divides, shift=shift, mean=mean
        )  # fmt: skip
        for step in steps:
            made = dims if step.out_shape == as_plane(dims) else step.out_shape[:1]  # it may be taken for a vector
            entering = self.append(step, (entering,), where, dims=made)
        return entering

    def join(self, where: str, function: Callable[..., Tensor], parts: list[int], *, channels: bool) -> int:
        """Activations side by side. channels: along the first dimension of each."""
        ((index, dims),) = moved(where, function, *(self.dims[part] for part in parts))
        first, found = 0, -1
        for part in parts:
            own = self.dims[part]
            if channels:
                before = first // prod(dims[1:])
                step: Step = placed(as_plane(own), first=before, channels=dims[0], like=self.like)
            else:
                mine = (index >= first) & (index < first + prod(own))
                place = torch.where(mine, index - first, -1).to(self.like.device)
                step = Gather(place, as_plane(own), as_plane(dims))
            at = self.append(step, (part,), where, dims=dims)
            found = at if found < 0 else self.add(where, found, at)
            first += prod(own)
        return found

    def linear(self, where: str, layer: nn.Linear, entering: int) -> int:
        """A matrix product over the last dimension."""
        dims = self.dims[entering]
        if len(dims) == 1:
            return self.append_layer(layer, entering, where)
        outputs, features = layer.weight.shape
        if dims[-1] != features:
            raise SoftadvError(f"{where}: its input is not a vector but has shape {dims}; is a Flatten missing?")
        rest = prod(dims[:-1])
        first = self.one(where, lambda x: x.reshape(-1, rest, features, 1).transpose(1, 2), entering)
        conv = nn.Conv2d(features, outputs, 1, device="meta")
        conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
        conv.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        made = self.append_layer(conv.eval(), first, where)
        return self.one(where, lambda x: x.transpose(1, 2).reshape(-1, *dims[:-1], outputs), made)

    def mean(self, where: str, entering: int, over: list[int], *, keep: bool) -> int:
        """The mean over dimensions, counted from 1; keep: they stay, with the size 1."""
        dims = self.dims[entering]
        if len(dims) == 3 and over == [2, 3]:
            made = self.append_layer(Mean(), entering, where)
            return made if keep else self.append_layer(nn.Flatten(), made, where)
        others = [at for at in range(1, len(dims) + 1) if at not in over]
        sizes = prod(dims[at - 1] for at in others), prod(dims[at - 1] for at in over)
        first = self.one(where, lambda x: x.permute(0, *others, *over).reshape(-1, *sizes, 1), entering)
        made = self.append_layer(Mean(), first, where)
        after = tuple(1 if at in over else size for at, size in enumerate(dims, 1) if keep or at not in over)
        return self.one(where, lambda x: x.reshape(-1, *after), made)

    def finished(self, output: int, in_shape: PlaneShape) -> list[Node]:
        """The nodes that an activation depends on, with a Copy for each use of one that is used more than once."""
        return _with_copies(_needed(self.nodes[:output]), in_shape)


def _needed(nodes: list[Node]) -> list[Node]:
    """The nodes that the last one depends on."""
    needed = {len(nodes)}
    for at in range(len(nodes), 0, -1):
        if at in needed:
            needed.update(nodes[at - 1].inputs)
    places = {0: 0} | {at: number for number, at in enumerate(sorted(needed - {0}), 1)}
    kept = [node for at, node in enumerate(nodes, 1) if at in needed]
    return [replace(node, inputs=tuple(places[at] for at in node.inputs)) for node in kept]


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


_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, Clamp, nn.Sigmoid, nn.Tanh)
