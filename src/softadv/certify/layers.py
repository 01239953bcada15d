"""PyTorch's layers as the steps that compute them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.certify.ops import Conv, Dense, Flatten, MaxPool, Pair, Relu, Scale, Shape, Step
from softadv.errors import SoftadvError
from softadv.models import Normalize

SUPPORTED = "Conv2d, Linear, ReLU, MaxPool2d, AvgPool2d, BatchNorm2d, Flatten, Dropout, Identity, Normalize and +"


class Reshape(nn.Flatten):
    """A flattening to a number of features that the model states."""

    def __init__(self, features: object) -> None:
        super().__init__()
        self.features = features


def layer_steps(where: str, layer: nn.Module, shape: Shape, *, like: Tensor) -> list[Step]:
    """The steps that compute a layer, none where it changes nothing; like: a weight of the model."""
    if type(layer) in (nn.Identity, nn.Dropout, nn.Dropout2d):
        _check_eval(where, layer)
        return []
    match layer:  # exact types: a subclass may compute something else
        case nn.ReLU() if type(layer) is nn.ReLU:
            step: Step = Relu(shape, shape)
        case nn.Flatten() if type(layer) in (nn.Flatten, Reshape):
            step = _flatten(where, layer, shape)
        case nn.Linear() if type(layer) is nn.Linear:
            step = _dense(where, layer, shape)
        case nn.Conv2d() if type(layer) is nn.Conv2d:
            step = _conv(where, layer, shape)
        case Normalize() if type(layer) is Normalize:
            step = _normalize(where, layer, shape, like=like)
        case nn.BatchNorm2d() if type(layer) is nn.BatchNorm2d:
            step = _batch_norm(where, layer, shape, like=like)
        case nn.MaxPool2d() if type(layer) is nn.MaxPool2d:
            step = _max_pool(where, layer, shape)
        case nn.AvgPool2d() if type(layer) is nn.AvgPool2d:
            return _average_pool(where, layer, shape, like=like)
        case _:
            raise SoftadvError(f"{where}: not supported; the certifier reads {SUPPORTED}")
    return [step]


def _flatten(where: str, layer: nn.Flatten, shape: Shape) -> Step:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise SoftadvError(f"{where}: only start_dim=1, end_dim=-1 is supported")
    features = shape[0] * shape[1] * shape[2]
    if getattr(layer, "features", None) not in (None, features):
        raise SoftadvError(f"{where}: reshapes {features} features of an image into another number")
    return Flatten(shape, (features, 1, 1))


def _dense(where: str, layer: nn.Linear, shape: Shape) -> Step:
    weight = layer.weight.detach()  # its shape counts, whatever the layer's attributes say
    if shape != (weight.shape[1], 1, 1):
        raise SoftadvError(f"{where}: takes {weight.shape[1]} features but its input has shape {shape}")
    return Dense(weight, _bias(where, layer.bias, weight), shape, (len(weight), 1, 1))


def _conv(where: str, layer: nn.Conv2d, shape: Shape) -> Step:
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
    return Conv(weight, _bias(where, layer.bias, weight), stride, padding, dilation, layer.groups, shape, out_shape)


def _normalize(where: str, layer: Normalize, shape: Shape, *, like: Tensor) -> Step:
    _check_channels(where, len(layer.mean), shape)
    mean, std = layer.mean.double(), layer.std.double()
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    return _scale(shape, (one, 1 / std), zero, mean, parts=(layer.mean, layer.std), like=like)


def _batch_norm(where: str, layer: nn.BatchNorm2d, shape: Shape, *, like: Tensor) -> Step:
    _check_eval(where, layer)
    if layer.running_mean is None or layer.running_var is None:
        raise SoftadvError(f"{where}: keeps no running statistics, so what it computes depends on the batch")
    _check_channels(where, len(layer.running_mean), shape)
    mean, variance = layer.running_mean.double(), layer.running_var.double() + layer.eps
    weight = torch.ones_like(mean) if layer.weight is None else layer.weight.detach().double()
    shift = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
    # Whatever is flushed to zero, the variance or eps, is then less than one rounding of their sum.
    numbers = torch.finfo(like.dtype)
    invertible = variance >= 4 * numbers.tiny / numbers.eps
    inverse = variance.rsqrt().masked_fill(~invertible, torch.inf)
    return _scale(shape, (weight, inverse), shift, mean, parts=None, like=like)


def _scale(
    shape: Shape,
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


def _average_pool(where: str, layer: nn.AvgPool2d, shape: Shape, *, like: Tensor) -> list[Step]:
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


def _max_pool(where: str, layer: nn.MaxPool2d, shape: Shape) -> Step:
    if layer.ceil_mode or layer.return_indices or _pair(where, layer.dilation) != (1, 1):
        raise SoftadvError(f"{where}: ceil_mode, return_indices and dilation are not supported")
    kernel, stride, padding = _pair(where, layer.kernel_size), _pair(where, layer.stride), _pair(where, layer.padding)
    return MaxPool(kernel, stride, padding, shape, (shape[0], *_windows(where, shape, kernel, stride, padding)))


def _windows(where: str, shape: Shape, reach: Pair, stride: Pair, padding: Pair) -> Pair:
    """How many windows fit into an image, high and wide."""
    height, width = ((shape[i + 1] + 2 * padding[i] - reach[i]) // stride[i] + 1 for i in (0, 1))
    if height < 1 or width < 1:
        raise SoftadvError(f"{where}: its kernel {reach} is larger than its input of shape {shape}")
    return height, width


def _check_channels(where: str, channels: int, shape: Shape) -> None:
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
