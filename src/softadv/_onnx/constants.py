"""Constant folding: shapes, axes and weights that a graph computes from constants alone."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from softadv._onnx.file import Array
from softadv.errors import SoftadvError

if TYPE_CHECKING:
    import onnx

# The largest array that folding may create from smaller ones.
_MOST = 2**22
# How many numbers a list of axes, of pads or of sizes may have.
_MOST_LISTED = 2**10


class UnreadError(SoftadvError):
    """An unsupported operator or option; the message does not name the node, which the caller adds."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; texts are str."""
    import onnx  # noqa: PLC0415

    found = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()}


def folded(  # noqa: PLR0911, PLR0912 (one case for each operator)
    operator: str, inputs: list[Array | None], options: dict[str, Any], opset: int
) -> Array:
    """An operator's result for constants. Raises UnreadError for one that may round differently in onnxruntime."""
    import onnx  # noqa: PLC0415

    values = [value for value in inputs if value is not None]
    if operator == "Constant":
        if "value" in options:
            if onnx.external_data_helper.uses_external_data(options["value"]):
                raise UnreadError("keeps its numbers in another file; only initializers may")
            return np.asarray(onnx.numpy_helper.to_array(options["value"]))
        kind: Any = np.float32 if any("float" in key for key in options) else np.int64
        (value,) = options.values()
        return np.asarray(value, kind)
    match operator:
        case "ConstantOfShape":
            shape, value = listed(values[0]), options.get("value")
            _check_size(prod(shape))
            fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
            return np.full(shape, fill.item(), fill.dtype)
        case "Expand":
            shape = np.broadcast_shapes(values[0].shape, tuple(listed(values[1])))
            _check_size(prod(shape))
            return np.array(np.broadcast_to(values[0], shape))
        case "Identity":
            return values[0]
        case "Dropout" if not any(training.any() for training in values[2:]):
            return values[0]
        case "Cast":
            return values[0].astype(onnx.helper.tensor_dtype_to_np_dtype(options["to"]))
        case "Transpose":
            return values[0].transpose(options.get("perm"))
        case "Reshape":
            return values[0].reshape([values[0].shape[i] if n == 0 else n for i, n in enumerate(listed(values[1]))])
        case "Squeeze" | "Unsqueeze":
            axes = tuple(listed(values[1]) if len(values) > 1 else options.get("axes", ()))
            if operator == "Unsqueeze":
                return np.expand_dims(values[0], axes)
            return values[0].squeeze(axes or None)
        case "Concat":
            _check_size(sum(value.size for value in values))
            return np.concatenate(values, options["axis"])
        case "Gather":
            _check_size(values[1].size * values[0].size // max(values[0].shape[options.get("axis", 0)], 1))
            return values[0].take(values[1], options.get("axis", 0))
        case "Slice":
            return values[0][slices(inputs, options, values[0].ndim, opset)]
        case "Flatten":
            axis = options.get("axis", 1)
            return values[0].reshape(int(np.prod(values[0].shape[:axis])), -1)
        case "Add" | "Sub" | "Mul" | "Div" if values[0].dtype == values[1].dtype:
            _check_size(int(np.prod(np.broadcast_shapes(values[0].shape, values[1].shape), dtype=np.float64)))
            if operator == "Div" and values[0].dtype.kind in "iu":
                return _truncated_quotient(*values)
            function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[operator]
            return np.asarray(function(values[0], values[1]))
    raise UnreadError("is not computed of constants; fold the constants of the file before")


def listed(values: Array) -> Any:
    """The numbers of a list of axes, of pads or of sizes. Raises UnreadError for more than any of these has."""
    if values.size > _MOST_LISTED:
        raise UnreadError(f"has a list of {values.size:,} numbers")
    return values.tolist()


def _truncated_quotient(a: Array, b: Array) -> Array:
    """The quotient of whole numbers without its fraction, as ONNX has it; Python rounds down."""
    if not b.all():
        raise UnreadError("divides a whole number by zero")
    return np.asarray(a // b + ((a % b != 0) & ((a < 0) != (b < 0))), a.dtype)


def _check_size(size: int) -> None:
    if size > _MOST:
        raise UnreadError(f"makes {size:,} numbers of constants")


def slices(inputs: list[Array | None], options: dict[str, Any], ndim: int, opset: int) -> tuple[slice, ...]:
    """What a Slice takes of each of `ndim` dimensions."""
    if opset < 10:
        starts, ends, axes, steps = options["starts"], options["ends"], options.get("axes"), None
    else:
        starts, ends, axes, steps = (
            None if value is None else listed(value) for value in (*inputs[1:], None, None, None, None)[:4]
        )
    found = [slice(None)] * ndim
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[at] if steps else 1
        if step == 0:
            raise UnreadError("steps by 0")
        found[axes[at] if axes else at] = slice(start, end, step)
    return tuple(found)
