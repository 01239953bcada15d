"""Box, DeepZono and DeepPoly once more, the plain way: one image, dense matrices, no tricks.

Box carries intervals forwards; DeepZono carries a zonotope forwards, with a new noise symbol for each
unstable neuron; DeepPoly substitutes linear forms back to the input, once for each layer that feeds a
ReLU or a MaxPool. Numbers are float64 or, on request, fractions without rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from tests.certify.layers import Add, Affine, Array, Layers, MaxPool, Number, Relu, array, forward, largest, read


def margin(model: nn.Module, image: Array, label: int, *, number: Number = float, **question: Any) -> Any:
    """The lower bound of the least o_y - o_j over the box around an image (C, H, W)."""
    return margin_of(read(model, image.shape, number=number), image, label, number=number, **question)


def margin_of(
    layers: Layers,
    image: Array,
    label: int,
    *,
    eps: float,
    domain: str,
    clip: tuple[float, float] = (0.0, 1.0),
    number: Number = float,
) -> Any:
    """The same of a model that is read already: that takes longer than some domains."""
    pixels = array(image.ravel(), number)
    lower = np.maximum(pixels - number(eps), number(clip[0]))
    upper = np.minimum(pixels + number(eps), number(clip[1]))
    classes = len(forward(layers, lower))
    others = [j for j in range(classes) if j != label]
    identity = np.eye(classes, dtype=int)
    objective = Affine(identity[label] - identity[others], np.zeros(len(others), dtype=int), len(layers))
    return DOMAINS[domain](layers, objective, lower, upper).min()


def box(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """Intervals forwards; the objective is merged into the last layer where that is affine."""
    if isinstance(layers[-1], Affine):
        last, layers = layers[-1], layers[:-1]
        objective = Affine(objective.weight @ last.weight, objective.weight @ last.bias + objective.bias, last.source)
    bounds = [(lower, upper)]
    for layer in layers:
        match layer:
            case Affine():
                negated = Affine(-layer.weight, -layer.bias, layer.source)
                bounds.append((_least(layer, *bounds[layer.source]), -_least(negated, *bounds[layer.source])))
            case Add():
                sums = zip(bounds[layer.first], bounds[layer.second], strict=True)
                bounds.append(tuple(first + second for first, second in sums))
            case _:
                bounds.append(_monotone(layer, *bounds[layer.source]))
    return _least(objective, *bounds[objective.source])


def _monotone(layer: Relu | MaxPool, lower: Array, upper: Array) -> tuple[Array, Array]:
    if isinstance(layer, Relu):
        return np.maximum(lower, 0), np.maximum(upper, 0)
    return largest(layer, lower), largest(layer, upper)


def deepzono(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """The zonotope {center + noise @ generators : noise in [-1, 1]} forwards, a generator in each row."""
    values = [((lower + upper) / 2, np.diag((upper - lower) / 2))]
    for layer in [*layers, objective]:
        match layer:
            case Affine():
                center, generators = values[layer.source]
                values.append((layer.weight @ center + layer.bias, generators @ layer.weight.T))
            case Add():
                (center, generators), (other, others) = values[layer.first], values[layer.second]
                values.append((center + other, _taller(generators, others) + _taller(others, generators)))
            case Relu():
                noise = max(len(generators) for _, generators in values)
                values.append(_relu_zonotope(*values[layer.source], noise))
            case _:
                raise NotImplementedError(layer)
    center, generators = values[-1]
    return center - np.abs(generators).sum(0)


def _relu_zonotope(center: Array, generators: Array, noise: int) -> tuple[Array, Array]:
    """The ReLU of a zonotope; its new generators stand below the `noise` symbols that exist."""
    radius = np.abs(generators).sum(0)
    _, slope, offset = _deeppoly_lines(center - radius, center + radius)
    height = offset / 2  # half the distance between the two parallel lines
    padded = _taller(generators, np.empty((noise, 0)))
    return slope * center + height, np.vstack([padded * slope, np.diag(height)[height > 0]])


def _taller(generators: Array, other: Array) -> Array:
    """Generators with zeros for the noise symbols that only the other zonotope has."""
    missing = max(len(other) - len(generators), 0)
    return np.vstack([generators, np.zeros((missing, generators.shape[1]), dtype=generators.dtype)])


def deeppoly(layers: Layers, objective: Affine, lower: Array, upper: Array) -> Array:
    """Back-substitution through the matrices (lower lines, upper lines, upper offsets) of each ReLU and MaxPool."""
    lines: dict[int, tuple[Array, Array, Array]] = {}

    def least(form: Affine) -> Array:
        weights, bias = {form.source: form.weight}, form.bias
        for at in range(form.source, 0, -1):
            weight, layer = weights.pop(at, None), layers[at - 1]
            if weight is None:
                continue
            if isinstance(layer, Add):
                for source in (layer.first, layer.second):
                    weights[source] = weights.get(source, 0) + weight
                continue
            if isinstance(layer, Affine):
                bias, weight = bias + weight @ layer.bias, weight @ layer.weight
            else:
                below, above, offset = lines[at]
                positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
                bias, weight = bias + negative @ offset, positive @ below + negative @ above
            weights[layer.source] = weights.get(layer.source, 0) + weight
        return _least(Affine(weights[0], bias, 0), lower, upper)

    def bounds(at: int) -> tuple[Array, Array]:
        identity = np.eye(len(forward(layers[:at], lower)), dtype=int)
        zero = np.zeros(len(identity), dtype=int)
        return least(Affine(identity, zero, at)), -least(Affine(-identity, zero, at))

    for at, layer in enumerate(layers, start=1):
        if isinstance(layer, Relu):
            below, above, offset = _deeppoly_lines(*bounds(layer.source))
            lines[at] = np.diag(below), np.diag(above), offset
        elif isinstance(layer, MaxPool):
            lines[at] = _max_lines(layer, *bounds(layer.source))
    return least(objective)


def _deeppoly_lines(low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Lower slopes, upper slopes and upper offsets of a ReLU's neurons."""
    active = (low >= 0).astype(low.dtype)
    below, above, offset = active.copy(), active.copy(), 0 * low  # of its numbers: half of an int would be a float
    for k in np.flatnonzero((low < 0) & (high > 0)):
        below[k] = 1 if high[k] > -low[k] else 0
        above[k] = high[k] / (high[k] - low[k])
        offset[k] = -above[k] * low[k]
    return below, above, offset


def _max_lines(layer: MaxPool, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Each window's neuron of the largest lower bound is the lower line; the upper one too, if no other comes near."""
    below, above = (np.zeros((len(layer.windows), len(low)), dtype=int) for _ in range(2))
    offset = largest(layer, high)
    for k, window in enumerate(layer.windows):
        first = max(window, key=low.__getitem__)
        below[k, first] = 1
        if all(low[first] >= high[other] for other in window if other != first):
            above[k, first], offset[k] = 1, 0
    return below, above, offset


def _least(form: Affine, lower: Array, upper: Array) -> Array:
    """The smallest value of linear forms over a box."""
    return np.maximum(form.weight, 0) @ lower + np.minimum(form.weight, 0) @ upper + form.bias


DOMAINS = {"box": box, "deepzono": deepzono, "deeppoly": deeppoly}
