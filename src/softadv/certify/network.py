"""A PyTorch model in the form the abstract domains read: a chain of steps.

Each step keeps the rules of one operator together: how intervals go forward through it and how
linear forms go backward. ReLU is the only step that is not linear; its relaxations are in relu.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.certify.rows import Rows, Windows
from softadv.convolution import TransposedConv
from softadv.errors import SoftadvError
from softadv.models import Normalize, is_plain_sequential

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Conv:
    """y = weight * x + bias, a convolution with zero padding."""

    weight: Tensor  # (O, C, kh, kw)
    bias: Tensor  # (O,)
    stride: tuple[int, int]
    padding: tuple[int, int]
    in_shape: Shape
    out_shape: Shape

    @cached_property
    def transposed(self) -> TransposedConv:
        return TransposedConv(self.weight, stride=self.stride)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        middle = F.conv2d(center, self.weight, self.bias, self.stride, self.padding)
        spread = F.conv2d(radius, self.weight.abs(), None, self.stride, self.padding)
        return middle - spread, middle + spread

    def rows(self) -> Rows:
        """Every output neuron as a linear form of the input: one window per position."""
        _, height, width = self.out_shape
        kernel = (self.weight.shape[2], self.weight.shape[3])
        windows = Windows((height, width), self.stride, self.padding, kernel)
        coefs = self.weight.permute(0, 2, 3, 1)[None, None]
        return Rows(self._inside(coefs, windows), self.bias[None, None], windows)

    def input_windows(self, windows: Windows) -> Windows:
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return windows.through(stride=self.stride, padding=self.padding, kernel=kernel)

    def backward(self, rows: Rows) -> Rows:
        const = rows.const + torch.matmul(rows.coefs, self.bias).sum((3, 4))
        flat = rows.coefs.flatten(0, 2).permute(0, 3, 1, 2)
        coefs = self.transposed(flat).permute(0, 2, 3, 1)
        coefs = coefs.reshape(*rows.coefs.shape[:3], *coefs.shape[1:])
        windows = self.input_windows(rows.windows)
        return Rows(self._inside(coefs, windows), const, windows)

    def _inside(self, coefs: Tensor, windows: Windows) -> Tensor:
        """Coefficients without those over the edge: what lies there is zero padding, not a neuron."""
        _, height, width = self.in_shape
        if windows.inside(height, width):
            return coefs
        return coefs * windows.cut(coefs.new_ones(1, 1, height, width)).unsqueeze(2)


@dataclass(frozen=True)
class Dense:
    """y = weight x + bias on a vector, kept as D channels of one pixel."""

    weight: Tensor  # (O, D)
    bias: Tensor  # (O,)
    in_shape: Shape
    out_shape: Shape

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        center, radius = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
        middle = F.linear(center, self.weight, self.bias)
        spread = F.linear(radius, self.weight.abs())
        shape = (-1, *self.out_shape)
        return (middle - spread).reshape(shape), (middle + spread).reshape(shape)

    def rows(self) -> Rows:
        """Every output neuron as a linear form of the input."""
        return Rows(self.weight[None, None, :, None, None], self.bias[None, None], Windows.whole(1, 1))

    def input_windows(self, windows: Windows) -> Windows:
        return Windows.whole(1, 1)

    def backward(self, rows: Rows) -> Rows:
        flat = rows.coefs.flatten(3)
        const = rows.const + torch.matmul(flat, self.bias)
        coefs = torch.matmul(flat, self.weight)
        return Rows(coefs[..., None, None, :], const, self.input_windows(rows.windows))


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) to (C * H * W, 1, 1)."""

    in_shape: Shape
    out_shape: Shape

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.reshape(-1, *self.out_shape), upper.reshape(-1, *self.out_shape)

    def input_windows(self, windows: Windows) -> Windows:
        return Windows.whole(*self.in_shape[1:])

    def backward(self, rows: Rows) -> Rows:
        coefs = rows.coefs.reshape(*rows.coefs.shape[:3], *self.in_shape)
        return Rows(coefs.movedim(3, 5).contiguous(), rows.const, self.input_windows(rows.windows))


@dataclass(frozen=True)
class Scale:
    """y = (x - mean) / std per channel: a Normalize layer."""

    mean: Tensor  # (C,)
    std: Tensor  # (C,), positive
    in_shape: Shape
    out_shape: Shape

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return (lower - mean) / std, (upper - mean) / std

    def input_windows(self, windows: Windows) -> Windows:
        return windows

    def backward(self, rows: Rows) -> Rows:
        coefs = rows.coefs / self.std
        return Rows(coefs, rows.const - torch.matmul(coefs, self.mean).sum((3, 4)), rows.windows)


@dataclass(frozen=True)
class Relu:
    """y = max(x, 0)."""

    in_shape: Shape
    out_shape: Shape

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.clamp(min=0), upper.clamp(min=0)

    def input_windows(self, windows: Windows) -> Windows:
        return windows


Linear = Conv | Dense | Flatten | Scale
Step = Linear | Relu


@dataclass(frozen=True)
class Network:
    """A chain of steps from an image (C, H, W) to `classes` outputs."""

    steps: tuple[Step, ...]
    in_shape: Shape
    classes: int


def read_network(model: nn.Module, in_shape: Shape) -> Network:
    """Read an nn.Sequential of Conv2d, ReLU, Linear, Flatten and softadv's Normalize.

    Weights are shared with the model, not copied. Raises SoftadvError naming the first layer that
    is of another kind, has an option that is not supported, or does not fit its input's shape.
    """
    if not is_plain_sequential(model):
        raise SoftadvError(f"model: {type(model).__name__} is not an nn.Sequential of Conv2d, ReLU, Linear, Flatten")
    steps: list[Step] = []
    shape, flat = in_shape, False
    for name, layer in _layers(model, prefix=""):
        where = f"layer {name} ({type(layer).__name__})"
        if type(layer) is nn.Linear and not flat:
            raise SoftadvError(f"{where}: its input is not a vector but has shape {shape}; is a Flatten missing?")
        if type(layer) in (nn.Conv2d, Normalize) and flat:
            raise SoftadvError(f"{where}: its input is a vector, not an image")
        step = _read_layer(where, layer, shape)
        steps.append(step)
        shape, flat = step.out_shape, flat or type(layer) is nn.Flatten
    if not flat:
        raise SoftadvError(f"model: ends in shape {shape}, not in a vector of class scores; is a Flatten missing?")
    if shape[0] < 2:
        raise SoftadvError("model: has one output, classification needs at least two")
    return Network(tuple(steps), in_shape, shape[0])


def _layers(model: nn.Module, *, prefix: str) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    # Not named_children(), which leaves a layer out when it comes a second time.
    for name, layer in model._modules.items():
        if layer is not None and is_plain_sequential(layer):
            found += _layers(layer, prefix=f"{prefix}{name}.")
        elif layer is not None:
            found.append((f"{prefix}{name}", layer))
    return found


def _read_layer(where: str, layer: nn.Module, shape: Shape) -> Step:
    # Exact types: a subclass may compute something else.
    if type(layer) is nn.ReLU:
        return Relu(shape, shape)
    if type(layer) is nn.Flatten:
        if (layer.start_dim, layer.end_dim) != (1, -1):
            raise SoftadvError(f"{where}: only start_dim=1, end_dim=-1 is supported")
        return Flatten(shape, (shape[0] * shape[1] * shape[2], 1, 1))
    if type(layer) is nn.Linear:
        if shape != (layer.in_features, 1, 1):
            raise SoftadvError(f"{where}: takes {layer.in_features} features but its input has shape {shape}")
        weight = layer.weight.detach()
        return Dense(weight, _bias(layer.bias, weight), shape, (layer.out_features, 1, 1))
    if type(layer) is nn.Conv2d:
        return _read_conv(where, layer, shape)
    if type(layer) is Normalize:
        if len(layer.mean) != shape[0]:
            raise SoftadvError(f"{where}: takes {len(layer.mean)} channels but its input has shape {shape}")
        return Scale(layer.mean, layer.std, shape, shape)
    raise SoftadvError(f"{where}: not supported; the certifier reads Conv2d, ReLU, Linear, Flatten and Normalize")


def _read_conv(where: str, layer: nn.Conv2d, shape: Shape) -> Conv:
    if layer.groups != 1 or tuple(layer.dilation) != (1, 1) or layer.padding_mode != "zeros":
        raise SoftadvError(f"{where}: groups, dilation and padding modes other than zeros are not supported")
    if shape[0] != layer.in_channels:
        raise SoftadvError(f"{where}: takes {layer.in_channels} channels but its input has shape {shape}")
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    if isinstance(layer.padding, str):
        raise SoftadvError(f"{where}: padding={layer.padding!r} is not supported, give it as a number")
    padding = _pair(layer.padding)
    height, width = ((shape[i + 1] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    if height < 1 or width < 1:
        raise SoftadvError(f"{where}: its kernel {kernel} is larger than its input of shape {shape}")
    weight = layer.weight.detach()
    return Conv(weight, _bias(layer.bias, weight), stride, padding, shape, (layer.out_channels, height, width))


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[0]) if bias is None else bias.detach()


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[1])
