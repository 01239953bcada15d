"""A model as an ONNX file that onnxruntime, ERAN and GPUPoly read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from softadv.certify.network import Conv, Dense, Flatten, Network, Scale, Step, read_network
from softadv.runs import Parity, write_bytes

# The newest that ERAN's reader, written for onnx 1.5 to 1.8, takes.
_OPSET = 13
_IR_VERSION = 7


def export_onnx(model: nn.Module, path: Path, *, image_shape: tuple[int, int, int]) -> None:
    """Write a model to an ONNX file, atomically; the same weights give the same bytes.

    Only operators that every reader takes: Conv, Relu, Reshape with a constant shape, Gemm with
    transB = 1, and a leading Sub and Div for Normalize; float32, a literal batch of 1.

    image_shape: (C, H, W). Raises SoftadvError for a model the certifier cannot read.
    """
    network = read_network(model, image_shape)
    proto = helper.make_model(
        _graph(network),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="softadv",
    )
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(path, proto.SerializeToString(deterministic=True))


def check_parity(model: nn.Module, path: Path, x: Tensor) -> Parity:
    """Compare a model with its ONNX file in onnxruntime, image by image on the CPU.

    x: float (N, C, H, W), on the model's device. A difference of outputs counts relative to the output
    where that is above 1, since float32 resolves no better.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    with torch.no_grad():
        ours = model(x).cpu().numpy()
    theirs = np.concatenate([session.run(None, {name: image[None]})[0] for image in x.cpu().float().numpy()])
    return Parity(
        images=len(x),
        largest_difference=float((np.abs(ours - theirs) / np.maximum(np.abs(ours), 1)).max()),
        classes_equal=bool((ours.argmax(1) == theirs.argmax(1)).all()),
    )


def _graph(network: Network) -> onnx.GraphProto:
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value = "image"
    for at, step in enumerate(network.steps):
        value = _append(step, at, value, nodes, constants)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *network.in_shape])
    scores = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, network.classes])
    return helper.make_graph(nodes, "softadv", [image], [scores], initializer=constants)


def _append(step: Step, at: int, entering: str, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> str:
    """Add the nodes of one step; returns the name of the value that leaves it."""

    def constant(name: str, tensor: Tensor) -> str:
        constants.append(numpy_helper.from_array(tensor.cpu().numpy(), f"{name}{at}"))
        return f"{name}{at}"

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [f"{operator.lower()}{at}"], **attributes))
        return f"{operator.lower()}{at}"

    match step:
        case Conv():
            return node(
                "Conv",
                entering,
                constant("weight", step.weight.float()),
                constant("bias", step.bias.float()),
                kernel_shape=list(step.weight.shape[2:]),
                strides=list(step.stride),
                pads=[*step.padding, *step.padding],
            )
        case Dense():
            weight, bias = constant("weight", step.weight.float()), constant("bias", step.bias.float())
            return node("Gemm", entering, weight, bias, transB=1)
        case Flatten():
            return node("Reshape", entering, constant("shape", torch.tensor([1, step.out_shape[0]])))
        case Scale():
            shape = (1, step.in_shape[0], 1, 1)
            centered = node("Sub", entering, constant("mean", step.mean.float().reshape(shape)))
            return node("Div", centered, constant("std", step.std.float().reshape(shape)))
        case _:
            return node("Relu", entering)
