"""The ONNX operators that compute, each translated to PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from softadv._onnx.calls import OPERATORS, ConstantArithmetic, Function, Modules, OperatorCall, operator
from softadv._onnx.constants import UnreadError
from softadv._onnx.windows import Windows


def _single(value: float) -> float:
    """An attribute's default, which the standard has in single precision."""
    return torch.tensor(value, dtype=torch.float32).item()


def _loaded(layer: nn.Module, **weights: Tensor | None) -> nn.Module:
    """A layer that was made on the device without memory, with these weights."""
    for name, tensor in weights.items():
        if name in layer._buffers:
            setattr(layer, name, tensor)
        else:
            setattr(layer, name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return layer


@operator("Conv")
def _conv(call: OperatorCall) -> Modules:
    weight = call.weight(1)
    if weight.ndim != len(call.shapes[0]) + 1 or weight.ndim not in (3, 4):
        raise UnreadError(f"has a weight of shape {tuple(weight.shape)}; one or two dimensions are read")
    windows = Windows.of(call, list(weight.shape[2:]))
    if weight.ndim == 3:
        weight = weight[..., None]
    groups, bias = call.options.get("group", 1), None if call.constant(2) is None else call.weight(2)

    def build(padding: tuple[int, int]) -> nn.Module:
        layer = nn.Conv2d(
            weight.shape[1] * groups, len(weight), windows.kernel, windows.strides, padding, windows.dilations, groups,
            device="meta",
        )  # fmt: skip
        return _loaded(layer, weight=weight.contiguous(), bias=bias)

    return [windows.of_images(windows.padded(build))]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight), device="meta")
    return _loaded(layer, weight=weight.contiguous(), bias=bias)


@operator("Gemm")
def _gemm(call: OperatorCall) -> Modules:
    if len(call.shapes[0]) != 1 + call.unbatched or call.options.get("transA", 0):
        raise UnreadError("is read with vectors (N, D) on the left and a constant matrix on the right")
    weight, alpha, beta = call.weight(1), call.options.get("alpha", 1.0), call.options.get("beta", 1.0)
    weight = weight if call.options.get("transB", 0) else weight.t()
    bias = None if call.constant(2) is None else call.weight(2)
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and len(bias) != 1):
            raise UnreadError(f"adds a constant of shape {tuple(bias.shape)}, which is another for each row of a batch")
        bias = bias.reshape(-1).expand(len(weight)).contiguous()
    if alpha == beta == 1:
        return [_linear(weight, bias)]
    parts = [_linear(weight, None), ConstantArithmetic("Mul", torch.tensor(alpha, dtype=call.dtype), first=True)]
    if bias is not None:
        parts.append(ConstantArithmetic("Add", bias * torch.tensor(beta, dtype=call.dtype), first=True))
    return [nn.Sequential(*parts)]


@operator("MatMul")
def _matmul(call: OperatorCall) -> Modules:
    weight = call.weight(1 - call.first_active)
    if call.unbatched and call.first_active == 1 and len(call.shapes[0]) == 1 and weight.ndim == 2:
        return [_linear(weight, None)]
    while not call.unbatched and 2 < weight.ndim <= len(call.shapes[0]) + 1 and len(weight) == 1:
        weight = weight[0]
    if weight.ndim != 2 or (call.first_active == 1 and len(call.shapes[0]) < 2):
        raise UnreadError(f"is read beside one constant matrix, not one of shape {tuple(call.weight(1).shape)}")
    if call.first_active == 0:
        return [_linear(weight.t(), None)]
    swapped = Function(lambda x: x.transpose(-1, -2))
    return [nn.Sequential(swapped, _linear(weight, None), Function(lambda x: x.transpose(-1, -2)))]


def _beside(call: OperatorCall, at: int) -> Tensor:
    """A constant beside activations, which leaves them their number of dimensions."""
    constant = call.weight(at)
    if constant.ndim > len(call.shapes[0]) + 1 or (constant.ndim == len(call.shapes[0]) + 1 and len(constant) != 1):
        raise UnreadError(f"has a constant of shape {tuple(constant.shape)}, which is another for each row of a batch")
    return constant[0] if constant.ndim == len(call.shapes[0]) + 1 else constant


def _named_arithmetic(operator: str) -> Callable[[OperatorCall], Modules]:
    def build(call: OperatorCall) -> Modules:
        if len({len(shape) for shape in call.shapes}) > 1:
            raise UnreadError("takes activations of different numbers of dimensions")
        if len(call.shapes) == 2 and operator == "Sub":
            return [Function(torch.sub)]
        if len(call.shapes) != 1:
            raise UnreadError("of two activations only the sum and the difference are read")
        return [ConstantArithmetic(operator, _beside(call, 1 - call.first_active), first=call.first_active == 0)]

    return build


class Total(nn.Module):
    """The sum of activations and constants, in their order. terms: None where the next activation stands."""

    def __init__(self, terms: list[Tensor | None]) -> None:
        super().__init__()
        self._names = [None if term is None else f"term_{at}" for at, term in enumerate(terms)]
        for name, term in zip(self._names, terms, strict=True):
            if name is not None:
                self.register_buffer(name, term)

    def forward(self, *values: Tensor) -> Tensor:
        left = list(values)
        terms = [left.pop(0) if name is None else getattr(self, name) for name in self._names]
        if self._names[0] is not None and len(terms) > 1:  # constants are added to an activation
            terms[0], terms[1] = terms[1], terms[0]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


@operator("Add", "Sum")
def _sum(call: OperatorCall) -> Modules:
    if len({len(shape) for shape in call.shapes}) > 1:
        raise UnreadError("takes activations of different numbers of dimensions")
    terms = [None if given is None else _beside(call, at) for at, given in enumerate(call.constants)]
    if len(terms) > 2 and terms[0] is not None and terms[1] is not None:
        raise UnreadError("begins with two constants; add them up before")
    return [Total(terms)]


OPERATORS.update({name: _named_arithmetic(name) for name in ("Sub", "Mul", "Div")})


@operator("BatchNormalization")
def _batch_norm(call: OperatorCall) -> Modules:
    call.refuse(training_mode=0, spatial=1)
    if call.outputs != 1:
        raise UnreadError("has more than one output, as in training")
    if len(call.shapes[0]) > 3:
        raise UnreadError(f"is read with up to four dimensions, not with {len(call.shapes[0]) + 1}")
    kind = nn.BatchNorm2d if len(call.shapes[0]) == 3 else nn.BatchNorm1d
    layer = kind(call.shapes[0][0], eps=call.options.get("epsilon", _single(1e-5)), device="meta")
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
    return [nn.LeakyReLU(call.options.get("alpha", _single(0.01)))]


@operator("PRelu")
def _prelu(call: OperatorCall) -> Modules:
    slope, shape = _beside(call, 1), call.shapes[0]
    if tuple(torch.broadcast_shapes(slope.shape, shape)) != shape:
        raise UnreadError(f"has slopes of shape {tuple(slope.shape)} beside an activation of shape {shape}")
    if slope.numel() == 1 or slope.numel() == slope.shape[-len(shape)] * (slope.ndim == len(shape)):
        layer = nn.PReLU(slope.numel(), device="meta")  # one, or one a channel
        return [_loaded(layer, weight=slope.reshape(-1).contiguous())]
    slope = slope.expand(shape).reshape(-1).contiguous()
    own = _loaded(nn.PReLU(len(slope), device="meta"), weight=slope)
    return [nn.Sequential(nn.Flatten(), own, Function(lambda x: x.reshape(-1, *shape)))]


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


@operator("MaxPool")
def _max_pool(call: OperatorCall) -> Modules:
    windows = Windows.of(call, call.options["kernel_shape"])
    kernel, strides = windows.kernel, windows.strides
    if windows.dilations != (1, 1) and str(call.options.get("auto_pad", "")).startswith("SAME"):
        raise UnreadError("has auto_pad and dilations, which evaluators pad differently; give it pads")
    if windows.is_even and windows.dilations == (1, 1):
        return [windows.of_images(nn.MaxPool2d(kernel, strides, windows.pads[:2]))]
    index = windows.index()
    # Beside the image, a window has one of its own numbers again.
    index = torch.where(index < 0, index.amax(1, keepdim=True), index)
    if (index < 0).any():
        raise UnreadError("has a window that lies beside its input")
    return [windows.of_images(windows.listed(index, nn.MaxPool2d((1, index.shape[1]))))]


@operator("AveragePool")
def _average_pool(call: OperatorCall) -> Modules:
    windows = Windows.of(call, call.options["kernel_shape"])
    counts, kernel, strides = bool(call.options.get("count_include_pad", 0)), windows.kernel, windows.strides
    if windows.is_even and windows.dilations == (1, 1):
        pool = nn.AvgPool2d(kernel, strides, windows.pads[:2], count_include_pad=counts)
        return [windows.of_images(pool)]
    if windows.dilations != (1, 1) and str(call.options.get("auto_pad", "")).startswith("SAME"):
        raise UnreadError("has auto_pad and dilations, which evaluators pad differently; give it pads")
    index = windows.index(beyond=-2)
    met = (index > (-2 if counts else -1)).sum(1)
    _, high, wide = windows.out_shape
    if not met.all():
        raise UnreadError("has a window that lies beside its input")
    share = (kernel[0] * kernel[1] / met.double()).to(call.dtype).reshape(1, high, wide)
    if windows.dilations == (1, 1):
        parts: list[nn.Module] = [windows.zeros(), nn.AvgPool2d(kernel, strides)]
    else:
        parts = [windows.listed(index, nn.AvgPool2d((1, index.shape[1])))]
    if not (share == 1).all():
        parts.append(ConstantArithmetic("Mul", share, first=True))
    return [windows.of_images(nn.Sequential(*parts))]


@operator("GlobalAveragePool")
def _global_pool(call: OperatorCall) -> Modules:
    axes = list(range(2, len(call.shapes[0]) + 1))
    return [Function(lambda x: torch.mean(x, axes, keepdim=True)) if axes else nn.Identity()]


def _reduced(call: OperatorCall) -> list[int]:
    """The dimensions that a mean or a sum is taken over, counted from the batch's; none where it changes nothing."""
    axes, rank = call.number(1, "axes"), len(call.shapes[0]) + 1
    if not axes and call.options.get("noop_with_empty_axes", 0):
        return []
    over = sorted({axis % rank for axis in axes or range(rank)})
    if over[0] == 0:
        raise UnreadError("is taken over the batch, too")
    return over


@operator("ReduceMean")
def _reduce_mean(call: OperatorCall) -> Modules:
    over, keep = _reduced(call), bool(call.options.get("keepdims", 1))
    return [Function(lambda x: torch.mean(x, over, keepdim=keep)) if over else nn.Identity()]


@operator("ReduceSum")
def _reduce_sum(call: OperatorCall) -> Modules:
    """A product with ones, which is what a sum is."""
    over, shape = _reduced(call), (0, *call.shapes[0])
    if not over:
        return [nn.Identity()]
    others = [at for at in range(1, len(shape)) if at not in over]
    kept, count = [shape[at] for at in others], prod(shape[at] for at in over)
    keep = bool(call.options.get("keepdims", 1))
    after = [1 if at in over else shape[at] for at in range(1, len(shape)) if keep or at not in over]
    return [nn.Sequential(
        Function(lambda x: x.permute(0, *others, *over).reshape(-1, *kept, count)),
        _linear(torch.ones(1, count, dtype=call.dtype), None), Function(lambda x: x.reshape(-1, *after)),
    )]  # fmt: skip
