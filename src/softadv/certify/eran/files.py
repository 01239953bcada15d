"""The engines' input files: the model as ONNX, boxes and labels as arrays.

The engines treat a Normalize layer and a leading Flatten differently. GPUPoly's reader refuses Normalize; ERAN's
removes it from the network and expects the caller to apply it. For Flatten each chooses an order of the channels. So
the file contains neither: boxes are normalised and flattened here, and the network begins after that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from softadv._io import write_bytes
from softadv.certify.onnx import export_onnx
from softadv.certify.rounding import box
from softadv.errors import SoftadvError

Floats = npt.NDArray[np.float64]

_UNIT = torch.finfo(torch.float32).eps / 2
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class EngineModel:
    """A model's ONNX file, and the normalisation that is applied to boxes before they enter it.

    shape: of one input, (C, H, W) or (F,). statistics: mean and std, float64 (C, 1, 1), of a Normalize layer.
    """

    path: Path
    shape: tuple[int, ...]
    statistics: tuple[Tensor, Tensor] | None

    def boxes(self, x: Tensor, *, eps: float, clip: tuple[float, float]) -> tuple[Floats, Floats]:
        """Lower and upper bounds (N, *shape) of the network's input over the box of x.

        x: float (N, C, H, W). Rounded outwards: they hold the float32 value that PyTorch computes for
        every point of {x' : |x' - x| <= eps, clip[0] <= x' <= clip[1]} that is first rounded to float32.
        """
        lower, upper = (bound.double() for bound in box(x.cpu(), eps=eps, clip=clip, dtype=torch.float32, sound=True))
        if self.statistics is not None:
            ends = [_normalized(bound, *self.statistics) for bound in (lower, upper)]
            lower, upper = torch.minimum(ends[0][0], ends[1][0]), torch.maximum(ends[0][1], ends[1][1])
        size = (len(x), *self.shape)
        return lower.reshape(size).numpy(), upper.reshape(size).numpy()


def write_model(model: nn.Module, folder: Path, *, image_shape: tuple[int, int, int]) -> EngineModel:
    """Write a model for the engines into a folder; the file's name contains a digest of its bytes.

    image_shape: (C, H, W). Raises SoftadvError for a model that cannot be exported, is not in float32, or
    has a dilated convolution, which GPUPoly's reader takes for an ordinary one.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise SoftadvError(f"engine: the model is in {kind}; ERAN and GPUPoly certify float32 models")
    whole = folder / "model.onnx"
    export_onnx(model, whole, image_shape=image_shape)
    proto = onnx.load(whole)
    graph = proto.graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    nodes, shape, statistics = list(graph.node), tuple(image_shape), None
    if nodes[0].op_type == "Sub":
        mean, std = (torch.from_numpy(constants[node.input[1]].copy()).double()[0] for node in nodes[:2])
        nodes, statistics = nodes[2:], (mean, std)
    if nodes[0].op_type == "Reshape":
        nodes, shape = nodes[1:], (int(np.prod(image_shape)),)
    for node in nodes:
        if any(attribute.name == "dilations" and set(attribute.ints) != {1} for attribute in node.attribute):
            raise SoftadvError("engine: the model has a dilated convolution, which GPUPoly cannot read")
    nodes[0].input[0] = graph.input[0].name
    used = {name for node in nodes for name in node.input}
    entering = helper.make_tensor_value_info(graph.input[0].name, onnx.TensorProto.FLOAT, [1, *shape])
    kept = [constant for constant in graph.initializer if constant.name in used]
    proto.graph.CopyFrom(helper.make_graph(nodes, graph.name, [entering], list(graph.output), initializer=kept))
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString(deterministic=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    if not path.exists():
        write_bytes(path, data)
    return EngineModel(path, shape, statistics)


def write_boxes(folder: Path, lower: Floats, upper: Floats, labels: Tensor) -> None:
    """Write a request's arrays. lower, upper: from EngineModel.boxes; labels: int64 (N,)."""
    try:
        for name, array in (("lower", lower), ("upper", upper), ("labels", labels.cpu().numpy())):
            np.save(folder / f"{name}.npy", array)
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be written ({error.strerror})") from error


def _normalized(values: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest float32 result of (values - mean) / std, or of values / std - mean / std."""
    exact = (values - mean) / std
    # Three roundings in float32, and those of the line above, which are far smaller.
    error = 4 * _UNIT * (values.abs() + mean.abs()) / std.abs() + _TINY
    return exact - error, exact + error
