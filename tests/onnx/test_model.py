"""ONNX files read as PyTorch models: what they compute is what onnxruntime computes, and what is proven holds there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from onnx import helper

import softadv
from softadv._onnx.file import OPSETS
from softadv.certify import backsub_cpp, certify
from softadv.certify.trace import read_network
from tests.certify.evaluators import LEVELS
from tests.onnx.any_graphs import any_graphs
from tests.onnx.files import refusal
from tests.onnx.graphs import Graph, graphs
from tests.onnx.hostile import IMAGE as THREE
from tests.onnx.hostile import plain


def session(data: bytes, level=LEVELS[-1]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, 1, 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(found: ort.InferenceSession, points: np.ndarray, batch) -> np.ndarray:
    parts = [points] if batch != 1 else points[:, None]
    return np.concatenate([found.run(None, {"x": part})[0] for part in parts])


@settings(max_examples=60)
@given(graph=graphs())
def test_random_graphs_compute_what_onnxruntime_computes_and_their_certificates_hold_there(tmp_path_factory, graph):
    check(graph, tmp_path_factory)


@settings(max_examples=40)
@given(graph=any_graphs())
def test_so_do_random_graphs_of_activations_of_any_shape(tmp_path_factory, graph):
    check(graph, tmp_path_factory)


def check(graph, tmp_path_factory, path=None):
    path = path or graph.write(tmp_path_factory.mktemp("onnx") / "net.onnx")
    model = softadv.load_model(path)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, *graph.shape, generator=generator)
    with torch.no_grad():
        outputs = model(x)
    y = outputs.argmax(1)
    domains = ["box", "deeppoly"]
    margins = {
        (domain, eps): certify(model, x, y, eps=eps, domain=domain).margin for domain in domains for eps in (0.0, 0.02)
    }
    with backsub_cpp.disabled():
        other = certify(model, x, y, eps=0.02).margin
    torch.testing.assert_close(other, margins["deeppoly", 0.02], rtol=1e-3, atol=1e-3 * max(1, outputs.abs().max()))
    noise = torch.rand(20, 4, *graph.shape, generator=generator)
    points = (x + (noise.round() * 2 - 1) * 0.02).clamp(0, 1)
    for level in LEVELS:
        found = session(path.read_bytes(), level)
        theirs = run(found, x.numpy(), graph.batch)
        np.testing.assert_allclose(theirs, outputs.numpy(), rtol=1e-5, atol=1e-5 * max(1, float(outputs.abs().max())))
        near = run(found, points.reshape(-1, *graph.shape).numpy(), graph.batch)
        for (_, eps), margin in margins.items():
            scores = torch.from_numpy(near).reshape(20, 4, -1) if eps else torch.from_numpy(theirs)[None]
            index = y.expand(len(scores), -1)[:, :, None]
            own = scores.gather(2, index)[:, :, 0].double()
            others = scores.scatter(2, index, -torch.inf).amax(2).double()
            assert (own - others >= margin).all(), (level, eps)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_read_in_its_own_words(tmp_path, opset):
    graph = Graph(THREE, opset=opset)
    graph.conv(THREE, pads=[1, 1, 1, 1])
    if opset >= 11:
        graph.then("Clip", graph.constant(-1.0), graph.constant(1.0)).then("Pad", graph.constant([0] * 8, np.int64))
    else:
        graph.then("Clip", min=-1.0, max=1.0).then("Pad", pads=[0] * 8)
    axes = graph.constant([2, 3], np.int64)
    if opset >= 18:
        graph.then("ReduceMean", axes, keepdims=1)
    else:
        graph.then("ReduceMean", axes=[2, 3], keepdims=1)
    if opset >= 13:
        graph.then("Squeeze", axes)
    else:
        graph.then("Squeeze", axes=[2, 3])
    graph.gemm(3, 4).then("Softmax")
    model, x = softadv.load_model(graph.write(tmp_path / "net.onnx")), np.random.default_rng(0).random((3, *THREE))
    x = x.astype(np.float32)
    theirs = session(graph.proto().SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_a_channels_last_network_is_certified(tmp_path):
    graph = Graph((6, 5, 2), batch=1).then("Transpose", perm=[0, 3, 1, 2])
    graph.conv((2, 6, 5)).then("Relu").then("Transpose", perm=[0, 2, 3, 1])
    graph.then("Reshape", graph.constant([1, -1], np.int64)).then("MatMul", graph.normal(36, 4))
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    x = torch.rand(3, 6, 5, 2, generator=torch.Generator().manual_seed(0))
    theirs = run(session(graph.proto().SerializeToString()), x.numpy(), 1)
    np.testing.assert_allclose(model(x).numpy(), theirs, rtol=1e-5, atol=1e-5)
    y = model(x).argmax(1)
    own = torch.from_numpy(theirs).gather(1, y[:, None])[:, 0]
    real = own - torch.from_numpy(theirs).scatter(1, y[:, None], -torch.inf).amax(1)
    eps = torch.tensor([0.0, 0.01])  # of each channel, the last dimension here
    torch.testing.assert_close(certify(model, x, y, eps=0.0).margin, real, rtol=1e-3, atol=1e-3)
    margin = certify(model, x, y, eps=eps).margin
    for sign in (-0.01, 0.01):
        moved = x.clone()
        moved[..., 1] = (moved[..., 1] + sign).clamp(0, 1)
        outputs = model(moved)
        found = outputs.gather(1, y[:, None])[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
        assert (found >= margin).all()


def test_permutations_that_undo_each_other_leave_no_step(tmp_path):
    """As TensorFlow's exporter writes convolutions: a channels-last network is the same few steps as any other."""
    graph = Graph((6, 5, 2), batch=1)
    shape, bias = (2, 6, 5), []
    for _ in range(2):
        graph.then("Transpose", perm=[0, 3, 1, 2]).conv(shape, pads=[1, 1, 1, 1])
        before = graph.then("Transpose", perm=[0, 2, 3, 1]).then("Add", graph.normal(3)).then("Relu").value
        bias.append(before)
        shape = (3, 6, 5)
    (graph.value,) = graph.node("Add", *bias)
    graph.then("Flatten").gemm(90, 4)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    kinds = [type(node.step).__name__ for node in read_network(model, model.shape, like=torch.zeros(0)).nodes]
    assert kinds == ["Conv", "Scale", "Relu", "Copy", "Copy", "Conv", "Scale", "Relu", "Add", "Gather", "Dense"]
    check(graph, None, path=tmp_path / "net.onnx")


def test_a_vector_that_becomes_an_image_is_certified(tmp_path):
    graph = Graph((32,)).then("Reshape", *[])
    graph.nodes[-1].input.append(graph.constant([-1, 2, 4, 4], np.int64))
    graph.conv(THREE).then("Relu").then("Flatten").gemm(12, 4)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    x = torch.rand(3, 32, generator=torch.Generator().manual_seed(0))
    assert certify(model, x, model(x).argmax(1), eps=0.0).verified.all()


def test_two_files_with_the_same_weights_are_not_the_same_model(tmp_path):
    one = Graph(THREE).conv(THREE).then("Relu").then("Flatten").gemm(12, 4)
    two = Graph(THREE).conv(THREE).then("Tanh").then("Flatten").gemm(12, 4)
    first, second = (
        softadv.load_model(graph.write(tmp_path / f"{at}.onnx")).state_dict() for at, graph in enumerate((one, two))
    )
    assert not torch.equal(first["file_sha256"], second["file_sha256"])


def test_a_network_without_a_batch_computes_the_same_of_each_row(tmp_path):
    graph = Graph(()).then("MatMul", "w").then("Add", "b").then("Relu").then("Neg").then("Mul", "s")
    graph.batch = 4
    for name, values in (("w", np.ones((4, 3)) * 0.3), ("b", np.array([-0.5, 0.1, 0.2])), ("s", np.array(2.0))):
        graph.constants.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    proto = graph.proto()
    del proto.graph.output[0].type.tensor_type.shape.dim[1:]
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    model, x = softadv.load_model(path), torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    theirs = [session(path.read_bytes()).run(None, {"x": row})[0] for row in x.numpy()]
    np.testing.assert_allclose(model(x).numpy(), np.stack(theirs), rtol=1e-5, atol=1e-6)


def behind_a_constant(graph, operator, values):
    """The activation stands where others have a bound or an option, and a constant where they have it."""
    (graph.value,) = graph.node(operator, graph.constant(values), graph.value)
    return graph


UNREAD = {
    "Gelu": (lambda g: g.then("Erf").then("Flatten"), "Erf0 (Erf)"),
    "MaxPool that rounds up": (
        lambda g: g.then("MaxPool", kernel_shape=[1, 1], strides=[4, 4], pads=[0, 0, 1, 1], ceil_mode=1), "ceil_mode"),
    "MaxPool with auto_pad": (
        lambda g: g.then("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER", dilations=[2, 2]), "auto_pad"),
    "MaxPool that rounds up without padding": (  # of which onnxruntime makes more than the standard does
        lambda g: g.then("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="VALID", ceil_mode=1), "ceil_mode"),
    "Squeeze of all": (lambda g: g.then("GlobalAveragePool").then("Squeeze"), "a batch of one"),
    "Gemm transA": (lambda g: g.then("Flatten").then("Gemm", g.normal(32, 4), transA=1), "on the left"),
    "Gemm of rows": (lambda g: g.then("Flatten").then("Gemm", g.normal(32, 4), g.normal(4, 1)), "each row"),
    "MatMul of dimensions": (lambda g: g.then("Flatten").then("MatMul", g.normal(1, 32, 4)), "one constant matrix"),
    "Clip of a constant": (lambda g: behind_a_constant(g, "Clip", 0.5), "first input"),
    "Dropout of a constant": (lambda g: behind_a_constant(g, "Dropout", 0.5), "first input"),
    "Gather of a constant": (lambda g: behind_a_constant(g, "Gather", [0.5]), "first input"),
    "Add of rows": (lambda g: g.then("Add", g.normal(2, 2, 4, 4)), "each row"),
    "Add of dimensions": (lambda g: g.then("Add", g.normal(1, 1, 2, 4, 4)), "each row"),
    "Softmax of channels": (lambda g: g.then("Softmax", axis=1).then("Flatten"), "Softmax0"),
    "Mul of two": (lambda g: g.then("Mul", "x").then("Flatten"), "only the sum"),
    "Pad of the batch": (lambda g: g.then("Pad", g.constant([1] + [0] * 7, np.int64)), "the batch"),
    "Concat of the batch": (lambda g: g.then("Concat", "x", axis=0), "the batch"),
    "Slice of the batch": (lambda g: g.then("Slice", *(g.constant([n], np.int64) for n in (0, 1, 0))), "the batch"),
    "Slice of nothing": (lambda g: g.then("Slice", *(g.constant([0], np.int64) for _ in range(3))), "the batch"),
    "Transpose of the batch": (lambda g: g.then("Transpose"), "the batch"),
    "Gather of the batch": (lambda g: g.then("Gather", g.constant(0, np.int64)), "the batch"),
    "ReduceMean of all": (lambda g: g.then("ReduceMean"), "the batch"),
    "Reshape of the batch": (lambda g: g.then("Reshape", g.constant([-1], np.int64)), "the batch must stay"),
    "Cast to half": (lambda g: g.then("Cast", to=10).then("Flatten"), "another type"),
    "a weight of another shape": (lambda g: g.then("Flatten").gemm(31, 4), "does not fit"),
    "a weight of another type": (
        lambda g: g.then("Flatten").then("MatMul", g.constant(np.ones((32, 4)), np.float64)), "float64"),
    "a huge convolution": (
        lambda g: g.then("Pad", g.constant([0, 0, 2**20, 2**20, 0, 0, 0, 0], np.int64)), "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_named_with_its_node(tmp_path, name):
    build, named = UNREAD[name]
    graph = Graph(THREE)
    build(graph)
    assert named in refusal(graph.write(tmp_path / "net.onnx"))


def test_data_beside_the_file_are_read(tmp_path):
    path, x = tmp_path / "net.onnx", torch.rand(2, *THREE)
    onnx.save_model(plain(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    found = softadv.load_model(path)(x).numpy()
    theirs = session(plain().SerializeToString()).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)
    (tmp_path / "weights.bin").write_bytes(b"short")
    refusal(path)


@pytest.mark.parametrize("counts", [0, 1])
def test_an_average_pool_with_dilations_is_read(tmp_path, counts):
    for pads, size in (([0, 0, 0, 0], (3, 5)), ([1, 0, 1, 1], (5, 6))):
        graph = Graph((2, 5, 7), opset=19).then("Relu")
        graph.then("AveragePool", kernel_shape=[2, 2], dilations=[2, 2], pads=pads, count_include_pad=counts)
        graph.then("Flatten").gemm(2 * size[0] * size[1], 4)
        check(graph, None, path=graph.write(tmp_path / "net.onnx"))


def test_dilations_beside_auto_pad_are_refused(tmp_path):
    graph = Graph(THREE, opset=19)
    graph.then("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER", dilations=[2, 2])
    assert "auto_pad" in refusal(graph.write(tmp_path / "net.onnx"))


def test_the_default_epsilon_of_a_batch_norm_is_that_of_single_precision_in_double(tmp_path):
    graph = Graph((3,))
    ones, zeros, little = (graph.constant(values, np.float64) for values in ([1] * 3, [0] * 3, [1e-5, 1e-6, 1e-4]))
    proto = graph.then("BatchNormalization", ones, zeros, zeros, little).proto(elem=onnx.TensorProto.DOUBLE)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    x = np.random.default_rng(0).random((4, 3))
    theirs = session(proto.SerializeToString()).run(None, {"x": x})[0]
    found = softadv.load_model(tmp_path / "net.onnx")(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), theirs, rtol=1e-12)


def test_a_file_for_other_images_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(plain().SerializeToString())
    assert "takes inputs of shape (2, 4, 4)" in refusal(path, data=softadv.load_dataset("digits"))


def typed(proto, tensor):
    """The numbers in the field of their type."""
    values = onnx.numpy_helper.to_array(tensor)
    tensor.ClearField("raw_data")
    (tensor.float_data if values.dtype == np.float32 else tensor.int64_data).extend(values.ravel().tolist())


def as_constant_node(proto, tensor):
    proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    proto.graph.initializer.remove(tensor)


def as_input_too(proto, tensor):
    """As files of IR version 3 list them."""
    kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    proto.graph.input.insert(0, kind)


def through_identity(proto, tensor):
    old, tensor.name = tensor.name, f"{tensor.name}_stored"
    proto.graph.node.insert(0, helper.make_node("Identity", [tensor.name], [old]))


def transposed(proto, tensor):
    """Folded: a permutation of a constant rounds nothing."""
    values = onnx.numpy_helper.to_array(tensor)
    stored = onnx.numpy_helper.from_array(np.ascontiguousarray(values.T), f"{tensor.name}_stored")
    perm = list(range(values.ndim))[::-1]
    proto.graph.node.insert(0, helper.make_node("Transpose", [stored.name], [tensor.name], perm=perm))
    proto.graph.initializer.remove(tensor)
    proto.graph.initializer.append(stored)


@pytest.mark.parametrize(
    "store", [typed, as_constant_node, as_input_too, through_identity, transposed], ids=lambda store: store.__name__
)
def test_initializers_are_read_however_they_are_written(tmp_path, store):
    graph = Graph(THREE).conv(THREE).then("Relu").then("Reshape", "shape").gemm(12, 4)
    graph.constants.append(onnx.numpy_helper.from_array(np.array([-1, 12]), "shape"))
    proto, x = graph.proto(), torch.rand(3, *THREE)
    expected = softadv.load_model(graph.write(tmp_path / "whole.onnx"))(x)
    for tensor in list(proto.graph.initializer):
        store(proto, tensor)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    theirs = session(proto.SerializeToString()).run(None, {"x": x.numpy()})[0]
    found = softadv.load_model(tmp_path / "net.onnx")(x)
    assert torch.equal(found, expected)
    np.testing.assert_allclose(found.numpy(), theirs, rtol=1e-5, atol=1e-6)
