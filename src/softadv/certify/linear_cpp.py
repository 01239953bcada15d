"""Intervals of convolutions and linear layers, and their rounding errors, by the compiled kernel (linear.h).

The formulas are those of operators/weighted.py and rounding.py, for every image in one pass instead of some twenty.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from softadv.certify.operators import Conv, Dense, Interval
from softadv.certify.rounding import Arithmetic, overflow_limit
from softadv.kernels import build as compiled

SOURCE = Path(__file__).parents[1] / "kernels" / "cpp" / "certify" / "kernel.cpp"


def ordered(plane: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H, W, C), the kernel's order of neurons, contiguous."""
    return plane.permute(0, 2, 3, 1).contiguous()


def back(plane: Tensor) -> Tensor:
    """(N, H, W, C) to (N, C, H, W)."""
    return plane.permute(0, 3, 1, 2)


def not_compiled(step: object, dtype: torch.dtype) -> str | None:
    """Why PyTorch computes the interval of a convolution or a linear layer; None where the kernel does, and for others.

    dtype: of the bounds.
    """
    if not isinstance(step, Conv | Dense):
        return None
    if isinstance(step, Conv) and step.groups > 1:
        return f"{step.groups} groups"
    if isinstance(step, Conv) and step.selects:
        return "it only selects"
    return None if step.weight.dtype == dtype else f"weights of {step.weight.dtype}"


def linear_bounds(
    step: Conv | Dense, lower: Tensor, upper: Tensor, *, rectified: bool, rounding: Arithmetic | None, threads: int
) -> tuple[Interval, Tensor | None] | None:
    """Bounds of a layer's outputs, and what a form pays for each, from those of its inputs; (N, C, H, W) each.

    rectified: whether what is evaluated of the inputs is at least 0, whatever their bounds. rounding: None for no
    errors, which are then None. None where PyTorch has to compute it.
    """
    if not_compiled(step, lower.dtype) is not None:
        return None
    conv = step if isinstance(step, Conv) else None
    weight = ordered(step.weight) if conv else step.weight.contiguous()
    inputs = weight, step.bias.contiguous(), ordered(lower), ordered(upper)
    least, most, error = (lower.new_empty(len(lower), *_last(step.out_shape)) for _ in range(3))
    layer = _Layer(
        images=len(lower), threads=threads, rectified=rectified, sound=rounding is not None,
        kernel=tuple(step.weight.shape[2:]) if conv else (1, 1), stride=conv.stride if conv else (1, 1),
        padding=conv.padding if conv else (0, 0), dilation=conv.dilation if conv else (1, 1),
        inside=_last(step.in_shape), outside=_last(step.out_shape),
        **_addresses(("weight", "bias", "lower", "upper"), inputs),
        **_addresses(("least", "most", "error"), (least, most, error)),
    )  # fmt: skip
    if rounding is not None:
        layer.raised, layer.limit = rounding.least, overflow_limit(rounding.dtype)
        costs = rounding.sum_costs(step.weight[0].numel() + 1, back=step.back)
        layer.addition, layer.evaluation = costs.addition, costs.evaluation
        layer.form, layer.constant, layer.bound = costs.form, costs.constant, costs.bound
    compiled.call_kernel(SOURCE, f"linear_{'float' if lower.dtype == torch.float32 else 'double'}", layer)
    return (back(least), back(most)), None if rounding is None else back(error)


def _addresses(names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in zip(names, tensors, strict=True)}


def _last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) with the channels last."""
    return shape[1], shape[2], shape[0]


class _Layer(ctypes.Structure):
    """Linear of kernels/cpp/certify/linear.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("images", "threads")),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding", "dilation")),
        *((name, ctypes.c_int32) for name in ("rectified", "sound")),
        *((name, ctypes.c_int32 * 3) for name in ("inside", "outside")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "lower", "upper", "least", "most", "error")),
        *(
            (name, ctypes.c_double)
            for name in ("raised", "limit", "addition", "evaluation", "form", "constant", "bound")
        ),
    )  # fmt: skip
