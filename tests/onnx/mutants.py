"""Whole ONNX files of many operators, and copies with random damage."""

from __future__ import annotations

import numpy as np
import onnx

from softadv._onnx.calls import OPERATORS
from tests.onnx.graphs import Graph

_INTEGERS = (-(2**63), -(2**31), -5, -2, -1, 0, 1, 2, 3, 7, 1000, 10**9, 2**31 - 1, 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e38, float("inf"), float("nan"))


def images() -> onnx.ModelProto:
    graph = Graph((2, 6, 6), batch="batch").conv((2, 6, 6), auto_pad="SAME_UPPER").then("Relu")
    norm = [graph.normal(3), graph.normal(3), graph.normal(3), graph.constant(np.ones(3))]
    graph.then("BatchNormalization", *norm).then("MaxPool", kernel_shape=[2, 2], strides=[1, 1], ceil_mode=1)
    graph.then("Pad", graph.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64), graph.constant(0.5))
    graph.then("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1)
    graph.then("Transpose", perm=[0, 2, 3, 1]).then("Clip", graph.constant(-0.5), graph.constant(0.5))
    parts = graph.node("Split", graph.value, graph.constant([1, 2], np.int64), outputs=2, axis=3)
    (graph.value,) = graph.node("Concat", *parts[::-1], axis=-1)
    return graph.then("ReduceMean", axes=[1], keepdims=0).then("Flatten").gemm(9, 4).proto()


def vectors() -> onnx.ModelProto:
    graph = Graph((12,), batch=1)
    graph.then("MatMul", graph.normal(12, 12)).then("Sigmoid")
    graph.then("Unsqueeze", graph.constant([2], np.int64)).then("Squeeze", graph.constant([2], np.int64))
    graph.then("Reshape", graph.constant([-1, 3, 4], np.int64))
    graph.then("Slice", *(graph.constant([n], np.int64) for n in (0, 3, 1, 1)))
    graph.then("Gather", graph.constant([2, 0, 0], np.int64), axis=1).then("Mul", graph.normal(3, 1))
    graph.then("PRelu", graph.normal(3, 4)).then("Sub", graph.constant(0.5)).then("Div", graph.constant(2.0))
    (graph.value,) = graph.node("Sum", graph.value, graph.value)
    graph.then("Flatten").then("Gemm", graph.normal(12, 4), graph.normal(4), alpha=0.5, beta=0.25)
    return graph.then("Softmax", axis=-1).proto()


def shapes() -> onnx.ModelProto:
    graph = Graph((2, 4), batch="batch").then("Tanh").then("LeakyRelu", alpha=0.2)
    (sizes,) = graph.node("Shape", graph.value)
    (first,) = graph.node("Gather", sizes, graph.constant([0], np.int64), axis=0)
    (rest,) = graph.node("Constant", value_ints=[-1])
    (target,) = graph.node("Concat", first, rest, axis=0)
    graph.then("Reshape", target).then("Cast", to=1).then("Neg").then("Dropout")
    (bias,) = graph.node("Constant", value=onnx.numpy_helper.from_array(np.ones(8, np.float32)))
    return graph.then("Add", bias).gemm(8, 3).then("LogSoftmax").proto()


WHOLE = (images, vectors, shapes)


def mutant(proto: onnx.ModelProto, rng: np.random.Generator) -> bytes:
    """A file with one to three changes."""
    for _ in range(int(rng.integers(1, 4))):
        _change(proto, rng)
    data = bytearray(proto.SerializeToString())
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            kind = rng.integers(3)
            if kind == 0:
                data[at] = int(rng.integers(256))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 20))]
            else:
                data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(data)


def _change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:  # noqa: PLR0912 (one case for each kind)
    nodes, constants = proto.graph.node, proto.graph.initializer
    node, integer = nodes[int(rng.integers(len(nodes)))], int(rng.choice(_INTEGERS))
    names = [name for other in nodes for name in (*other.input, *other.output)]
    match int(rng.integers(10)):
        case 0 if len(node.attribute):
            attribute = node.attribute[int(rng.integers(len(node.attribute)))]
            if attribute.ints:
                attribute.ints[int(rng.integers(len(attribute.ints)))] = integer
            elif attribute.HasField("i"):
                attribute.i = integer
            elif attribute.HasField("f"):
                attribute.f = float(rng.choice(_FLOATS))
        case 1 if len(node.attribute):
            attribute = node.attribute[int(rng.integers(len(node.attribute)))]
            if attribute.ints:
                attribute.ints.append(integer)
        case 2 if len(node.input):
            node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
        case 3:
            node.op_type = str(rng.choice(sorted(OPERATORS)))
        case 4 if len(node.input):
            del node.input[-1]
        case 5 if len(constants):
            constant = constants[int(rng.integers(len(constants)))]
            if constant.dims:
                constant.dims[int(rng.integers(len(constant.dims)))] = integer
        case 6:
            whole = [c for c in constants if c.data_type == onnx.TensorProto.INT64]
            if whole:
                constant = whole[int(rng.integers(len(whole)))]
                values = onnx.numpy_helper.to_array(constant).copy()
                if values.size:
                    values.flat[int(rng.integers(values.size))] = integer
                    constant.raw_data = values.tobytes()
        case 7:
            real = [c for c in constants if c.data_type == onnx.TensorProto.FLOAT]
            if real:
                values = onnx.numpy_helper.to_array(constant := real[int(rng.integers(len(real)))]).copy()
                if values.size:
                    values.flat[int(rng.integers(values.size))] = float(rng.choice(_FLOATS))
                    constant.raw_data = values.tobytes()
        case 8 if len(constants):
            constants[int(rng.integers(len(constants)))].data_type = int(rng.integers(0, 25))
        case 9:
            dims = proto.graph.input[0].type.tensor_type.shape.dim
            dims[int(rng.integers(len(dims)))].dim_value = integer
