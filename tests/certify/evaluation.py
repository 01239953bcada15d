"""A network as floating-point hardware may evaluate it: the sums in any order, fused or not.

Layers are those of layers.py with weights that the type holds exactly; a point is a row of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from tests.certify.layers import Add, Affine, Array, Layers, MaxPool, Relu

# Inputs (P, D), weights (O, D) and pushes (P, O) to outputs (P, O), all in one type.
Dot = Callable[[Array, Array, Array], Array]


def evaluate(
    layers: Layers, points: Array, dot: Dot, pushes: list[Array] | None = None, *, merge: bool = False
) -> list[Array]:
    """All activations (P, D), in the type of the points.

    pushes: for each activation, the signs that its rounding errors should have. merge: fold scalings into the layer
    before them, and make one sum of an addition and the layers whose outputs it adds.
    """
    values = [points]
    for at, layer in enumerate(layers, start=1):
        push = np.zeros((1, 1)) if pushes is None else pushes[at]
        match layer:
            case Affine():
                values.append(dot(*_terms(layers, at, values, fold=merge), push))
            case Relu():
                values.append(np.maximum(values[layer.source], 0))
            case MaxPool():
                values.append(np.stack([values[layer.source][:, window].max(1) for window in layer.windows], 1))
            case Add() if merge:
                inputs, weights = zip(*(_operand(layers, i, values) for i in (layer.first, layer.second)), strict=True)
                values.append(dot(np.hstack(inputs), np.hstack(weights), push))
            case Add():
                values.append(values[layer.first] + values[layer.second])
    return values


def _terms(layers: Layers, at: int, values: list[Array], *, fold: bool) -> tuple[Array, Array]:
    """The inputs (P, D) and weights (O, D) whose products an affine layer sums, its bias among them."""
    layer, dtype = layers[at - 1], values[0].dtype
    assert isinstance(layer, Affine)
    before = layers[layer.source - 1] if layer.source else None
    if fold and layer.scaling and isinstance(before, Affine):
        inputs, weight = _terms(layers, layer.source, values, fold=True)
        folded = weight * np.diag(layer.weight).astype(dtype)[:, None]
        folded[:, -1] += layer.bias.astype(dtype)
        return inputs, folded
    inputs = np.hstack([values[layer.source], np.ones((len(values[0]), 1), dtype)])
    return inputs, np.hstack([layer.weight, layer.bias[:, None]]).astype(dtype)


def _operand(layers: Layers, at: int, values: list[Array]) -> tuple[Array, Array]:
    """The same for what an operand brings into a sum: the layer that makes it, or itself."""
    if at and isinstance(layers[at - 1], Affine):
        return _terms(layers, at, values, fold=True)
    return values[at], np.eye(values[at].shape[1], dtype=values[0].dtype)


def slopes(layers: Layers, values: list[Array], objective: Array) -> list[Array]:
    """The gradient of objective @ outputs by each activation, point by point."""
    found = [np.zeros(value.shape) for value in values]
    found[-1] += objective
    for at in range(len(layers), 0, -1):
        layer, slope = layers[at - 1], found[at]
        match layer:
            case Affine():
                found[layer.source] += slope @ layer.weight
            case Relu():
                found[layer.source] += slope * (values[at] > 0)
            case MaxPool():
                for k, window in enumerate(layer.windows):
                    first = np.array(window)[values[layer.source][:, window].argmax(1)]
                    found[layer.source][np.arange(len(first)), first] += slope[:, k]
            case Add():
                found[layer.first] += slope
                found[layer.second] += slope
    return found


def margins(outputs: Array, label: int) -> Array:
    """The exact o_y - max o_j of evaluated outputs, or the float64 next to it that has its sign."""
    others = np.delete(outputs, label, 1).max(1)
    return outputs[:, label].astype(float) - others.astype(float)


def blas(inputs: Array, weight: Array, push: Array) -> Array:
    """As the linear algebra library does it."""
    return inputs @ weight.T


def sequential(*, seed: int | None = None, backwards: bool = False, fused: bool = False) -> Dot:
    """One term after the other, in an order of the seed's; fused: multiply-add with one rounding (float32)."""

    def dot(inputs: Array, weight: Array, push: Array) -> Array:
        order = np.arange(inputs.shape[1])[:: -1 if backwards else 1]
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        total = np.zeros((len(inputs), len(weight)), inputs.dtype)
        for k in order:
            a, b = inputs[:, k, None], weight[None, :, k]
            total = fma(a, b, total) if fused else total + a * b
        return total

    return dot


def pairwise(*, seed: int) -> Dot:
    """Sums of two terms, sums of two of those, and so on."""

    def dot(inputs: Array, weight: Array, push: Array) -> Array:
        terms = inputs[:, None] * weight[None]
        terms = terms[..., np.random.default_rng(seed).permutation(terms.shape[2])]
        while terms.shape[2] > 1:
            if terms.shape[2] % 2:
                terms = np.pad(terms, ((0, 0), (0, 0), (0, 1)))
            terms = terms[..., ::2] + terms[..., 1::2]
        return terms[..., 0]

    return dot


def steered(*, fused: bool = False) -> Dot:
    """Takes next, neuron by neuron, the term whose rounding error goes furthest the way that is pushed."""

    def dot(inputs: Array, weight: Array, push: Array) -> Array:
        a, b = inputs[:, None], weight[None]
        exact = a.astype(float) * b.astype(float)
        rounded = exact if fused else (a * b).astype(float)
        total = np.zeros(exact.shape[:2], inputs.dtype)
        left = np.ones(exact.shape, bool)
        for _ in range(exact.shape[2]):
            sums = total[..., None].astype(float) + rounded
            gain = np.where(left, (sums.astype(inputs.dtype) - sums) * push[..., None], -np.inf)
            best = gain.argmax(2)[..., None]
            np.put_along_axis(left, best, values=False, axis=2)
            if fused:
                chosen = (np.take_along_axis(np.broadcast_to(t, exact.shape), best, 2)[..., 0] for t in (a, b))
                total = fma(*chosen, total)
            else:
                total += np.take_along_axis(rounded, best, 2)[..., 0].astype(inputs.dtype)
        return total

    return dot


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32 numbers with one rounding."""
    product, c = a.astype(float) * b.astype(float), c.astype(float)  # exact: 24 + 24 bits are fewer than 53
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    # Rounded to odd in float64, the sum still tells on which side of a tie of float32 it lies.
    even = total.view(np.int64) % 2 == 0
    total = np.where((error != 0) & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return total.astype(np.float32)


def nearest(value: Fraction, dtype: type[np.floating]) -> np.floating:
    """The number of a type that is nearest to a value; the even one of two."""
    guess = dtype(float(value))
    around = [np.nextafter(guess, dtype(-np.inf)), guess, np.nextafter(guess, dtype(np.inf))]
    return min(around, key=lambda near: (abs(Fraction(float(near)) - value), _last_bit(near)))


def _last_bit(number: np.floating) -> int:
    return int.from_bytes(number.tobytes(), "little") % 2


def float_box(
    pixels: Array, *, eps: float, clip: tuple[float, float] = (0.0, 1.0), dtype=np.float32
) -> tuple[Array, Array]:
    """The least and the largest of a box's points, rounded to a type: what the network may be given."""
    low, high = (Fraction(float(end)) for end in clip)
    exact = [
        (max(Fraction(p) - Fraction(eps), low), min(Fraction(p) + Fraction(eps), high)) for p in pixels.ravel().tolist()
    ]
    lower, upper = (np.array([nearest(value, dtype) for value in values]) for values in zip(*exact, strict=True))
    return lower, upper
