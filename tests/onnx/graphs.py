"""ONNX files made operator by operator, as exporters write them, and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class Graph:
    """A chain of nodes that grows at one end. shape: of an input, now: at that end; both without the batch."""

    def __init__(self, shape: tuple[int, ...], *, opset: int = 13, batch: int | str = "batch", seed: int = 0) -> None:
        self.shape, self.opset, self.batch = shape, opset, batch
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.value, self.now = "x", shape

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 0.5) -> str:
        return self.constant(self.rng.normal(size=shape) * scale)

    def node(self, operator: str, *inputs: str, outputs: int = 1, **options: Any) -> list[str]:
        made = [f"v{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, list(inputs), made, name=f"{operator}{len(self.nodes)}", **options)
        )
        return made

    def then(self, operator: str, *more: str, **options: Any) -> Graph:
        (self.value,) = self.node(operator, self.value, *more, **options)
        return self

    def proto(self, *, elem: int = FLOAT) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", elem, [self.batch, *self.shape])
        y = helper.make_tensor_value_info(self.value, elem, ["n", "scores"])
        graph = helper.make_graph(self.nodes, "graph", [x], [y], initializer=self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.proto().SerializeToString())
        return path

    # What follows keeps account of the shape at the end of the chain, an image (C, H, W) or a vector (D,).

    def conv(self, shape, *, channels=3, kernel=3, groups=1, **options):
        self.then("Conv", self.normal(channels, shape[0] // groups, kernel, kernel), self.normal(channels),
                  group=groups, **options)  # fmt: skip
        return self

    def gemm(self, features: int, outputs: int) -> Graph:
        return self.then("Gemm", self.normal(outputs, features), self.normal(outputs), transB=1)


_ELEMENTWISE = {
    "Relu": lambda g, shape: g.then("Relu"),
    "LeakyRelu": lambda g, shape: g.then("LeakyRelu", alpha=0.2),
    "PRelu": lambda g, shape: g.then("PRelu", g.constant(g.rng.uniform(0, 0.5, (shape[0], *[1] * (len(shape) - 1))))),
    "Clip": lambda g, shape: g.then("Clip", g.constant(-0.3), g.constant(0.5)),
    "Sigmoid": lambda g, shape: g.then("Sigmoid"),
    "Tanh": lambda g, shape: g.then("Tanh"),
    "Identity": lambda g, shape: g.then("Identity"),
    "Dropout": lambda g, shape: g.then("Dropout"),
    "Cast": lambda g, shape: g.then("Cast", to=FLOAT),
    "Add": lambda g, shape: g.then("Add", g.normal(1, shape[0], *[1] * (len(shape) - 1))),
    "Sub from": lambda g, shape: _from_constant(g, "Sub"),
    "Mul": lambda g, shape: g.then("Mul", g.constant(g.rng.uniform(0.5, 1.5, (shape[0], *[1] * (len(shape) - 1))))),
    "Div": lambda g, shape: g.then("Div", g.constant(1.7)),
    "BatchNormalization": lambda g, shape: g.then(
        "BatchNormalization", g.normal(shape[0]), g.normal(shape[0]), g.normal(shape[0]),
        g.constant(g.rng.uniform(0.3, 2, shape[0])),
    ),
    "gather": lambda g, shape: g.then("Gather", g.constant(g.rng.permutation(shape[0]), np.int64), axis=1),
}  # fmt: skip


def _from_constant(graph: Graph, operator: str) -> Graph:
    (graph.value,) = graph.node(operator, graph.constant(0.5), graph.value)
    return graph


def _skip(graph: Graph) -> Graph:
    before = graph.value
    graph.then("Relu")
    (graph.value,) = graph.node("Add", graph.value, before)
    return graph


def _split(graph: Graph, shape: tuple[int, ...]) -> Graph:
    """The first channel and the others, in another order."""
    if shape[0] < 2:
        return graph
    sizes = graph.constant([1, shape[0] - 1], np.int64)
    first, rest = graph.node("Split", graph.value, sizes, outputs=2, axis=1)
    (graph.value,) = graph.node("Concat", rest, first, axis=1)
    return graph


_ELEMENTWISE |= {"skip": lambda g, shape: _skip(g), "split": _split}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random network on images of up to 2 x 7 x 7, which ends in four scores."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
    graph = Graph(shape, seed=draw(st.integers(0, 2**31 - 1)), batch=draw(st.sampled_from(["batch", 1])))
    for _ in range(draw(st.integers(0, 3))):
        shape = _of_images(draw, graph, shape)
        if draw(st.booleans()):
            _ELEMENTWISE[draw(st.sampled_from(sorted(_ELEMENTWISE)))](graph, shape)
    features = _flattened(draw, graph, shape)
    if draw(st.booleans()):
        graph.gemm(features, 6)
        _ELEMENTWISE[draw(st.sampled_from(sorted(_ELEMENTWISE)))](graph, (6,))
        features = 6
    if draw(st.booleans()):
        graph.then("MatMul", graph.normal(features, 4)).then("Add", graph.normal(4))
    else:
        graph.gemm(features, 4)
    return graph


def _of_images(  # noqa: PLR0911 (one for each kind)
    draw: st.DrawFn, graph: Graph, shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    channels, height, width = shape
    kind = draw(st.sampled_from(["conv", "strided", "same", "uneven", "groups", "max", "average", "pad", "none"]))
    if kind in ("conv", "strided") and min(height, width) >= 3:
        step = 2 if kind == "strided" else 1
        graph.conv(shape, strides=[step, step])
        return 3, (height - 3) // step + 1, (width - 3) // step + 1
    if kind == "same":
        graph.conv(shape, kernel=2, auto_pad=draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"])))
        return 3, height, width
    if kind == "uneven":
        graph.conv(shape, kernel=2, pads=[1, 0, 2, 1])
        return 3, height + 2, width
    if kind == "groups":
        graph.conv(shape, channels=2 * channels, kernel=2, groups=channels, dilations=[1, 1], pads=[1, 1, 0, 0])
        return 2 * channels, height, width
    if kind == "max" and min(height, width) >= 2:
        graph.then("MaxPool", kernel_shape=[2, 2], strides=[1, 1])
        return channels, height - 1, width - 1
    if kind == "average":
        counts = draw(st.integers(0, 1))
        graph.then("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=counts)
    if kind == "pad":
        graph.then("Pad", graph.constant([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
        return channels, height + 1, width + 2
    return shape


def _flattened(draw: st.DrawFn, graph: Graph, shape: tuple[int, int, int]) -> int:
    features = int(np.prod(shape))
    kind = draw(
        st.sampled_from(["Flatten", "Reshape", "of a shape", "GlobalAveragePool", "ReduceMean", "channels last"])
    )
    match kind:
        case "Flatten":
            graph.then("Flatten")
        case "Reshape":
            graph.then("Reshape", graph.constant([-1, features], np.int64))
        case "of a shape":
            (sizes,) = graph.node("Shape", graph.value)
            (first,) = graph.node("Gather", sizes, graph.constant([0], np.int64), axis=0)
            (target,) = graph.node("Concat", first, graph.constant([-1], np.int64), axis=0)
            graph.then("Reshape", target)
        case "GlobalAveragePool":
            graph.then("GlobalAveragePool").then("Squeeze", graph.constant([2, 3], np.int64))
            return shape[0]
        case "ReduceMean":
            graph.then("ReduceMean", axes=[2, 3], keepdims=0)
            return shape[0]
        case "channels last":
            graph.then("Transpose", perm=[0, 2, 3, 1]).then("Relu").then("Flatten")
    return features
