"""The network as the abstract domains read it: a graph of steps, in the order of computation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

from softadv.certify.linear_forms import PlaneShape
from softadv.certify.operators import Step

FinalActivation = Literal["softmax", "log_softmax"]


def as_plane(dims: tuple[int, ...]) -> PlaneShape:
    """The shape (C, H, W) in which an activation of any shape is stored; its neurons keep their order."""
    return (dims[0], dims[1] if len(dims) == 3 else prod(dims[1:]), dims[2] if len(dims) == 3 else 1)


@dataclass(frozen=True)
class Node:
    """A step and its input activations.

    inputs: numbers of activations: 0 is the image, k + 1 is the output of node k.
    name: where the step stands in the model, for messages.
    """

    step: Step
    inputs: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Network:
    """Nodes in the order of computation; the last one's output is the scores of `classes` classes.

    ending: what the model makes of the scores at last; it keeps their order. order: where the model begins by
    moving the numbers of its input, int64 (C * H * W,): which of them each one is that the nodes see.
    """

    nodes: tuple[Node, ...]
    in_shape: PlaneShape
    classes: int
    ending: FinalActivation | None = None
    order: Tensor | None = None

    def as_planes(self, x: Tensor) -> Tensor:
        """Inputs (N, ...) as the model takes them, as the nodes do: (N, C, H, W)."""
        if self.order is not None:
            x = x.flatten(1)[:, self.order.to(x.device)]
        return x.reshape(-1, *self.in_shape)

    @property
    def shapes(self) -> list[PlaneShape]:
        """The shape of each activation, the image first."""
        return [self.in_shape, *(node.step.out_shape for node in self.nodes)]

    @property
    def neurons(self) -> int:
        """The size of all activations together."""
        return sum(prod(shape) for shape in self.shapes)

    def before(self, at: int, *steps: type[Step]) -> int:
        """The activation that number `at` comes from through steps of these types alone."""
        while at and isinstance(self.nodes[at - 1].step, steps):
            (at,) = self.nodes[at - 1].inputs
        return at

    def backwards(self, *, start: int) -> Iterator[tuple[int, Node]]:
        """The activations up to number `start`, without the image, with their nodes; the last one first."""
        return ((at, self.nodes[at - 1]) for at in range(start, 0, -1))
