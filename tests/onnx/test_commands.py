"""The commands take ONNX files, and name those that they do not take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import softadv
from softadv.certify.onnx import check_parity
from softadv.cli import app
from softadv.errors import SoftadvError
from tests.onnx.graphs import Graph


def in_float64(graph):
    """The file of a graph, with all its numbers in float64."""
    graph.constants = [
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(found).astype(np.float64), found.name)
        for found in graph.constants
    ]
    return graph.proto(elem=onnx.TensorProto.DOUBLE).SerializeToString()


def exit_code(command, path):
    options = ["--dataset", "digits", "--eps", "0.01", "--limit", "5"]
    if command != "certify":
        options += ["--alpha", "0.005", "--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        app.main([command, str(path), *options])
    return ended.value.code


@pytest.mark.parametrize(("command", "batch"), [("certify", 1), ("attack", 1), ("evaluate", 1), ("certify", 2)])
def test_the_commands_take_an_onnx_file(tmp_path, capsys, command, batch):
    graph = Graph((1, 28, 28), batch=batch).conv((1, 28, 28), strides=[3, 3]).then("Relu").then("Flatten").gemm(243, 10)
    assert exit_code(command, graph.write(tmp_path / "net.onnx")) == 0
    assert "net.onnx" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("command", ["certify", "attack", "evaluate"])
def test_a_file_in_float64_is_named_by_the_commands(tmp_path, capsys, command):
    path = tmp_path / "net.onnx"
    path.write_bytes(in_float64(Graph((1, 28, 28), batch=1).then("Flatten").gemm(784, 10)))
    assert exit_code(command, path) == 2
    said = capsys.readouterr().err
    assert "net.onnx: takes images in torch.float64" in said
    assert said.count("\n") == 1


def test_a_file_that_onnxruntime_refuses_is_named(tmp_path):
    """It has no convolution in float64."""
    path = tmp_path / "net.onnx"
    path.write_bytes(in_float64(Graph((1, 4, 4), batch=1).conv((1, 4, 4)).then("Flatten").gemm(12, 2)))
    model = softadv.load_model(path)
    with pytest.raises(SoftadvError, match=r"net\.onnx: onnxruntime does not compute it"):
        check_parity(
            model, path, torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        )
