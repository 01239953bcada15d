"""Box, DeepZono and DeepPoly once more, the plain way: one image, dense float64 matrices, no tricks.

A network is a list of affine maps and ReLUs on flattened images. Box carries intervals forwards;
DeepZono carries a zonotope forwards, with a new noise symbol for each unstable neuron; DeepPoly
substitutes linear forms back to the input, once for each layer that feeds a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from softadv.models import Normalize

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """weight x + bias; weight: (O, D)."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


Layers = list[Affine | Relu]


def read(model: nn.Sequential, shape: tuple[int, ...]) -> Layers:
    """The layers of a model on images of a shape (C, H, W), flattened. Flatten itself does nothing then."""
    layers: Layers = []
    for layer in model:
        match layer:
            case nn.ReLU():
                layers.append(Relu())
            case nn.Linear():
                layers.append(Affine(_array(layer.weight), _array(layer.bias)))
            case Normalize():
                mean, std = (np.repeat(_array(t), prod(shape[1:])) for t in (layer.mean, layer.std))
                layers.append(Affine(np.diag(1 / std), -mean / std))
            case nn.Conv2d():
                affine, shape = _dense(layer, shape)
                layers.append(affine)
            case nn.Flatten():
                pass
            case _:
                raise NotImplementedError(layer)
    return layers


def _dense(conv: nn.Conv2d, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """A convolution as a matrix, entry by entry."""
    kernel = _array(conv.weight)
    outputs, channels, kh, kw = kernel.shape
    _, height, width = shape
    (sh, sw), (ph, pw) = conv.stride, conv.padding
    rows, columns = (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1
    weight = np.zeros((outputs, rows, columns, channels, height, width))
    for row, column, i, j in np.ndindex(rows, columns, kh, kw):
        y, x = row * sh - ph + i, column * sw - pw + j
        if 0 <= y < height and 0 <= x < width:
            weight[:, row, column, :, y, x] = kernel[:, :, i, j]
    bias = np.zeros(outputs) if conv.bias is None else _array(conv.bias)
    matrix = weight.reshape(outputs * rows * columns, -1)
    return Affine(matrix, np.repeat(bias, rows * columns)), (outputs, rows, columns)


def _array(tensor) -> Array:
    return tensor.detach().double().numpy()


def forward(layers: Layers, x: Array) -> Array:
    """The network's outputs for one flattened image."""
    for layer in layers:
        x = layer.weight @ x + layer.bias if isinstance(layer, Affine) else np.maximum(x, 0)
    return x


def margin(
    model: nn.Sequential, image: Array, label: int, *, eps: float, domain: str, clip: tuple[float, float] = (0.0, 1.0)
) -> float:
    """The lower bound of the least o_y - o_j over the box around an image (C, H, W)."""
    layers = read(model, image.shape)
    lower, upper = np.maximum(image.ravel() - eps, clip[0]), np.minimum(image.ravel() + eps, clip[1])
    classes = len(forward(layers, lower))
    others = [j for j in range(classes) if j != label]
    objective = Affine(np.eye(classes)[label] - np.eye(classes)[others], np.zeros(len(others)))
    return float(DOMAINS[domain](layers, objective, lower, upper).min())


def box(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """Intervals forwards; the objective is merged into the last layer where that is affine."""
    layers = _merged(layers, objective) if isinstance(layers[-1], Affine) else [*layers, objective]
    for layer in layers:
        if isinstance(layer, Affine):
            negated = Affine(-layer.weight, -layer.bias)
            lower, upper = _least(layer, lower, upper), -_least(negated, lower, upper)
        else:
            lower, upper = np.maximum(lower, 0), np.maximum(upper, 0)
    return lower


def deepzono(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """The zonotope {center + noise @ generators : noise in [-1, 1]} forwards, a generator in each row."""
    center, generators = (lower + upper) / 2, np.diag((upper - lower) / 2)
    for layer in [*layers, objective]:
        if isinstance(layer, Affine):
            center, generators = layer.weight @ center + layer.bias, generators @ layer.weight.T
            continue
        radius = np.abs(generators).sum(0)
        low, high = center - radius, center + radius
        slope = (low >= 0).astype(float)
        height = np.zeros_like(center)  # half the distance between the two parallel lines
        unstable = (low < 0) & (high > 0)
        slope[unstable] = high[unstable] / (high - low)[unstable]
        height[unstable] = -slope[unstable] * low[unstable] / 2
        center = slope * center + height
        generators = np.vstack([generators * slope, np.diag(height)[unstable]])
    return center - np.abs(generators).sum(0)


def deeppoly(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """Back-substitution through the lines (lower slope, upper slope, upper offset) of each ReLU."""
    lines: dict[int, tuple[Array, Array, Array]] = {}

    def least(form: Affine, before: int) -> Array:
        weight, bias = form.weight, form.bias
        for at in reversed(range(before)):
            layer = layers[at]
            if isinstance(layer, Affine):
                weight, bias = weight @ layer.weight, bias + weight @ layer.bias
            else:
                below, above, offset = lines[at]
                positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
                weight, bias = positive * below + negative * above, bias + negative @ offset
        return _least(Affine(weight, bias), lower, upper)

    for at, layer in enumerate(layers):
        if isinstance(layer, Relu):
            identity = np.eye(len(forward(layers[:at], lower)))
            zero = np.zeros(len(identity))
            low, high = least(Affine(identity, zero), at), -least(Affine(-identity, zero), at)
            lines[at] = _deeppoly_lines(low, high)
    return least(objective, len(layers))


def _deeppoly_lines(low: Array, high: Array) -> tuple[Array, Array, Array]:
    below, above, offset = (low >= 0).astype(float), (low >= 0).astype(float), np.zeros_like(low)
    for k in np.flatnonzero((low < 0) & (high > 0)):
        below[k] = 1.0 if high[k] > -low[k] else 0.0
        above[k] = high[k] / (high[k] - low[k])
        offset[k] = -above[k] * low[k]
    return below, above, offset


def _merged(layers: Layers, objective: Affine) -> Layers:
    last = layers[-1]
    return [*layers[:-1], Affine(objective.weight @ last.weight, objective.weight @ last.bias + objective.bias)]


def _least(form: Affine, lower: Array, upper: Array) -> Array:
    """The smallest value of linear forms over a box."""
    return np.maximum(form.weight, 0) @ lower + np.minimum(form.weight, 0) @ upper + form.bias


DOMAINS = {"box": box, "deepzono": deepzono, "deeppoly": deeppoly}
