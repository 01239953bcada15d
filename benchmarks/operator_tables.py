"""The operators that the certifier reads, as the tables of docs/networks.md: what each becomes is asked of the code."""

from __future__ import annotations

import torch
from torch import nn

from softadv._onnx import read_onnx  # noqa: F401 (with it all operators are registered)
from softadv._onnx.calls import OPERATORS
from softadv.certify.activations import Activation
from softadv.certify.layers import Clamp, Mean, builders, layer_steps
from softadv.certify.ops import Conv, MaxPool, Step
from softadv.models import Normalize

_IMAGE, _VECTOR = (2, 4, 4), (4, 1, 1)
# A layer of each kind, on what it takes; how its function is written; what it costs in rounding.
_LAYERS: tuple[tuple[nn.Module, tuple[int, int, int], str, str], ...] = (
    (nn.Conv2d(2, 2, 3), _IMAGE, "", "a sum of its terms, in any order"),
    (nn.Linear(4, 2), _VECTOR, "", "a sum of its terms, in any order"),
    (nn.ReLU(), _IMAGE, "`F.relu`, `x.relu()`", "nothing"),
    (nn.LeakyReLU(), _IMAGE, "`F.leaky_relu`", "one product"),
    (nn.PReLU(2), _IMAGE, "`F.prelu`", "one product"),
    (nn.ReLU6(), _IMAGE, "`F.relu6`", "nothing"),
    (nn.Hardtanh(), _IMAGE, "`F.hardtanh`", "nothing"),
    (Clamp(0.0, 1.0), _IMAGE, "`x.clamp`, `torch.clip`", "nothing"),
    (nn.Sigmoid(), _IMAGE, "`torch.sigmoid`", "16 u"),
    (nn.Tanh(), _IMAGE, "`torch.tanh`", "128 u of the input, up to 1"),
    (nn.MaxPool2d(2), _IMAGE, "`F.max_pool2d`", "nothing"),
    (nn.AvgPool2d(2), _IMAGE, "`F.avg_pool2d`", "a sum of its terms, in any order"),
    (nn.AdaptiveAvgPool2d(1), _IMAGE, "`F.adaptive_avg_pool2d`", "a sum of its terms, in any order"),
    (Mean(), _IMAGE, "`x.mean((2, 3))`", "a sum of its terms, in any order"),
    (nn.BatchNorm2d(2), _IMAGE, "", "16 roundings, folded or not"),
    (nn.BatchNorm1d(4), _VECTOR, "", "16 roundings, folded or not"),
    (Normalize((0.1, 0.2), (0.3, 0.4)), _IMAGE, "`(x - mean) / std`", "16 roundings, folded or not"),
    (nn.ZeroPad2d(1), _IMAGE, "`F.pad`", "nothing"),
    (nn.Flatten(), _IMAGE, "`torch.flatten`, `x.view(n, -1)`", "nothing"),
)


def layers() -> str:
    """A row for each layer: its function, the steps that it becomes, the domains that read it, its rounding."""
    rows = ["| layer | as a function | becomes | domains | rounding |", "| --- | --- | --- | --- | --- |"]
    missing = set(builders()) - {type(layer) for layer, *_ in _LAYERS}
    assert not missing, f"the table lacks {missing}"
    for layer, shape, function, rounding in _LAYERS:
        steps = layer_steps("", layer.eval(), shape, like=torch.zeros(1))
        names = ", ".join(_name(step) for step in steps)
        zonotope = not any(isinstance(step, MaxPool) for step in steps)
        domains = "all" if zonotope else "box, deeppoly"
        title = "" if type(layer) in (Clamp, Mean) else f"`{type(layer).__name__}`"
        rows.append(f"| {title} | {function} | {names} | {domains} | {rounding} |")
    return "\n".join(rows)


def onnx() -> str:
    """All ONNX operators that are read."""
    return ", ".join(f"`{name}`" for name in sorted(OPERATORS)) + "."


def _name(step: Step) -> str:
    kind = "a choice" if isinstance(step, Conv) and step.selects else type(step).__name__
    return f"activation {kind}" if isinstance(step, Activation) else kind
