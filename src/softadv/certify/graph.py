"""A network in the form the abstract domains read: a graph of steps, in the order they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

from softadv.certify.ops import Shape, Step

Ending = Literal["softmax", "log_softmax"]


def as_plane(dims: tuple[int, ...]) -> Shape:
    """The shape (C, H, W) that an activation of any shape is kept in; its neurons stay in their order."""
    return (dims[0], dims[1] if len(dims) == 3 else prod(dims[1:]), dims[2] if len(dims) == 3 else 1)


@dataclass(frozen=True)
class Node:
    """A step and the activations it takes.

    inputs: numbers of activations: 0 is the image, k + 1 is what node k makes.
    name: where the step stands in the model, for messages.
    """

    step: Step
    inputs: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Network:
    """Nodes in the order they are computed; the last makes the scores of `classes` classes.

    ending: what the model makes of the scores at last; it keeps their order. axes: where the model begins with a
    permutation of an image's dimensions, that permutation; the nodes see its result.
    """

    nodes: tuple[Node, ...]
    in_shape: Shape
    classes: int
    ending: Ending | None = None
    axes: tuple[int, ...] | None = None

    def as_planes(self, x: Tensor) -> Tensor:
        """Inputs (N, ...) as the model takes them, as the nodes do: (N, C, H, W)."""
        if self.axes is not None:
            x = x.permute(0, *(axis + 1 for axis in self.axes))
        return x.reshape(-1, *self.in_shape)

    @property
    def shapes(self) -> list[Shape]:
        """The shape of each activation, the image first."""
        return [self.in_shape, *(node.step.out_shape for node in self.nodes)]

    @property
    def neurons(self) -> int:
        """The size of all activations together."""
        return sum(prod(shape) for shape in self.shapes)

    def backwards(self, *, start: int) -> Iterator[tuple[int, Node]]:
        """The activations that can lie between an activation and the image, with their nodes, last one first."""
        return ((at, self.nodes[at - 1]) for at in range(start, 0, -1))
