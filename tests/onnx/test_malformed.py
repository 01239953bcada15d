"""ONNX files that are damaged, or made to do harm: one line, exit code 2, and no more memory than a file may take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import softadv
from softadv.certify import certify
from softadv.cli import app
from softadv.errors import SoftadvError
from tests.onnx.mutants import WHOLE, mutant
from tests.onnx.test_model import plain, refusal


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


@pytest.mark.parametrize(
    "spoil",
    [cyclic, negative, enormous, outside, mixed, half, large_input, two_inputs, old, another_domain, nowhere,
     constant_elsewhere, no_parts, grows, repeats],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_a_malformed_file_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, spoil):
    monkeypatch.chdir(tmp_path.parent)
    proto = plain()
    spoil(proto)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path.parent / "secret.bin").write_bytes(bytes(10_000))
    refusal(path)
    with pytest.raises(SystemExit) as ended:
        app.main(["certify", str(path), "--dataset", "digits", "--eps", "0.1"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") <= 3  # one sentence, which the terminal may wrap


def test_a_file_that_was_cut_off_is_one_line(tmp_path):
    data = plain().SerializeToString()
    for size in [0, 1, *range(7, len(data), len(data) // 9)]:
        path = tmp_path / "net.onnx"
        path.write_bytes(data[:size])
        refusal(path)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutants_of_files_are_read_or_refused(tmp_path, count):
    """A file with random changes is one line, or a network that can be evaluated and certified, or is refused there."""
    rng, path = np.random.default_rng(count), tmp_path / "net.onnx"
    read = 0
    for at in range(count):
        path.write_bytes(mutant(WHOLE[at % len(WHOLE)](), rng))
        try:
            model = softadv.load_model(path)
            read += 1
            x = torch.rand(2, *model.shape, dtype=model.dtype)
            outputs = model(x)
            certify(model, x, outputs.argmax(1), eps=0.01, domain="box")
        except SoftadvError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 2_000
    assert 0 < read < count
