"""The operators that the certifier reads, as the tables of docs/networks.md: the code is asked for all of it."""

from __future__ import annotations

import torch
from torch import nn

from softadv._onnx import read_onnx  # noqa: F401 (with it all operators are registered)
from softadv._onnx.calls import known_operators
from softadv.certify.layers import Clamp, Mean, builders, layer_steps
from softadv.certify.operators import OPERATORS
from softadv.models import Normalize

_IMAGE, _VECTOR = (2, 4, 4), (4, 1, 1)
# A layer of each kind, on what it takes; how its function is written.
_LAYERS: tuple[tuple[nn.Module, tuple[int, int, int], str], ...] = (
    (nn.Conv2d(2, 2, 3), _IMAGE, ""),
    (nn.Linear(4, 2), _VECTOR, ""),
    (nn.ReLU(), _IMAGE, "`F.relu`, `x.relu()`"),
    (nn.LeakyReLU(), _IMAGE, "`F.leaky_relu`"),
    (nn.PReLU(2), _IMAGE, "`F.prelu`"),
    (nn.ReLU6(), _IMAGE, "`F.relu6`"),
    (nn.Hardtanh(), _IMAGE, "`F.hardtanh`"),
    (Clamp(0.0, 1.0), _IMAGE, "`x.clamp`, `torch.clip`"),
    (nn.Sigmoid(), _IMAGE, "`torch.sigmoid`"),
    (nn.Tanh(), _IMAGE, "`torch.tanh`"),
    (nn.MaxPool2d(2), _IMAGE, "`F.max_pool2d`"),
    (nn.AvgPool2d(2), _IMAGE, "`F.avg_pool2d`"),
    (nn.AdaptiveAvgPool2d(1), _IMAGE, "`F.adaptive_avg_pool2d`"),
    (Mean(), _IMAGE, "`x.mean((2, 3))`"),
    (nn.BatchNorm2d(2), _IMAGE, ""),
    (nn.BatchNorm1d(4), _VECTOR, ""),
    (Normalize((0.1, 0.2), (0.3, 0.4)), _IMAGE, "`(x - mean) / std`"),
    (nn.ZeroPad2d(1), _IMAGE, "`F.pad`"),
    (nn.Flatten(), _IMAGE, "`torch.flatten`, `x.view(n, -1)`"),
)


def operators() -> str:
    """A row for each operator, as its class says it."""
    rows = [
        "| operator | computes | from ONNX | linear bounds | domains | rounding |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in OPERATORS:
        computes = (kind.__doc__ or "").splitlines()[0].split(". ")[0].rstrip(".")
        names = ", ".join(f"`{name}`" for name in kind.onnx)
        domains = "all" if kind.zonotope else "box, deeppoly"
        rows.append(f"| {kind.__name__} | {computes} | {names} | {kind.relaxation} | {domains} | {kind.rounding} |")
    return "\n".join(rows)


def layers() -> str:
    """A row for each layer: its function, and the operators that it becomes."""
    rows = ["| layer | as a function | becomes |", "| --- | --- | --- |"]
    missing = set(builders()) - {type(layer) for layer, *_ in _LAYERS}
    assert not missing, f"the table lacks {missing}"
    for layer, shape, function in _LAYERS:
        steps = layer_steps("", layer.eval(), shape, like=torch.zeros(1))
        names = ", ".join(type(step).__name__ for step in steps)
        title = "" if type(layer) in (Clamp, Mean) else f"`{type(layer).__name__}`"
        rows.append(f"| {title} | {function} | {names} |")
    return "\n".join(rows)


def onnx() -> str:
    """All ONNX operators that are read."""
    return ", ".join(f"`{name}`" for name in known_operators()) + "."
