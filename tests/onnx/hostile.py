"""ONNX files that are damaged, or made to do harm: a small whole file with one change each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.onnx.graphs import Graph

IMAGE = (2, 4, 4)


def plain() -> onnx.ModelProto:
    """The whole file."""
    return Graph(IMAGE).conv(IMAGE).then("Relu").then("Flatten").gemm(12, 4).proto()


def cyclic(proto):
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]


def negative(proto):
    proto.graph.initializer[0].dims[0] = -3


def enormous(proto):
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([10**9, 10**9, 3, 3])


def outside(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"


def mixed(proto):
    proto.graph.initializer[0].data_type = onnx.TensorProto.DOUBLE


def half(proto):
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def large_input(proto):
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.dim_value = 10**6


def two_inputs(proto):
    proto.graph.input.append(helper.make_tensor_value_info("y", 1, [1, 2]))


def old(proto):
    proto.opset_import[0].version = 6


def another_domain(proto):
    proto.graph.node[1].domain = "com.microsoft"


def nowhere(proto):
    proto.graph.output[0].name = "elsewhere"


def constant_elsewhere(proto):
    """Only initializers may lie in another file; this one would be looked for in the current folder."""
    value = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[4, 12])
    value.data_location = onnx.TensorProto.EXTERNAL
    value.external_data.add(key="location", value="secret.bin")
    value.external_data.add(key="length", value="192")
    constant = helper.make_node("Constant", [], ["weight"], value=value)
    proto.graph.node[-1].input[1] = "weight"
    proto.graph.node.insert(0, constant)


def no_parts(proto):
    """Dividing by no parts at all."""
    proto.opset_import[0].version = 18
    split = helper.make_node("Split", [proto.graph.node[-1].output[0]], ["part"], axis=1, num_outputs=0)
    proto.graph.node.append(split)
    proto.graph.output[0].name = "part"


def grows(proto):
    """A few lines that would compute 2 * 10^9 numbers, of constants alone."""
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2**16, np.float32), "few"))
    for at in range(500):
        proto.graph.node.insert(at, helper.make_node("Concat", ["few"] * 64, [f"many{at}"], axis=0))


def repeats(proto):
    """Activations of a gigabyte together, one after the other."""
    last = proto.graph.node[1].output[0]  # 3 channels of 2 x 2
    for at in range(200):
        pads = onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 500, 500]), f"p{at}")
        proto.graph.initializer.append(pads)
        proto.graph.node.insert(2 + at, helper.make_node("Pad", [last, f"p{at}"], [f"w{at}"]))


def many_parts(proto):
    """One attribute that asks for a list of 2 * 10^9 sizes."""
    proto.opset_import[0].version = 18
    split = helper.make_node("Split", [proto.graph.node[-1].output[0]], ["part"], axis=1, num_outputs=2**31 - 1)
    proto.graph.node.append(split)
    proto.graph.output[0].name = "part"


def joins(proto):
    """A constant beside a thousand copies of an activation of 12 MB."""
    grow(proto, 1_022, 1_022)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 1_024, 1_024), np.float32), "beside"))
    concat = helper.make_node("Concat", ["beside", *["grown"] * 1_000], ["joined"], axis=1)
    proto.graph.node.append(concat)


def lists(proto):
    """Axes without end, as a constant computed of constants."""
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(2**18, 2), "few"))
    proto.graph.node.insert(0, helper.make_node("Concat", ["few"] * 8, ["axes"], axis=0))
    proto.graph.node.append(helper.make_node("Unsqueeze", [proto.graph.node[-1].output[0], "axes"], ["long"]))


def nodes(proto):
    """A hundred thousand nodes that compute nothing."""
    for at in range(100_000):
        source = f"n{at - 1}" if at else proto.graph.node[2].output[0]
        proto.graph.node.append(helper.make_node("Identity", [source], [f"n{at}"]))


def grow(proto, rows, columns, **options):
    """Pads 3 channels of 2 x 2 pixels below and on the right."""
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, rows, columns]), "pads")
    proto.graph.initializer.append(pads)
    pad = helper.make_node("Pad", [proto.graph.node[1].output[0], "pads"], ["grown"], **options)
    proto.graph.node.insert(2, pad)


def windows(proto):
    """Poolings over windows that are listed one by one."""
    proto.opset_import[0].version = 19
    grow(proto, 1_500, 1_500)
    options = {"kernel_shape": [5, 5], "dilations": [2, 2]}
    proto.graph.node.insert(3, helper.make_node("AveragePool", ["grown"], ["pooled"], **options))


def reflected(proto):
    """Indices of padding that repeats what is there."""
    grow(proto, 0, 2**23, mode="edge")


def shared(proto):
    """Each initializer reads the same file again: a gigabyte each of one of 16 bytes and holes."""
    for at in range(4):
        tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[2**27], name=f"shared{at}")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="holes.bin")
        proto.graph.initializer.append(tensor)


def cut_off(proto):
    """Half of the file; see `bytes_of`."""


SPOILED: tuple[Callable[[Any], None], ...] = (
    cyclic, negative, enormous, outside, mixed, half, large_input, two_inputs, old, another_domain, nowhere,
    constant_elsewhere, no_parts, many_parts, grows, repeats, joins, lists, nodes, windows, reflected, shared, cut_off,
)  # fmt: skip


def bytes_of(spoil: Callable[[Any], None]) -> bytes:
    """The file with one change."""
    proto = plain()
    spoil(proto)
    data = proto.SerializeToString()
    return data[: len(data) // 2] if spoil is cut_off else data


def write(spoil: Callable[[Any], None], folder: Path) -> Path:
    """The file in a folder, with what it names beside it."""
    path = folder / f"{spoil.__name__}.onnx"
    path.write_bytes(bytes_of(spoil))
    (folder.parent / "secret.bin").write_bytes(bytes(10_000))
    with (folder / "holes.bin").open("wb") as file:
        file.truncate(2**29)
    return path


def commands(folder: Path) -> list[list[str]]:
    """What asks about each of the files, behind one that asks about the whole file; all end where a file is read.

    The property is of a network of one input, so that the whole file is refused right after it was read.
    """
    asked, files = folder / "one.vnnlib", folder / "files"
    files.mkdir()
    asked.write_text("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))")
    whole = files / "whole.onnx"
    whole.write_bytes(plain().SerializeToString())
    paths = [whole, *(write(spoil, files) for spoil in SPOILED), Path("/dev/zero")]
    return [["verify", str(asked), "--network", f"N={path}", "--timeout", "3600"] for path in paths]
