"""Files whose activations have no batch: axes count from the first dimension, and the model still takes any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from softadv._onnx import read_onnx
from softadv.certify import certify
from softadv.errors import SoftadvError
from tests.onnx.graphs import Graph


def ints(graph, *values):
    return graph.constant(list(values), np.int64)


def split(graph, **options):
    first, rest = graph.node("Split", graph.value, ints(graph, 1, graph.batch - 1), outputs=2, **options)
    (graph.value,) = graph.node("Concat", rest, first, axis=0)
    return graph


def joined(graph, axis):
    (other,) = graph.node("Tanh", graph.value)
    (graph.value,) = graph.node("Concat", graph.value, other, graph.constant(np.ones((2, 3))), axis=axis)
    return graph


def of_its_shape(graph):
    (sizes,) = graph.node("Shape", graph.value)
    (columns,) = graph.node("Gather", sizes, ints(graph, 1), axis=0)
    (target,) = graph.node("Concat", columns, ints(graph, -1), axis=0)
    return graph.then("Reshape", target)


def constant_of_its_shape(graph):
    (sizes,) = graph.node("Shape", graph.value)
    (ones,) = graph.node("ConstantOfShape", sizes, value=numpy_helper.from_array(np.array([0.25], np.float32)))
    (wide,) = graph.node("Expand", ones, ints(graph, 3, 1, 1))
    return graph.then("Add", wide)


MATRIX, VECTOR, IMAGE = (2, 3), (4,), (1, 2, 4, 4)
# What stands behind a convolution or a matrix product that changes no shape.
READ = {
    "Flatten": (MATRIX, lambda g: g.then("Flatten", axis=0)),
    "Flatten of columns": (MATRIX, lambda g: g.then("Flatten", axis=-1)),
    "Reshape": (MATRIX, lambda g: g.then("Reshape", ints(g, 3, -1))),
    "Reshape that keeps": (MATRIX, lambda g: g.then("Reshape", ints(g, 0, 1, 3))),
    "Reshape of its shape": (MATRIX, of_its_shape),
    "Unsqueeze and Squeeze": (MATRIX, lambda g: g.then("Unsqueeze", ints(g, 0, -1)).then("Squeeze", ints(g, 0))),
    "Squeeze of all": (MATRIX, lambda g: g.then("Unsqueeze", ints(g, 1)).then("Squeeze")),
    "Transpose": (MATRIX, lambda g: g.then("Transpose")),
    "Transpose by perm": (MATRIX, lambda g: g.then("Transpose", perm=[1, 0]).then("MatMul", g.normal(2, 3))),
    "Concat": (MATRIX, lambda g: joined(g, 0)),
    "Concat from the end": (MATRIX, lambda g: joined(g, -1)),
    "Split": (MATRIX, split),
    "Split of a vector": (VECTOR, lambda g: split(g, axis=0)),
    "Gather": (MATRIX, lambda g: g.then("Gather", ints(g, 1, 1, 0))),
    "Gather of a vector": (VECTOR, lambda g: g.then("Gather", ints(g, -1, 0), axis=0)),
    "Slice": (MATRIX, lambda g: g.then("Slice", ints(g, 1), ints(g, 2))),
    "Slice of a vector": (VECTOR, lambda g: g.then("Slice", ints(g, -1), ints(g, -9), ints(g, 0), ints(g, -2))),
    "Pad": (MATRIX, lambda g: g.then("Pad", ints(g, 1, 0, 0, 2), g.constant(0.5))),
    "Pad of an axis": (MATRIX, lambda g: g.then("Pad", ints(g, 1, 2), "", ints(g, 0))),
    "ReduceMean": (MATRIX, lambda g: g.then("ReduceMean", ints(g, 0), keepdims=0)),
    "ReduceMean of all": (MATRIX, lambda g: g.then("ReduceMean")),
    "ReduceSum": (MATRIX, lambda g: g.then("ReduceSum", ints(g, 0), keepdims=0)),
    "ReduceSum of all": (MATRIX, lambda g: g.then("ReduceSum")),
    "ReduceSum of none": (VECTOR, lambda g: g.then("ReduceSum", ints(g), noop_with_empty_axes=1)),
    "Expand": ((2, 1), lambda g: g.then("Expand", ints(g, 2, 3))),
    "Expand of a vector": (VECTOR, lambda g: g.then("Expand", ints(g, 2, 1))),
    "a constant of its shape": (MATRIX, constant_of_its_shape),
    "Gemm": (MATRIX, lambda g: g.then("Gemm", g.normal(3, 2), g.normal(2), alpha=0.5)),
    "MatMul from the left": (MATRIX, lambda g: g.left("MatMul", g.normal(3, 2))),
    "MatMul of a vector": (VECTOR, lambda g: g.then("MatMul", g.normal(4, 2))),
    "MatMul of a vector from the left": (VECTOR, lambda g: g.left("MatMul", g.normal(3, 4))),
    "a constant of more dimensions": (VECTOR, lambda g: g.then("Add", g.normal(3, 1)).then("Mul", g.normal(1, 3, 4))),
    "PRelu": (MATRIX, lambda g: g.then("PRelu", g.constant(np.full((2, 1), 0.2)))),
    "images": (IMAGE, lambda g: g.then("MaxPool", kernel_shape=[2, 2]).then("Reshape", ints(g, -1))),
    "a batch norm of images": (IMAGE, lambda g: g.then(
        "BatchNormalization", g.normal(2), g.normal(2), g.normal(2), g.constant([1, 2])).then("Reshape", ints(g, -1))),
}  # fmt: skip


class Whole(Graph):
    """A graph without a batch, whose scores are a row."""

    def __init__(self, shape, **options):
        super().__init__(shape[1:], batch=shape[0], **options)

    def left(self, operator, constant):
        (self.value,) = self.node(operator, constant, self.value)
        return self


def built(name, path, *, opset=18):
    shape, build = READ[name]
    graph = Whole(shape, opset=opset)
    graph.conv(shape[1:], channels=2, kernel=1) if shape == IMAGE else graph.then(
        "MatMul", graph.normal(*shape[-1:] * 2)
    )
    build(graph.then("Relu"))
    row = Path(path).with_suffix(".part")
    graph.then("Reshape", ints(graph, 1, -1)).write(row)
    features = ort.InferenceSession(row).run(None, {"x": np.zeros(shape, np.float32)})[0].size
    return graph.gemm(features, 4).write(path), shape


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_onnxruntime_computes_of_each_row(tmp_path, name):
    path, shape = built(name, tmp_path / "net.onnx")
    model = read_onnx(path, whole=True)
    assert (model.shape, model.unbatched, model.batch) == (shape, True, None)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    session = ort.InferenceSession(path)
    theirs = np.concatenate([session.run(None, {"x": row})[0] for row in x.numpy()])
    found = model(x).flatten(1)
    np.testing.assert_allclose(found.numpy(), theirs, rtol=1e-5, atol=1e-5)
    y = found.argmax(1)
    flat = torch.nn.Sequential(model, torch.nn.Flatten())
    real = found.topk(2).values.diff(dim=1).neg()[:, 0]
    torch.testing.assert_close(certify(flat, x, y, eps=0.0).margin, real, rtol=1e-3, atol=1e-3)
    margin = certify(flat, x, y, eps=0.05).margin
    for row, least, label in zip(x.numpy(), margin.tolist(), y.tolist(), strict=True):
        for sign in (-1, 1):
            (near,) = session.run(None, {"x": np.clip(row + np.float32(0.05 * sign), 0, 1)})[0].reshape(1, -1)
            assert near[label] - np.delete(near, label).max() >= least


def test_a_literal_batch_that_stays_is_one_and_one_that_does_not_is_none(tmp_path):
    stays = Whole((2, 3)).gemm(3, 4).write(tmp_path / "stays.onnx")
    assert (read_onnx(stays).shape, read_onnx(stays).batch) == ((3,), 2)
    assert read_onnx(stays, whole=True).shape == (2, 3)
    moves = Whole((1, 3)).then("Transpose")
    moves.then("MatMul", moves.normal(1, 4)).then("Reshape", ints(moves, 1, -1))
    assert read_onnx(moves.write(tmp_path / "moves.onnx")).shape == (1, 3)


def test_rows_that_become_one_are_no_batch(tmp_path):
    """A first size of 1 leaves a batch as it is where the file has one of 1, or takes it from a Shape."""
    graph = Graph((3,), batch=4)
    path = graph.then("Relu").then("Reshape", ints(graph, 1, -1)).write(tmp_path / "net.onnx")
    model, x = read_onnx(path), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    assert (model.shape, model.unbatched) == ((4, 3), True)
    (theirs,) = ort.InferenceSession(path).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(model(x[None]).flatten(1).numpy(), theirs)
    rows = Graph((2, 3), batch=4)
    (sizes,) = rows.node("Shape", rows.value)
    (first,) = rows.node("Gather", sizes, ints(rows, 0), axis=0)
    (target,) = rows.node("Concat", first, ints(rows, -1), axis=0)
    assert read_onnx(rows.then("Reshape", target).write(tmp_path / "rows.onnx")).shape == (2, 3)


def test_the_first_reason_is_named_where_neither_way_is_read(tmp_path):
    graph = Whole((1, 3)).then("Transpose").then("Erf")
    with pytest.raises(SoftadvError, match="moves the batch"):
        read_onnx(graph.write(tmp_path / "net.onnx"))


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "BatchNormalization"])
def test_what_needs_a_batch_is_named(tmp_path, operator):
    graph = Whole((2, 3, 4, 4))
    if operator == "Conv":
        graph.conv((3, 4, 4))
    elif operator == "MaxPool":
        graph.then("MaxPool", kernel_shape=[2, 2])
    else:
        graph.then("BatchNormalization", *(graph.constant([1, 1, 1]) for _ in range(4)))
    with pytest.raises(SoftadvError, match="without a batch"):
        read_onnx(graph.write(tmp_path / "net.onnx"), whole=True)
