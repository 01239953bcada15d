"""A model as a list of layers on flattened images, with dense matrices, entry by entry.

Activation 0 is the image, activation k leaves the k-th layer. Numbers are float64 or, on request,
fractions without rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from softadv.models import ImageShape, Normalize
from tests.networks import Residual

Array = NDArray[Any]  # float64, or objects that are integers and Fractions
Number = Callable[[float], Any]  # float or Fraction
Windows = list[list[int]]


@dataclass(frozen=True)
class Affine:
    """weight @ x + bias of activation `source`; weight: (O, D), diagonal where it scales each of them."""

    weight: Array
    bias: Array
    source: int
    scaling: bool = False


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""

    source: int


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window, which is a list of neurons."""

    windows: Windows
    source: int


@dataclass(frozen=True)
class Add:
    """The sum of two activations."""

    first: int
    second: int


Layers = list[Affine | Relu | MaxPool | Add]


def read(model: nn.Module, shape: ImageShape, *, number: Number = float) -> Layers:
    """The layers of a model in eval mode on images of a shape (C, H, W), flattened."""
    layers: Layers = []
    _append(layers, model, 0, shape, number)
    return layers


def _append(layers: Layers, module: nn.Module, at: int, shape: ImageShape, number: Number) -> tuple[int, ImageShape]:
    """Add the layers of a module that reads activation `at`; returns the activation that leaves it and its shape."""
    match module:
        case nn.Sequential():
            for part in module:
                at, shape = _append(layers, part, at, shape, number)
            return at, shape
        case nn.Identity() | nn.Dropout() | nn.Dropout2d() | nn.Flatten():
            return at, shape
        case Residual():
            first, _ = _append(layers, module.shortcut, at, shape, number)
            second, shape = _append(layers, module.body, at, shape, number)
            layers.append(Add(first, second))
        case nn.ReLU():
            layers.append(Relu(at))
        case nn.MaxPool2d():
            windows, shape = _pool_windows(module, shape)
            layers.append(MaxPool(windows, at))
        case _:
            weight, bias, shape = _affine(module, shape, number)
            layers.append(Affine(weight, bias, at, scaling=isinstance(module, nn.BatchNorm2d | Normalize)))
    return len(layers), shape


def _affine(module: nn.Module, shape: ImageShape, number: Number) -> tuple[Array, Array, ImageShape]:
    match module:
        case nn.Linear():
            weight = array(module.weight, number)
            return weight, _bias(module.bias, len(weight), number), (len(weight), 1, 1)
        case nn.Conv2d():
            return _convolution(module, shape, number)
        case nn.AvgPool2d():
            return _average(module, shape, number)
        case nn.BatchNorm2d():
            scale = array(module.weight, number) / np.sqrt(array(module.running_var, number) + module.eps)
            offset = array(module.bias, number) - scale * array(module.running_mean, number)
        case Normalize():
            scale = 1 / array(module.std, number)
            offset = -array(module.mean, number) * scale
        case _:
            raise NotImplementedError(module)
    pixels = prod(shape[1:])
    return np.diag(np.repeat(scale, pixels)), np.repeat(offset, pixels), shape


def _convolution(conv: nn.Conv2d, shape: ImageShape, number: Number) -> tuple[Array, Array, ImageShape]:
    """A convolution as a matrix, entry by entry."""
    kernel = array(conv.weight, number)
    outputs, channels = kernel.shape[:2]
    sides, taps = _taps(conv, shape)
    weight = _zeros((outputs, *sides, *shape), number)
    for o in range(outputs):
        group = channels * (o // (outputs // conv.groups))
        for (row, column), (i, j), (y, x) in taps:
            weight[o, row, column, group : group + channels, y, x] = kernel[o, :, i, j]
    bias = np.repeat(_bias(conv.bias, outputs, number), prod(sides))
    return weight.reshape(len(bias), -1), bias, (outputs, *sides)


def _average(pool: nn.AvgPool2d, shape: ImageShape, number: Number) -> tuple[Array, Array, ImageShape]:
    windows, out_shape = _pool_windows(pool, shape)
    weight = _zeros((len(windows), prod(shape)), number)
    for row, window in zip(weight, windows, strict=True):
        row[window] = number(1) / (prod(_pair(pool.kernel_size)) if pool.count_include_pad else len(window))
    return weight, _zeros((len(weight),), number), out_shape


def _pool_windows(pool: nn.AvgPool2d | nn.MaxPool2d, shape: ImageShape) -> tuple[Windows, ImageShape]:
    sides, taps = _taps(pool, shape)
    neurons, outputs = np.arange(prod(shape)).reshape(shape), np.arange(shape[0] * prod(sides)).reshape(-1, *sides)
    windows: Windows = [[] for _ in range(outputs.size)]
    for c in range(shape[0]):
        for position, _, pixel in taps:
            windows[outputs[c][position]].append(int(neurons[c][pixel]))
    return windows, (shape[0], *sides)


def _taps(module: Any, shape: ImageShape) -> tuple[tuple[int, ...], list[tuple[tuple[int, int], ...]]]:
    """A layer's output sides, and (output position, kernel position, pixel) wherever a window meets the image."""
    kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(getattr(module, "dilation", 1))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    match module.padding:
        case "same":
            before, both = [r // 2 for r in reach], reach
        case "valid":
            before, both = [0, 0], [0, 0]
        case padding:
            before, both = _pair(padding), [2 * p for p in _pair(padding)]
    sides = tuple((n + b - r - 1) // s + 1 for n, b, r, s in zip(shape[1:], both, reach, stride, strict=True))
    taps: list[tuple[tuple[int, int], ...]] = []
    for row, column, i, j in np.ndindex(*sides, *kernel):
        y, x = row * stride[0] - before[0] + i * dilation[0], column * stride[1] - before[1] + j * dilation[1]
        if 0 <= y < shape[1] and 0 <= x < shape[2]:
            taps.append(((row, column), (i, j), (y, x)))
    return sides, taps


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def array(values: Tensor | Array, number: Number) -> Array:
    values = values.detach().double().numpy() if isinstance(values, Tensor) else values
    return values if number is float else np.vectorize(number, otypes=[object])(values)


def _bias(bias: Tensor | None, size: int, number: Number) -> Array:
    return _zeros((size,), number) if bias is None else array(bias, number)


def _zeros(shape: tuple[int, ...], number: Number) -> Array:
    return np.zeros(shape, dtype=float if number is float else object)


def forward(layers: Layers, image: Array) -> Array:
    """The network's outputs for one flattened image."""
    values = [image]
    for layer in layers:
        match layer:
            case Affine():
                values.append(layer.weight @ values[layer.source] + layer.bias)
            case Relu():
                values.append(np.maximum(values[layer.source], 0))
            case MaxPool():
                values.append(largest(layer, values[layer.source]))
            case Add():
                values.append(values[layer.first] + values[layer.second])
    return values[-1]


def largest(layer: MaxPool, values: Array) -> Array:
    """The largest value of each window."""
    return np.array([values[window].max() for window in layer.windows])
