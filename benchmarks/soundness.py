"""A search for points that break certificates: python -m benchmarks.soundness [--seeds N] [--points N]

For each operator that an ONNX file may hold, small random networks with it whose last bias is lowered until their
certificate holds by the last bit. Points of the box are then sought where the margin is least: around the corner that
the gradient points to, and around the worst points so far. PyTorch evaluates all of them, and onnxruntime at each of
its levels of optimisation. A certificate is broken where a margin is not positive. With --rounding none, which leaves
rounding errors out, the search is to break some: it is one that can.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import softadv
from benchmarks.onnx_networks import Written
from softadv.certify import Rounding, certify

SHAPE, CLASSES, ROUNDS = (2, 5, 5), 4, 5
RADII = (1e-7, 1e-5, 1e-3, 0.05)
_LEVEL = onnxruntime.GraphOptimizationLevel
LEVELS = (_LEVEL.ORT_DISABLE_ALL, _LEVEL.ORT_ENABLE_BASIC, _LEVEL.ORT_ENABLE_EXTENDED, _LEVEL.ORT_ENABLE_ALL)

Points = NDArray[np.float32]
Body = Callable[[Written], object]


def _pad(net: Written, *pads: int, **options: Any) -> Written:
    return net.then("Pad", net.constant(np.array(pads)), **options)


def _beside(operator: str, **options: Any) -> Body:
    """The value and its tanh, side by side or added."""

    def build(net: Written) -> None:
        before = net.value
        net.then("Tanh").then(operator, before, **options)

    return build


def _channels_last(net: Written) -> None:
    net.then("Transpose", perm=[0, 2, 3, 1]).then("Add", net.weight(3)).then("Relu")
    net.then("Transpose", perm=[0, 3, 1, 2]).then("Conv", net.weight(3, 3, 2, 2))


def _from(net: Written) -> None:
    net.left("Sub", net.weight(3, 1, 1))


# Behind a convolution with the shape (3, 4, 4).
BODIES: dict[str, Body] = {
    "LeakyRelu": lambda net: net.then("LeakyRelu", alpha=0.1),
    "PRelu of channels": lambda net: net.then("PRelu", net.positive(3, 1, 1)),
    "PRelu of neurons": lambda net: net.then("PRelu", net.positive(3, 4, 4)),
    "Clip": lambda net: net.then("Clip", net.number(-0.3), net.number(0.4)),
    "Sigmoid": lambda net: net.then("Sigmoid"),
    "Tanh": lambda net: net.then("Tanh"),
    "BatchNormalization": lambda net: net.then(
        "BatchNormalization", net.weight(3), net.weight(3), net.weight(3), net.positive(3)),
    "Add of a constant": lambda net: net.then("Add", net.weight(3, 4, 4)),
    "Sub from a constant": _from,
    "Mul": lambda net: net.then("Mul", net.positive(3, 1, 1)),
    "Mul of neurons": lambda net: net.then("Mul", net.positive(3, 4, 4)),
    "Div": lambda net: net.then("Div", net.number(1.7)),
    "Neg": lambda net: net.then("Neg"),
    "Add": _beside("Add"),
    "Sub": _beside("Sub"),
    "Sum": _beside("Sum"),
    "Concat of channels": _beside("Concat", axis=1),
    "Concat of columns": _beside("Concat", axis=3),
    "Split": lambda net: net.then("Split", net.constant(np.array([1, 3])), outputs=2, axis=2),
    "Slice": lambda net: net.then("Slice", *(net.constant(np.array([n])) for n in (3, -5, 2, -2))),
    "Gather": lambda net: net.then("Gather", net.constant(np.array([2, 0, 0])), axis=1),
    "Transpose": lambda net: net.then("Transpose", perm=[0, 2, 3, 1]),
    "channels last": _channels_last,
    "Reshape": lambda net: net.then("Reshape", net.constant(np.array([-1, 2, 8, 3]))).then(
        "Conv", net.weight(2, 2, 2, 2)),
    "Pad": lambda net: _pad(net, 0, 0, 1, 0, 0, 0, 0, 2).then("Conv", net.weight(2, 3, 3, 3)),
    "Pad by reflection": lambda net: _pad(net, 0, 0, 1, 2, 0, 0, 2, 1, mode="reflect"),
    "Gemm with alpha and beta": lambda net: net.then("Flatten").then(
        "Gemm", net.weight(48, 6), net.weight(6), alpha=0.6, beta=1.5),
    "MatMul of rows": lambda net: net.then("MatMul", net.weight(4, 3)),
    "MatMul from the left": lambda net: net.left("MatMul", net.weight(3, 4)),
    "AveragePool": lambda net: net.then("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool, uneven": lambda net: net.then(
        "AveragePool", kernel_shape=[2, 3], pads=[1, 0, 0, 1], count_include_pad=1),
    "GlobalAveragePool": lambda net: net.then("Relu").then("GlobalAveragePool"),
    "ReduceMean": lambda net: net.then("ReduceMean", axes=[1], keepdims=0),
    "ReduceSum": lambda net: net.then("ReduceSum", net.constant(np.array([1, 3])), keepdims=0),
    "MaxPool": lambda net: net.then("MaxPool", kernel_shape=[2, 2]),
    "MaxPool, uneven": lambda net: net.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
    "Softmax": lambda net: net,
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Evaluated points, by PyTorch and by onnxruntime, and how many of them broke a certificate."""

    torch: int = 0
    onnxruntime: int = 0
    broken: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(self.torch + other.torch, self.onnxruntime + other.onnxruntime, self.broken + other.broken)


def search(name: str, *, radius: float, seed: int, count: int, rounding: Rounding, folder: Path) -> Counts:
    """Points of one box that break the certificate of one network, by both programs. count: of all rounds together."""
    path = folder / "net.onnx"
    net = _network(name, seed, path)
    model = softadv.load_model(path)
    rng = np.random.default_rng((seed, 1))
    x = torch.from_numpy(rng.random((1, *SHAPE), dtype=np.float32))
    y = model(x).argmax(1)
    net.constants[-1] = _barely_proven(model, x, y, eps=radius, rounding=rounding)
    net.write(path, SHAPE, classes=CLASSES)
    points = np.concatenate([*_rounds(model, x, int(y), radius=radius, count=count // ROUNDS, rng=rng)])
    broken = _broken(model(torch.from_numpy(points)).numpy(), int(y))
    done = 0
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads = level, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        broken += _broken(session.run(None, {"x": points})[0], int(y))
        done += len(points)
    return Counts(len(points), done, broken)


def _network(name: str, seed: int, path: Path) -> Written:
    net = Written(seed)
    net.then("Conv", net.weight(3, 2, 2, 2), net.weight(3))
    BODIES[name](net)
    net.then("Flatten").write(path, SHAPE, classes=None)
    features = softadv.load_model(path)(torch.zeros(1, *SHAPE)).shape[1]
    net.then("Gemm", net.weight(8, features), net.weight(8), transB=1).then("Relu")
    net.then("Gemm", net.weight(CLASSES, 8), net.weight(CLASSES), transB=1)  # its bias is the last constant
    if name == "Softmax":
        net.then("Softmax", axis=1)
    net.write(path, SHAPE, classes=CLASSES)
    return net


def _barely_proven(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, rounding: Rounding) -> Points:
    """The last bias, lowered for the label as far as the certificate allows."""
    (last,) = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]
    first = last.bias[y].item()

    def holds(value: np.float32) -> bool:
        last.bias[y] = float(value)
        return bool(certify(model, x, y, eps=eps, rounding=rounding).verified)

    low, high = np.float32(first - 20), np.float32(first + 20)
    assert holds(high)
    while (middle := np.float32((low + high) / 2)) not in (low, high):
        low, high = (low, middle) if holds(middle) else (middle, high)
    assert holds(high)
    return last.bias.numpy().copy()


def _rounds(model: nn.Module, x: Tensor, label: int, *, radius: float, count: int, rng: Any) -> Iterator[Points]:
    """Float32 points of a box, in rounds: around its worst corner, then around the worst points so far."""
    center = x.numpy().astype(np.float64)
    # A real point of the box is rounded to one of these.
    lower, upper = (np.clip(center + end, 0, 1).astype(np.float32) for end in (-radius, radius))
    leaf = x.clone().requires_grad_()
    scores = model(leaf)[0]
    (scores[label] - scores.scatter(0, torch.tensor([label]), -torch.inf).amax()).backward()
    assert leaf.grad is not None
    worst = np.where(leaf.grad.numpy() > 0, lower, upper)
    for _ in range(ROUNDS):
        points = worst[rng.integers(len(worst), size=count)]
        flipped = rng.random(points.shape) < rng.random((count, 1, 1, 1)) ** 4
        points = np.where(flipped, rng.uniform(lower, upper, points.shape).astype(np.float32), points)
        for _ in range(3):
            nudged = rng.random(points.shape) < 0.3
            toward = np.where(rng.random(points.shape) < 0.5, np.float32(-1), np.float32(2))
            points = np.where(nudged, np.nextafter(points, toward), points)
        points = np.clip(points, lower, upper)
        yield points
        margins = _margins(model(torch.from_numpy(points)).numpy(), label)
        worst = points[margins.argsort()[:20]]


def _margins(outputs: Any, label: int) -> NDArray[np.float64]:
    others = np.delete(outputs, label, 1).max(1).astype(np.float64)
    return np.asarray(outputs[:, label].astype(np.float64) - others)


def _broken(outputs: Any, label: int) -> int:
    return int((_margins(outputs, label) <= 0).sum())


def main() -> None:
    """Print a row for each operator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=5_000, help="of a box")
    parser.add_argument("--rounding", choices=["sound", "none"], default="sound")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    total = Counts()
    print("| operator | points, PyTorch | points, onnxruntime | broken |\n| --- | --- | --- | --- |")
    with TemporaryDirectory() as folder:
        for name in BODIES:
            found = Counts()
            for seed in range(asked.seeds):
                for radius in RADII:
                    found = found.plus(search(
                        name, radius=radius, seed=seed, count=asked.points, rounding=asked.rounding,
                        folder=Path(folder),
                    ))  # fmt: skip
            print(f"| {name} | {found.torch:,} | {found.onnxruntime:,} | {found.broken} |", flush=True)
            total = total.plus(found)
    print(f"| all {len(BODIES)} | {total.torch:,} | {total.onnxruntime:,} | {total.broken} |")


if __name__ == "__main__":
    main()
