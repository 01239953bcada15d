"""Each operator's class names the ONNX operators that it is read from: nothing is missing, and nothing made up."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import softadv
from softadv._onnx.calls import OPERATORS as ONNX_OPERATORS
from softadv._onnx.calls import read_as_layer
from softadv.certify import certify, register_operator
from softadv.certify.operators import OPERATORS, Conv, Copy, Dense, Flatten
from softadv.certify.trace import read_network
from softadv.errors import SoftadvError
from tests.certify.test_activations import SoftplusStep
from tests.onnx.graphs import Graph

IMAGE = (2, 4, 4)


def ints(graph, *values):
    return graph.constant(list(values), np.int64)


def two(operator, **options):
    def build(graph):
        (other,) = graph.node("Tanh", graph.value)
        (graph.value,) = graph.node(operator, graph.value, other, **options)

    return build


def with_constant(operator, *shape, **options):
    return lambda g: g.then(operator, g.constant(g.rng.uniform(0.5, 1.5, shape)), **options)


def split(axis):
    def build(graph):
        graph.value = graph.node("Split", graph.value, ints(graph, 1, graph.shape[axis - 1] - 1), outputs=2, axis=axis)[
            1
        ]

    return build


def sliced(start, end, axis):
    return lambda g: g.then("Slice", *(ints(g, n) for n in (start, end, axis)))


def flattened(build):
    return lambda g: build(g.then("Flatten"))


# Of each ONNX operator: what is behind a ReLU on inputs of a shape, and what its outputs enter: a vector's Gemm, or
# an image's Conv (2, 4 or 8 channels).
SAMPLES = {
    "Conv": [(IMAGE, lambda g: g.conv(IMAGE), 0)],
    "Gemm": [
        (IMAGE, flattened(lambda g: g.gemm(32, 5)), 0),
        (IMAGE, flattened(lambda g: g.then("Gemm", g.normal(32, 5), g.normal(5), alpha=0.5, beta=2.0)), 0),
    ],
    "MatMul": [(IMAGE, flattened(lambda g: g.then("MatMul", g.normal(32, 5))), 0),
               (IMAGE, lambda g: g.then("MatMul", g.normal(4, 3)), 0)],
    "AveragePool": [
        (IMAGE, lambda g: g.then("AveragePool", kernel_shape=[2, 2]), 0),
        (IMAGE, lambda g: g.then("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 0),
        (IMAGE, lambda g: g.then("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), 0),
    ],
    "GlobalAveragePool": [(IMAGE, lambda g: g.then("GlobalAveragePool"), 0)],
    "ReduceMean": [(IMAGE, lambda g: g.then("ReduceMean", ints(g, 2, 3)), 0),
                   (IMAGE, lambda g: g.then("ReduceMean", ints(g, 1)), 0)],
    "ReduceSum": [(IMAGE, lambda g: g.then("ReduceSum", ints(g, 2, 3)), 0),
                  (IMAGE, lambda g: g.then("ReduceSum", ints(g, 1), keepdims=0), 0)],
    "Expand": [((2, 1, 4), lambda g: g.then("Expand", ints(g, 1, 2, 3, 4)), 0)],
    "BatchNormalization": [
        (IMAGE, lambda g: g.then("BatchNormalization", *(g.normal(2) for _ in range(3)), g.constant([1, 1])), 0)],
    "Add": [(IMAGE, two("Add"), 0), (IMAGE, with_constant("Add", 2, 1, 1), 0),
            (IMAGE, with_constant("Add", *IMAGE), 0)],
    "Sub": [(IMAGE, two("Sub"), 0), (IMAGE, with_constant("Sub", *IMAGE), 0)],
    "Sum": [(IMAGE, two("Sum"), 0), (IMAGE, with_constant("Sum", *IMAGE), 0)],
    "Mul": [(IMAGE, with_constant("Mul", 2, 1, 1), 0), ((2, 1, 4), with_constant("Mul", 2, 3, 4), 0)],
    "Div": [(IMAGE, with_constant("Div", 2, 1, 1), 0), ((2, 1, 4), with_constant("Div", 2, 3, 4), 0)],
    "Neg": [(IMAGE, lambda g: g.then("Neg"), 0)],
    "Pad": [
        (IMAGE, lambda g: g.then("Pad", ints(g, 0, 0, 1, 0, 0, 0, 0, 1)), 0),
        (IMAGE, lambda g: g.then("Pad", ints(g, 0, 0, 1, 0, 0, 0, 0, 1), g.constant(0.5)), 0),
        (IMAGE, lambda g: g.then("Pad", ints(g, 0, 0, 1, 0, 0, 0, 0, 1), mode="reflect"), 0),
    ],
    "Concat": [
        (IMAGE, two("Concat", axis=1), 0), (IMAGE, two("Concat", axis=3), 0),
        (IMAGE, with_constant("Concat", 1, 2, 4, 3, axis=3), 0),
    ],
    "Slice": [(IMAGE, sliced(1, 2, 1), 0), (IMAGE, sliced(1, 3, 2), 0)],
    "Split": [(IMAGE, split(1), 0), (IMAGE, split(3), 0)],
    "Gather": [(IMAGE, lambda g: g.then("Gather", ints(g, 1, 0), axis=1), 0),
               (IMAGE, lambda g: g.then("Gather", ints(g, 1, 0, 0), axis=2), 0)],
    "Transpose": [(IMAGE, lambda g: g.then("Transpose", perm=[0, 3, 1, 2]), 0)],
    "Flatten": [(IMAGE, lambda g: g.then("Flatten"), 0)],
    "Reshape": [(IMAGE, lambda g: g.then("Reshape", ints(g, -1, 32)), 0),
                (IMAGE, lambda g: g.then("Reshape", ints(g, -1, 8, 2, 2)), 8)],
    "Squeeze": [((5, 1, 1), lambda g: g.then("Squeeze", ints(g, 2, 3)), 0),
                ((2, 1, 4, 4), lambda g: g.then("Squeeze", ints(g, 2)), 2)],
    "Unsqueeze": [((2, 4), lambda g: g.then("Unsqueeze", ints(g, 3)), 2)],
    "MaxPool": [(IMAGE, lambda g: g.then("MaxPool", kernel_shape=[2, 2]), 0),
                (IMAGE, lambda g: g.then("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), 0)],
    "Relu": [(IMAGE, lambda g: g.then("Relu"), 0)],
    "LeakyRelu": [(IMAGE, lambda g: g.then("LeakyRelu"), 0)],
    "PRelu": [(IMAGE, with_constant("PRelu", 2, 1, 1), 0), (IMAGE, with_constant("PRelu", *IMAGE), 2)],
    "Clip": [(IMAGE, lambda g: g.then("Clip", g.constant(-0.5), g.constant(0.5)), 0)],
    "Sigmoid": [(IMAGE, lambda g: g.then("Sigmoid"), 0)],
    "Tanh": [(IMAGE, lambda g: g.then("Tanh"), 0)],
}  # fmt: skip
# What leaves no operator: nothing is computed, or it is the network's ending.
NOTHING = {"Identity", "Dropout", "Cast", "Softmax", "LogSoftmax"}


def kinds(path, sample):
    """The classes of the operators that a sample is read as."""
    shape, build, channels = sample
    graph = Graph(shape, opset=19).then("Relu")
    build(graph)
    if channels:
        graph.then("Conv", graph.normal(3, channels, 1, 1))
    graph.then("Flatten")
    graph.write(path)
    features = softadv.load_model(path)(torch.zeros(1, *shape)).shape[1]
    graph.gemm(features, 3).write(path)
    model = softadv.load_model(path)
    return [type(node.step) for node in read_network(model, model.shape, like=torch.zeros(0)).nodes]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_classes_name_the_onnx_operators_that_they_are_read_from(tmp_path, name):
    found = set()
    for sample in SAMPLES[name]:
        here = kinds(tmp_path / "net.onnx", sample)
        read = set(here) - {Copy, *((Flatten, Dense) if name not in Flatten.onnx + Dense.onnx else ())}
        read -= {Conv} if sample[2] else set()
        read -= {here[0]} if here.count(here[0]) == 1 else set()  # the ReLU before it
        assert {kind.__name__ for kind in read if name not in kind.onnx} <= _beside(name)
        found |= set(here)
    assert {kind for kind in OPERATORS if name in kind.onnx} <= found


def _beside(name):
    """What the samples hold beside the operator itself."""
    return {"Tanh", "Flatten", "Dense"} if name in ("Add", "Sub", "Sum", "Concat") else {"Flatten", "Dense"}


def test_the_samples_are_of_all_operators():
    assert set(SAMPLES) | NOTHING == set(ONNX_OPERATORS)
    assert {name for kind in OPERATORS for name in kind.onnx} == set(SAMPLES)


class Softplus(nn.Module):
    def forward(self, x):
        return nn.functional.softplus(x)


def test_an_onnx_operator_of_ones_own_is_read(tmp_path, request):
    request.addfinalizer(lambda: ONNX_OPERATORS.pop("Softplus"))
    register_operator(Softplus, onnx="Softplus")(lambda layer, shape: SoftplusStep(shape, shape))
    graph = Graph(IMAGE).conv(IMAGE).then("Softplus").then("Flatten").gemm(12, 4)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    x = torch.rand(3, *IMAGE, generator=torch.Generator().manual_seed(0))
    scores = model(x)
    y = scores.argmax(1)
    expected = scores.amax(1) - scores.scatter(1, y[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(certify(model, x, y, eps=0.0).margin, expected, rtol=1e-3, atol=1e-3)
    graph.nodes[1].attribute.add(name="beta", f=2.0, type=1)
    with pytest.raises(SoftadvError, match="Softplus"):
        softadv.load_model(graph.write(tmp_path / "net.onnx"))
    with pytest.raises(SoftadvError, match="is read already"):
        read_as_layer("Relu", nn.ReLU)


def taken(tmp_path, *division):
    """A network that takes the number of its input whose place is a quotient of whole numbers; its two outputs."""
    graph = Graph((6,))
    (place,) = graph.node("Div", *(ints(graph, number) for number in division))
    graph.then("Gather", place, axis=1).gemm(1, 2)
    return graph.write(tmp_path / "net.onnx")


@pytest.mark.parametrize("division", [(-7, 2), (7, -2), (-6, 2), (7, 2)])
def test_quotients_of_whole_numbers_are_cut_and_not_rounded_down(tmp_path, division):
    path = taken(tmp_path, *division)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(softadv.load_model(path)(x), torch.from_numpy(expected))


def test_a_whole_number_divided_by_zero_is_refused(tmp_path):
    with pytest.raises(SoftadvError, match=r"\(Div\).*by zero"):
        softadv.load_model(taken(tmp_path, 7, 0))


def test_a_constant_that_is_dropped_at_random_is_refused(tmp_path):
    graph = Graph((6,))
    weights = graph.constant(np.ones((1, 6)))
    (dropped,) = graph.node("Dropout", weights, graph.constant(0.5), graph.constant(True, np.bool_))
    graph.then("Mul", dropped).gemm(6, 2)
    with pytest.raises(SoftadvError, match="Dropout"):
        softadv.load_model(graph.write(tmp_path / "net.onnx"))


def size_of_batch(graph):
    """The size of the batch, a number."""
    (sizes,) = graph.node("Shape", "x")
    (count,) = graph.node("Gather", sizes, graph.constant(0, np.int64), axis=0)
    return count


def with_number_of_images(graph):
    (count,) = graph.node("Cast", size_of_batch(graph), to=1)
    return graph.then("Add", count).gemm(6, 2)


def images_joined(graph):
    (features,) = graph.node("Mul", size_of_batch(graph), graph.constant(6, np.int64))
    (features,) = graph.node("Unsqueeze", features, ints(graph, 0))
    (sizes,) = graph.node("Concat", ints(graph, -1), features, axis=0)
    return graph.then("Reshape", sizes).gemm(6, 2)


@pytest.mark.parametrize("build", [with_number_of_images, images_joined])
def test_what_depends_on_the_size_of_the_batch_is_refused(tmp_path, build):
    with pytest.raises(SoftadvError, match="depends on the size of the batch"):
        softadv.load_model(build(Graph((6,))).write(tmp_path / "net.onnx"))
    alone = build(Graph((6,), batch=1)).write(tmp_path / "alone.onnx")  # always one image
    assert softadv.load_model(alone)(torch.rand(1, 6)).shape == (1, 2)


def test_a_batch_that_only_stays_is_read(tmp_path):
    graph = Graph((2, 3))
    (count,) = graph.node("Unsqueeze", size_of_batch(graph), ints(graph, 0))
    (sizes,) = graph.node("Concat", count, ints(graph, 6), axis=0)
    path = graph.then("Reshape", sizes).gemm(6, 2).write(tmp_path / "net.onnx")
    x = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(softadv.load_model(path)(x), torch.from_numpy(expected))
