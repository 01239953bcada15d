"""The ONNX operators that compute, each translated to PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from softadv._onnx.calls import OPERATORS, ConstantArithmetic, Function, Modules, OperatorCall, operator
from softadv._onnx.constants import UnreadError


def _loaded(layer: nn.Module, **weights: Tensor | None) -> nn.Module:
    """A layer that was made on the device without memory, with these weights."""
    for name, tensor in weights.items():
        if name in layer._buffers:
            setattr(layer, name, tensor)
        else:
            setattr(layer, name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return layer


def _pads(call: OperatorCall, kernel: list[int], strides: list[int], dilations: list[int]) -> tuple[int, int, int, int]:
    """Padding at the top, left, bottom and right."""
    auto = call.options.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        top, left, bottom, right = call.options.get("pads", [0, 0, 0, 0])
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    found = []
    for size, k, s, d in zip(call.image()[1:], kernel, strides, dilations, strict=True):
        whole = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        found.append((whole // 2, whole - whole // 2) if auto == "SAME_UPPER" else (whole - whole // 2, whole // 2))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def _padded(pads: tuple[int, int, int, int], build: Callable[[tuple[int, int]], nn.Module]) -> nn.Module:
    """A layer with padding that may differ from side to side."""
    top, left, bottom, right = pads
    if min(pads) < 0:
        raise UnreadError(f"pads by {list(pads)}, which is negative")
    if (top, left) == (bottom, right):
        return build((top, left))
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), build((0, 0)))


@operator("Conv")
def _conv(call: OperatorCall) -> Modules:
    call.image()
    weight = call.weight(1)
    if weight.ndim != 4:
        raise UnreadError("is no convolution of images")
    kernel, groups = list(weight.shape[2:]), call.options.get("group", 1)
    strides, dilations = call.options.get("strides", [1, 1]), call.options.get("dilations", [1, 1])
    bias = None if call.constant(2) is None else call.weight(2)

    def build(padding: tuple[int, int]) -> nn.Module:
        layer = nn.Conv2d(
            weight.shape[1] * groups, len(weight), (kernel[0], kernel[1]), (strides[0], strides[1]), padding,
            (dilations[0], dilations[1]), groups, device="meta",
        )  # fmt: skip
        return _loaded(layer, weight=weight, bias=bias)

    return [_padded(_pads(call, kernel, strides, dilations), build)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight), device="meta")
    return _loaded(layer, weight=weight.contiguous(), bias=bias)


def _check_vector(call: OperatorCall) -> None:
    if len(call.shapes[0]) != 1 or call.first_active != 0:
        raise UnreadError("is read with vectors (N, D) on the left and a constant matrix on the right")


@operator("Gemm")
def _gemm(call: OperatorCall) -> Modules:
    _check_vector(call)
    call.refuse(alpha=1.0, beta=1.0, transA=0)
    weight = call.weight(1)
    bias = None if call.constant(2) is None else call.weight(2)
    weight = weight if call.options.get("transB", 0) else weight.t()
    if bias is not None:
        bias = bias.reshape(-1).expand(len(weight)).contiguous()
    return [_linear(weight, bias)]


@operator("MatMul")
def _matmul(call: OperatorCall) -> Modules:
    _check_vector(call)
    return [_linear(call.weight(1).t(), None)]


def _named_arithmetic(operator: str) -> Callable[[OperatorCall], Modules]:
    def build(call: OperatorCall) -> Modules:
        if len(call.shapes) == 2 and operator in ("Add", "Sum"):
            return [Function(torch.add)]
        if len(call.shapes) != 1 or len(call.constants) != 2:
            raise UnreadError("of two activations only the sum is read")
        constant = call.weight(1 - call.first_active)
        while constant.ndim > len(call.shapes[0]) and len(constant) == 1:
            constant = constant[0]
        return [ConstantArithmetic("Add" if operator == "Sum" else operator, constant, first=call.first_active == 0)]

    return build


OPERATORS.update({name: _named_arithmetic(name) for name in ("Add", "Sub", "Mul", "Div", "Sum")})


@operator("BatchNormalization")
def _batch_norm(call: OperatorCall) -> Modules:
    call.refuse(training_mode=0, spatial=1)
    if call.outputs != 1:
        raise UnreadError("has more than one output, as in training")
    kind = nn.BatchNorm1d if len(call.shapes[0]) == 1 else nn.BatchNorm2d
    layer = kind(call.shapes[0][0], eps=call.options.get("epsilon", 1e-5), device="meta")
    names = ("weight", "bias", "running_mean", "running_var")
    weights: dict[str, Tensor | None] = {name: call.weight(at) for at, name in enumerate(names, 1)}
    return [_loaded(layer, **weights, num_batches_tracked=torch.tensor(0))]


@operator("Neg")
def _negative(call: OperatorCall) -> Modules:
    return [ConstantArithmetic("Mul", torch.tensor(-1.0, dtype=call.dtype), first=True)]


@operator("Relu")
def _relu(call: OperatorCall) -> Modules:
    return [nn.ReLU()]


@operator("LeakyRelu")
def _leaky_relu(call: OperatorCall) -> Modules:
    return [nn.LeakyReLU(call.options.get("alpha", 0.01))]


@operator("PRelu")
def _prelu(call: OperatorCall) -> Modules:
    slope = call.weight(1)
    if slope.numel() not in (1, call.shapes[0][0]) or (slope.numel() > 1 and slope.numel() != max(slope.shape)):
        raise UnreadError(f"has slopes of shape {tuple(slope.shape)}; one, or one a channel, is read")
    layer = nn.PReLU(slope.numel(), device="meta")
    return [_loaded(layer, weight=slope.reshape(-1))]


@operator("Clip")
def _clip(call: OperatorCall) -> Modules:
    low, high = call.number(1, "min"), call.number(2, "max")
    return [Function(lambda x: torch.clamp(x, low, high))]


@operator("Sigmoid")
def _sigmoid(call: OperatorCall) -> Modules:
    return [nn.Sigmoid()]


@operator("Tanh")
def _tanh(call: OperatorCall) -> Modules:
    return [nn.Tanh()]


@operator("Softmax")
def _softmax(call: OperatorCall) -> Modules:
    return [nn.Softmax(_class_axis(call))]


@operator("LogSoftmax")
def _log_softmax(call: OperatorCall) -> Modules:
    return [nn.LogSoftmax(_class_axis(call))]


def _class_axis(call: OperatorCall) -> int:
    axis = call.options.get("axis", -1 if call.opset >= 13 else 1)
    if len(call.shapes[0]) != 1 or axis not in (1, -1):
        raise UnreadError("is read over the classes of a vector of scores only")
    return 1


def _pool(maximum: bool) -> Callable[[OperatorCall], Modules]:
    def build(call: OperatorCall) -> Modules:
        call.image()
        call.refuse(ceil_mode=0, dilations=[1, 1], storage_order=0)
        if call.outputs != 1:
            raise UnreadError("has more than one output")
        kernel, strides = call.options["kernel_shape"], call.options.get("strides", [1, 1])
        top, left, bottom, right = _pads(call, kernel, strides, [1, 1])
        if (top, left) != (bottom, right):
            raise UnreadError("pads differently from side to side")
        if maximum:
            return [nn.MaxPool2d(tuple(kernel), tuple(strides), (top, left))]
        counts = bool(call.options.get("count_include_pad", 0))
        return [nn.AvgPool2d(tuple(kernel), tuple(strides), (top, left), count_include_pad=counts)]

    return build


OPERATORS |= {"MaxPool": _pool(maximum=True), "AveragePool": _pool(maximum=False)}


@operator("GlobalAveragePool")
def _global_pool(call: OperatorCall) -> Modules:
    call.image()
    return [Function(lambda x: torch.mean(x, (2, 3), keepdim=True))]


@operator("ReduceMean")
def _reduce_mean(call: OperatorCall) -> Modules:
    axes, keep = call.number(1, "axes"), bool(call.options.get("keepdims", 1))
    if len(call.shapes[0]) != 3 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise UnreadError("only the mean over height and width is read")
    return [Function(lambda x: torch.mean(x, (2, 3), keepdim=keep))]


@operator("Pad")
def _pad(call: OperatorCall) -> Modules:
    call.image()
    call.refuse(mode="constant")
    pads, value = call.number(1, "pads"), call.number(2, "value", 0.0)
    if call.constant(3) is not None:
        raise UnreadError("pads named axes; give it all of them")
    if np.any(np.asarray(value) != 0) or any(pads[at] for at in (0, 1, 4, 5)) or min(pads) < 0:
        raise UnreadError("only zeros around height and width are read")
    _, _, top, left, _, _, bottom, right = pads
    return [nn.ZeroPad2d((left, right, top, bottom))]
