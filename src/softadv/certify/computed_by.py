"""Which of its two engines certifies a network, the compiled kernel or PyTorch, and for which reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from softadv.certify import backsub_cpp as native
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.backsub_torch import TorchBackSubstitution
from softadv.certify.bounds import FLOATS_PER_NEURON, BackSubstitution
from softadv.certify.domains import Domain
from softadv.certify.graph import Network
from softadv.certify.linear_cpp import not_compiled

# Layers that are named in the text; the rest are counted.
_NAMED = 3


@dataclass(frozen=True)
class ComputedBy:
    """The engine of a network.

    backsub: what substitutes back. reason: why PyTorch does, empty where the compiled kernel does. beside: the layers
    whose intervals PyTorch computes beside the kernel, each with the reason. floats_per_image: what one image needs at
    the peak, in floating-point numbers.
    """

    backsub: type[BackSubstitution]
    reason: str
    beside: tuple[str, ...]
    floats_per_image: int

    def __str__(self) -> str:
        if self.reason:
            return f"PyTorch, since {self.reason}"
        if not self.beside:
            return "the compiled kernel"
        more = f" and {len(self.beside) - _NAMED} more" if len(self.beside) > _NAMED else ""
        return f"the compiled kernel; PyTorch the intervals of {', '.join(self.beside[:_NAMED])}{more}"


def computed_by(network: Network, *, domain: Domain, dtype: torch.dtype, device: torch.device) -> ComputedBy:
    """The engine that certifies a network of a floating-point type on a device. certify and verify ask this."""
    reason = next(_reasons(network, domain, dtype, device), "")
    backsub: type[BackSubstitution] = TorchBackSubstitution if reason else CompiledBackSubstitution
    whys = [] if reason else [(node.name, not_compiled(node.step, dtype)) for node in network.nodes]
    floats = FLOATS_PER_NEURON * network.neurons + (0 if domain == "box" else backsub.floats_per_image(network))
    return ComputedBy(backsub, reason, tuple(f"{name}: {why}" for name, why in whys if why), floats)


def _reasons(network: Network, domain: Domain, dtype: torch.dtype, device: torch.device) -> Iterator[str]:
    """Why PyTorch computes, the plainest reason first."""
    if domain == "box":
        yield "box is intervals alone"
    if device.type != "cpu":
        yield f"the model is on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        yield f"the model computes in {dtype}"
    for node in network.nodes:
        if not native.knows(node.step):
            yield f"the compiled kernel does not know {type(node.step).__name__}, of {node.name}"
    if not native.available():
        yield native.missing() or "compiled kernels are switched off"
