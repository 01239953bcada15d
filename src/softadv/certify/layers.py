"""PyTorch's layers, translated to the steps that compute them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._onnx.calls import read_as_layer
from softadv.certify.linear_forms import PlaneShape
from softadv.certify.operators import (
    Activation,
    Clipping,
    Conv,
    Dense,
    Flatten,
    Gather,
    LeakyRelu,
    LinearOperator,
    MaxPool,
    Pair,
    Relu,
    Scale,
    Sigmoid,
    Step,
    Tanh,
)  # fmt: skip
from softadv.certify.selections import padded
from softadv.errors import SoftadvError
from softadv.models import Normalize

SUPPORTED = (
    "Conv2d, Linear, ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh, clamp, Sigmoid, Tanh, MaxPool2d, AvgPool2d, "
    "AdaptiveAvgPool2d, means, BatchNorm1d, BatchNorm2d, Normalize, ZeroPad2d, Flatten, Dropout, Identity, "
    "reshapes, slices, permutations, cat, +, -, arithmetic with constants, and softmax or log_softmax as the last"
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # return their very input in eval mode

_OF_STATISTICS = "it divides by statistics of the image itself; a batch normalisation in eval mode does not"
_OF_CURVES = "ReLU, LeakyReLU, Sigmoid and Tanh are read, or register it: softadv.certify.register_operator"
_INSTEAD: dict[type[nn.Module], str] = {
    nn.GroupNorm: _OF_STATISTICS, nn.LayerNorm: _OF_STATISTICS, nn.InstanceNorm2d: _OF_STATISTICS,
    nn.GELU: _OF_CURVES, nn.SiLU: _OF_CURVES, nn.ELU: _OF_CURVES, nn.Softplus: _OF_CURVES, nn.Hardswish: _OF_CURVES,
    nn.Mish: _OF_CURVES, nn.SELU: _OF_CURVES, nn.CELU: _OF_CURVES, nn.Hardsigmoid: _OF_CURVES,
    nn.AdaptiveMaxPool2d: "MaxPool2d with its kernel says the same",
}  # fmt: skip

# An evaluator may move a factor of the input behind the matrix product. With factors from here to the reciprocal, the
# theorem's allowance for underflow covers that.
_LEAST = 2.0**-20


class Clamp(nn.Module):
    """torch.clamp between two numbers, None for no bound."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high


class Mean(nn.Module):
    """The mean of each channel over its pixels; keepdim leaves one pixel."""


StepBuilder = Callable[[str, Any, PlaneShape, Tensor], list[Step]]
OperatorBuilder = Callable[[Any, PlaneShape], Activation | LinearOperator]
_REGISTERED: dict[type[nn.Module], OperatorBuilder] = {}


def register_operator(
    kind: type[nn.Module], *, onnx: str | None = None
) -> Callable[[OperatorBuilder], OperatorBuilder]:
    """Let the certifier read a layer of your own: decorates a function (layer, shape) -> operator.

    kind: exactly this class, whose layers take one activation. The function is given a layer and the shape (C, H, W) of
    its input, and returns an Activation or a LinearOperator. onnx: an ONNX operator that computes the same without
    attributes; files with it are read from now on. Raises SoftadvError for one that softadv reads itself.
    """
    if onnx is not None:
        read_as_layer(onnx, kind)

    def add(build: OperatorBuilder) -> OperatorBuilder:
        _REGISTERED[kind] = build
        return build

    return add


def is_one_layer(layer: nn.Module) -> bool:
    """Whether a layer outside of torch.nn is read as a whole, so that torch.fx must not trace into it."""
    return type(layer) in _REGISTERED or type(layer) is Normalize or is_torchvision_normalize(layer)


def is_torchvision_normalize(layer: nn.Module) -> bool:
    """Whether a layer is torchvision.transforms.Normalize, without loading torchvision."""
    kind = type(layer)
    return kind.__name__ == "Normalize" and kind.__module__ == "torchvision.transforms.transforms"


def builders() -> Mapping[type[nn.Module], StepBuilder]:
    """The layers that are read, except for those that change nothing and registered ones."""
    return _BUILDERS


def layer_steps(where: str, layer: nn.Module, shape: PlaneShape, *, like: Tensor) -> list[Step]:
    """The steps that compute a layer, none where it changes nothing; like: a weight of the model."""
    kind = type(layer)  # exactly: a subclass may compute something else
    if kind in _REGISTERED:
        return [_REGISTERED[kind](layer, shape)]
    if is_torchvision_normalize(layer):
        return _normalize(where, layer, shape, like)
    if kind in (nn.Identity, *DROPOUTS):
        _check_eval(where, layer)
        return []
    if kind not in _BUILDERS:
        instead = _INSTEAD.get(kind, f"the certifier reads {SUPPORTED}")
        raise SoftadvError(f"{where}: not supported; {instead}")
    return _BUILDERS[kind](where, layer, shape, like)


def _flatten(where: str, layer: nn.Flatten, shape: PlaneShape, like: Tensor) -> list[Step]:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise SoftadvError(f"{where}: only start_dim=1, end_dim=-1 is supported")
    features = shape[0] * shape[1] * shape[2]
    return [Flatten(shape, (features, 1, 1))]


def _dense(where: str, layer: nn.Linear, shape: PlaneShape, like: Tensor) -> list[Step]:
    weight = layer.weight.detach()  # its shape counts, whatever the layer's attributes say
    if shape != (weight.shape[1], 1, 1):
        raise SoftadvError(f"{where}: takes {weight.shape[1]} features but its input has shape {shape}")
    return [Dense(weight, _bias(where, layer.bias, weight), shape, (len(weight), 1, 1))]


def _conv(where: str, layer: nn.Conv2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    if layer.padding_mode != "zeros":
        raise SoftadvError(f"{where}: padding_mode={layer.padding_mode!r} is not supported, only zeros")
    weight = layer.weight.detach()  # its shape counts, whatever the layer's attributes say
    _check_channels(where, weight.shape[1] * layer.groups, shape)
    kernel, dilation = _pair(where, tuple(weight.shape[2:])), _pair(where, layer.dilation)
    reach = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
    if layer.padding == "same":
        if reach[0] % 2 == 0 or reach[1] % 2 == 0:
            raise SoftadvError(f"{where}: padding='same' pads an even kernel on one side only, which is not supported")
        padding = ((reach[0] - 1) // 2, (reach[1] - 1) // 2)
    else:
        padding = (0, 0) if isinstance(layer.padding, str) else _pair(where, layer.padding)
    stride = _pair(where, layer.stride)
    out_shape = (len(weight), *_windows(where, shape, reach, stride, padding))
    return [Conv(weight, _bias(where, layer.bias, weight), stride, padding, dilation, layer.groups, shape, out_shape)]


def _normalize(where: str, layer: Any, shape: PlaneShape, like: Tensor) -> list[Step]:
    mean, std = (_of_channels(where, values, shape, like) for values in (layer.mean, layer.std))
    one, zero = torch.ones_like(mean).double(), torch.zeros_like(mean).double()
    return [_scale(shape, (one, 1 / std.double()), zero, mean.double(), parts=(mean, std), like=like)]


def _of_channels(where: str, values: Any, shape: PlaneShape, like: Tensor) -> Tensor:
    """A number for each channel, (C,), or one for all of them."""
    found: Tensor = torch.atleast_1d(torch.as_tensor(values, dtype=like.dtype).to(like.device))
    if found.shape != (1,):
        _check_channels(where, len(found), shape)
    return found.expand(shape[0])


def _batch_norm(where: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    _check_eval(where, layer)
    if layer.running_mean is None or layer.running_var is None:
        raise SoftadvError(f"{where}: keeps no running statistics, so what it computes depends on the batch")
    _check_channels(where, len(layer.running_mean), shape)
    mean, variance = layer.running_mean.double(), layer.running_var.double() + layer.eps
    weight = torch.ones_like(mean) if layer.weight is None else layer.weight.detach().double()
    shift = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
    # Whatever is flushed to zero, the variance or eps, is then less than one rounding of their sum. A negative
    # variance takes most of eps away, whose own rounding is then a larger part of what is left.
    numbers = torch.finfo(like.dtype)
    invertible = (variance >= 4 * numbers.tiny / numbers.eps) & (layer.running_var >= 0)
    inverse = variance.rsqrt().masked_fill(~invertible, torch.inf)
    return [_scale(shape, (weight, inverse), shift, mean, parts=None, like=like)]


def _scale(
    shape: PlaneShape,
    factors: tuple[Tensor, Tensor],
    shift: Tensor,
    mean: Tensor,
    *,
    parts: tuple[Tensor, Tensor] | None,
    like: Tensor,
) -> Step:
    """(x - mean) * factors + shift, channel by channel, computed in float64 and kept in the type of like."""
    factor = factors[0] * factors[1]
    largest = shift.abs() + (mean * factor).abs()
    # An evaluator may multiply by either factor first, before or after it subtracts the mean.
    size, first, second = (values.abs().clamp(min=1) for values in (mean, *factors))
    stretch = 2 * size * first * second
    bias = shift - mean * factor
    return Scale(
        factor.to(like.dtype)[:, None, None].expand(shape), bias.to(like.dtype), largest.to(like.dtype), parts,
        stretch.to(like.dtype), shape, shape,
    )  # fmt: skip


def _average_pool(where: str, layer: nn.AvgPool2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    if layer.ceil_mode or layer.divisor_override is not None:
        raise SoftadvError(f"{where}: ceil_mode and divisor_override are not supported")
    kernel, stride, padding = _pair(where, layer.kernel_size), _pair(where, layer.stride), _pair(where, layer.padding)
    out_shape = (shape[0], *_windows(where, shape, kernel, stride, padding))
    weight = like.detach().new_full((shape[0], 1, *kernel), 1 / (kernel[0] * kernel[1]))
    mean = Conv(weight, weight.new_zeros(shape[0]), stride, padding, (1, 1), shape[0], shape, out_shape)
    if layer.count_include_pad or padding == (0, 0):
        return [mean]
    inside = F.avg_pool2d(weight.new_ones(1, *shape), kernel, stride, padding)[0]
    zero = weight.new_zeros(shape[0])
    return [mean, Scale(1 / inside, zero, zero, None, None, out_shape, out_shape)]


def _max_pool(where: str, layer: nn.MaxPool2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    if layer.ceil_mode or layer.return_indices or _pair(where, layer.dilation) != (1, 1):
        raise SoftadvError(f"{where}: ceil_mode, return_indices and dilation are not supported")
    kernel, stride, padding = _pair(where, layer.kernel_size), _pair(where, layer.stride), _pair(where, layer.padding)
    return [MaxPool(kernel, stride, padding, shape, (shape[0], *_windows(where, shape, kernel, stride, padding)))]


def _adaptive_pool(where: str, layer: nn.AdaptiveAvgPool2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    asked: Any = layer.output_size
    sizes = _pair(where, [n or 0 for n in asked] if isinstance(asked, tuple | list) else asked or 0)
    high, wide = (n or side for n, side in zip(sizes, shape[1:], strict=True))
    if min(high, wide) < 1 or shape[1] % high or shape[2] % wide:
        raise SoftadvError(
            f"{where}: its windows are of several sizes, {shape[1:]} pixels to {(high, wide)}; "
            "sizes that divide those of its input are supported, such as 1"
        )
    kernel = (shape[1] // high, shape[2] // wide)
    return _average_pool(where, nn.AvgPool2d(kernel), shape, like)


def _leaky_relu(where: str, layer: nn.LeakyReLU, shape: PlaneShape, like: Tensor) -> list[Step]:
    slope = torch.tensor([layer.negative_slope], dtype=like.dtype, device=like.device)
    return [LeakyRelu(shape, shape, slope.double())]


def _prelu(where: str, layer: nn.PReLU, shape: PlaneShape, like: Tensor) -> list[Step]:
    weight = layer.weight.detach()
    if weight.shape not in ((1,), (shape[0],)):
        raise SoftadvError(f"{where}: has {weight.numel()} slopes but its input has shape {shape}")
    return [LeakyRelu(shape, shape, weight.double())]


def _clip(shape: PlaneShape, low: float | None, high: float | None, like: Tensor) -> Step:
    ends = [-torch.inf if low is None else low, torch.inf if high is None else high]
    # As the evaluator has them: numbers of the type of its input.
    first, last = torch.tensor(ends, dtype=torch.float64).to(like.dtype).tolist()
    return Clipping(shape, shape, first, last)


def _clamp(where: str, layer: Clamp, shape: PlaneShape, like: Tensor) -> list[Step]:
    low, high = layer.low, layer.high
    if low is not None and high is not None and not low <= high:
        raise SoftadvError(f"{where}: clamps to [{low:g}, {high:g}], which is empty")
    return [_clip(shape, low, high, like)]


def _hardtanh(where: str, layer: nn.Hardtanh, shape: PlaneShape, like: Tensor) -> list[Step]:
    return _clamp(where, Clamp(layer.min_val, layer.max_val), shape, like)


def _zero_pad(where: str, layer: nn.ZeroPad2d, shape: PlaneShape, like: Tensor) -> list[Step]:
    left, right, top, bottom = layer.padding
    if layer.value != 0:
        raise SoftadvError(f"{where}: pads with {layer.value:g}, not with zeros")
    if min(layer.padding) < 0:
        raise SoftadvError(f"{where}: negative padding cuts pixels off, which is not supported")
    return [padded(shape, left=left, right=right, top=top, bottom=bottom, like=like)]


def arithmetic(
    where: str, shape: PlaneShape, like: Tensor, *, factor: Tensor, divides: bool, shift: Tensor, mean: Tensor
) -> list[Step]:
    """(x - mean) * factor + shift, or / factor; each float64, and broadcasts to (C, H, W)."""
    whole = [values.expand(shape) for values in (factor, shift, mean)]
    flat = [values.flatten(1)[:, 0] for values in whole]
    alike = [bool((values == first[:, None, None]).all()) for values, first in zip(whole, flat, strict=True)]
    single = flat[0][0].abs()
    if alike[0] and bool((flat[0] == flat[0][0]).all()) and not (single == 0 or _LEAST <= single <= 1 / _LEAST):
        raise SoftadvError(f"{where}: a factor of {float(flat[0][0]):g} is out of the range from 2^-20 to 2^20")
    if not alike[1] or not alike[2]:  # as a vector, every neuron is a channel
        vector: PlaneShape = (prod(shape), 1, 1)
        factor, shift, mean = (values.reshape(-1) for values in whole)
        by = 1 / factor if divides else factor
        scale = _scale(vector, (torch.ones_like(by), by), shift, mean, parts=None, like=like)
        stays = torch.arange(prod(shape), device=like.device)
        return [Gather(stays, shape, vector), scale, Gather(stays, vector, shape)]
    if alike[0]:
        by = 1 / flat[0] if divides else flat[0]
        return [_scale(shape, (torch.ones_like(by), by), flat[1], flat[2], parts=None, like=like)]
    zero = torch.zeros_like(flat[1]).to(like.dtype)
    values = 1 / whole[0] if divides else whole[0]
    return [Scale(values.to(like.dtype), zero, zero, None, None, shape, shape)]


def _windows(where: str, shape: PlaneShape, reach: Pair, stride: Pair, padding: Pair) -> Pair:
    """How many windows fit into an image, high and wide."""
    height, width = ((shape[i + 1] + 2 * padding[i] - reach[i]) // stride[i] + 1 for i in (0, 1))
    if height < 1 or width < 1:
        raise SoftadvError(f"{where}: its kernel {reach} is larger than its input of shape {shape}")
    return height, width


def _check_channels(where: str, channels: int, shape: PlaneShape) -> None:
    if channels != shape[0]:
        raise SoftadvError(f"{where}: takes {channels} channels but its input has shape {shape}")


def _check_eval(where: str, layer: nn.Module) -> None:
    if layer.training and not isinstance(layer, nn.Identity):
        raise SoftadvError(f"{where}: is in training mode, where its outputs are random; call model.eval() first")


def _bias(where: str, bias: Tensor | None, weight: Tensor) -> Tensor:
    if bias is not None and len(bias) != len(weight):
        raise SoftadvError(f"{where}: has {len(weight)} outputs but {len(bias)} biases")
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def _pair(where: str, values: object) -> Pair:
    pair = (values, values) if isinstance(values, int) else values
    match pair:
        case (int() as first, int() as second):
            return (first, second)
    raise SoftadvError(f"{where}: expected one whole number or two, got {values}")


def _one(build: Callable[[PlaneShape, PlaneShape], Step]) -> StepBuilder:
    return lambda where, layer, shape, like: [build(shape, shape)]


_BUILDERS: dict[type[nn.Module], StepBuilder] = {
    nn.ReLU: _one(Relu), nn.Sigmoid: _one(Sigmoid), nn.Tanh: _one(Tanh), nn.LeakyReLU: _leaky_relu, nn.PReLU: _prelu,
    nn.ReLU6: _hardtanh, nn.Hardtanh: _hardtanh, Clamp: _clamp, nn.Flatten: _flatten,
    nn.Linear: _dense, nn.Conv2d: _conv, nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool, nn.AvgPool2d: _average_pool, nn.AdaptiveAvgPool2d: _adaptive_pool,
    Mean: lambda where, layer, shape, like: _average_pool(where, nn.AvgPool2d(shape[1:]), shape, like),
    nn.ZeroPad2d: _zero_pad, Normalize: _normalize,
}  # fmt: skip
