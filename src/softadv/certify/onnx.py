"""Export of a model to an ONNX file that onnxruntime, ERAN and GPUPoly read as the same network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from softadv._io import write_bytes
from softadv._modes import in_eval_mode
from softadv._onnx import OnnxModel
from softadv.certify import onnx_runtime
from softadv.certify.graph import Network, Node, as_plane
from softadv.certify.operators import Conv, Dense, Flatten, Relu, Scale
from softadv.certify.records import Parity
from softadv.certify.trace import read_network
from softadv.data import check_finite
from softadv.errors import SoftadvError

if TYPE_CHECKING:
    import onnx

# The newest opset that ERAN's reader, written for onnx 1.5 to 1.8, accepts.
_OPSET = 13
# The largest difference of outputs that two orders of summation explain.
_LARGEST_DIFFERENCE = 1e-4
_JUDGED = 100
_IR_VERSION = 7
_PRODUCER = "softadv"


class NotExportedError(SoftadvError):
    """The model has an operation that softadv does not write as ONNX."""


@in_eval_mode
def export_onnx(model: nn.Module, path: Path, *, image_shape: tuple[int, int, int]) -> None:
    """Write a model to an ONNX file, atomically; the same weights give the same bytes.

    Only operators that every reader takes: Conv, Relu, Reshape with a constant shape, Gemm with
    transB = 1, and a leading Sub and Div for Normalize; float32, a literal batch of 1.

    image_shape: (C, H, W). The model is exported as it is in eval mode. Raises SoftadvError for a model of other
    operations, naming the first.
    """
    import onnx  # noqa: PLC0415 (most programs export nothing)

    network = read_network(model, image_shape)
    proto = onnx.helper.make_model(
        _graph(network, image_shape),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name=_PRODUCER,
    )
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(path, proto.SerializeToString(deterministic=True))


def is_exported(path: Path) -> bool:
    """Whether a file is one that export_onnx wrote."""
    import onnx  # noqa: PLC0415

    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        return bool(onnx.load_model_from_string(path.read_bytes()).producer_name == _PRODUCER)
    except Exception:  # whatever protobuf raises
        return False


@in_eval_mode
def check_parity(model: nn.Module, path: Path, x: Tensor) -> Parity:
    """Compare a model with its ONNX file in onnxruntime, image by image on the CPU.

    x: float (N, C, H, W), on the model's device. A difference of outputs counts relative to the output
    where that is above 1, since float32 resolves no better. The model is used in eval mode. Raises NotFiniteError
    where the scores of either are NaN or infinite.
    """
    session = onnx_runtime.open_session(path)
    (name,) = [value.name for value in session.get_inputs()]
    with torch.no_grad():
        scores = model(x.clone()).cpu()
    check_finite(scores, what="the scores of image")
    ours = scores.numpy()
    read = model if isinstance(model, OnnxModel) else None
    images = x.cpu().float().numpy()
    if read and read.unbatched:
        theirs = np.stack([session.run(None, {name: image})[0] for image in images])
    else:  # an image fills a literal batch
        rows = (read.batch if read else None) or 1
        theirs = np.concatenate([session.run(None, {name: image[None].repeat(rows, 0)})[0][:1] for image in images])
    check_finite(torch.from_numpy(theirs), what=f"{path}: in onnxruntime the scores of image")
    return Parity(
        images=len(x),
        largest_difference=float((np.abs(ours - theirs) / np.maximum(np.abs(ours), 1)).max()),
        classes_equal=bool((ours.argmax(1) == theirs.argmax(1)).all()),
    )


def check_against_onnxruntime(model: nn.Module, x: Tensor) -> None:
    """If a model was read from an ONNX file, compare it with onnxruntime on the first 100 images.

    Raises SoftadvError where the outputs differ by more than rounding explains.
    """
    if not isinstance(model, OnnxModel):
        return
    parity = check_parity(model, model.path, x[:_JUDGED])
    if not parity.largest_difference <= _LARGEST_DIFFERENCE:
        raise SoftadvError(
            f"{model.path}: PyTorch computes something else than onnxruntime, outputs that differ by "
            f"{parity.largest_difference:.1e}"
        )


def _graph(network: Network, image_shape: tuple[int, int, int]) -> onnx.GraphProto:
    from onnx import TensorProto, helper  # noqa: PLC0415

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value = "image"
    if network.order is not None or network.in_shape != as_plane(image_shape):
        raise NotExportedError("model: cannot be exported, since it begins by moving its input's numbers")
    if network.ending is not None:
        raise NotExportedError(f"model: cannot be exported, since it ends in {network.ending}; leave it out")
    for at, node in enumerate(network.nodes):
        if node.inputs != (at,):
            raise NotExportedError(f"{node.name}: cannot be exported, since the readers take chains of layers only")
        value = _append(node, at, value, nodes, constants)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *network.in_shape])
    scores = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, network.classes])
    return helper.make_graph(nodes, "softadv", [image], [scores], initializer=constants)


def _append(layer: Node, at: int, entering: str, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> str:
    """Add the nodes of one step; returns the name of its output."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    def constant(name: str, tensor: Tensor) -> str:
        constants.append(numpy_helper.from_array(tensor.cpu().numpy(), f"{name}{at}"))
        return f"{name}{at}"

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [f"{operator.lower()}{at}"], **attributes))
        return f"{operator.lower()}{at}"

    match layer.step:
        case Conv() as step if step.groups == 1:
            return node(
                "Conv",
                entering,
                constant("weight", step.weight.float()),
                constant("bias", step.bias.float()),
                kernel_shape=list(step.weight.shape[2:]),
                strides=list(step.stride),
                pads=[*step.padding, *step.padding],
                dilations=list(step.dilation),
            )
        case Dense() as step:
            weight, bias = constant("weight", step.weight.float()), constant("bias", step.bias.float())
            return node("Gemm", entering, weight, bias, transB=1)
        case Flatten() as step:
            return node("Reshape", entering, constant("shape", torch.tensor([1, step.out_shape[0]])))
        case Scale(parts=(mean, std)) as step if at == 0:
            shape = (1, step.in_shape[0], 1, 1)
            centered = node("Sub", entering, constant("mean", mean.float().reshape(shape)))
            return node("Div", centered, constant("std", std.float().reshape(shape)))
        case Relu():
            return node("Relu", entering)
    raise NotExportedError(f"{layer.name}: cannot be exported, since not every reader takes it")
