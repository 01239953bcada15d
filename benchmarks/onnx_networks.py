"""ONNX networks of the benchmark's size: python -m benchmarks.onnx_networks [--images N] [--seconds S]

Five files that softadv's own export did not write: two by torch.onnx.export, three by onnx.helper in the way of other
exporters. Their weights are random. For each: images certified a second (DeepPoly, sound, verdicts), and what
`softadv.certify.verify` answers to one property, that the class of an image may be exceeded within eps, and when.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import softadv
from softadv.certify import certify
from softadv.certify.trace import read_network
from softadv.certify.verify import verify
from softadv.certify.vnnlib import read_property

EPS = 1 / 255


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(inner)) + x).relu()


def _exported(path: Path, model: nn.Module, shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is an old one; the newer needs a package more
        torch.onnx.export(
            model.eval(), (torch.rand(2, *shape),), path, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip


def batch_norms(path: Path) -> None:
    _exported(path, nn.Sequential(
        nn.Conv2d(1, 16, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10),
    ), (1, 28, 28))  # fmt: skip


def residual(path: Path) -> None:
    _exported(path, nn.Sequential(
        nn.Conv2d(1, 8, 4, 2), nn.ReLU(), _Block(8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(288, 10),
    ), (1, 28, 28))  # fmt: skip


class Written:
    """Nodes by onnx.helper, one behind the other. constants: without their names, which are c0, c1 and so on."""

    def __init__(self, seed: int) -> None:
        self.rng, self.value = np.random.default_rng(seed), "x"
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any) -> str:
        self.constants.append(np.asarray(values))
        return f"c{len(self.constants) - 1}"

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def weight(self, *shape: int) -> str:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant((self.rng.normal(size=shape) * spread).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.3, 1.5, shape).astype(np.float32))

    def then(self, operator: str, *more: str, outputs: int = 1, **options: Any) -> Written:
        """A node of the value so far; its last output is the next value."""
        return self._node(operator, [self.value, *more], outputs, options)

    def left(self, operator: str, first: str) -> Written:
        """A node that has the value so far on the right."""
        return self._node(operator, [first, self.value], 1, {})

    def _node(self, operator: str, inputs: list[str], outputs: int, options: dict[str, Any]) -> Written:
        made = [f"v{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, made, **options))
        self.value = made[-1]
        return self

    def write(self, path: Path, shape: tuple[int, ...], *, classes: int | None = 10) -> None:
        """classes: None where they are not known."""
        x = helper.make_tensor_value_info("x", 1, ["batch", *shape])
        y = helper.make_tensor_value_info(self.value, 1, ["batch", classes or "scores"])
        constants = [numpy_helper.from_array(values, f"c{at}") for at, values in enumerate(self.constants)]
        graph = helper.make_graph(self.nodes, "net", [x], [y], initializer=constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def sigmoid(path: Path) -> None:
    net = Written(2).then("Flatten")
    for inputs, outputs in ((784, 200), (200, 200), (200, 100)):
        net.then("MatMul", net.weight(inputs, outputs)).then("Add", net.weight(outputs)).then("Sigmoid")
    net.then("Gemm", net.weight(10, 100), net.weight(10), transB=1).write(path, (1, 28, 28))


def max_pool(path: Path) -> None:
    net = Written(3)
    net.then("Conv", net.weight(8, 1, 5, 5), net.weight(8), auto_pad="SAME_UPPER").then("Relu")
    net.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.then("Conv", net.weight(16, 8, 4, 4), net.weight(16), strides=[2, 2]).then("LeakyRelu", alpha=0.1)
    net.then("Reshape", net.constant(np.array([-1, 576]))).then("Gemm", net.weight(10, 576), transB=1)
    net.write(path, (1, 28, 28))


def channels_last(path: Path) -> None:
    """As TensorFlow's exporter writes it: a transposition before and behind every convolution."""
    net, channels = Written(4), 1
    for made in (16, 32):
        net.then("Transpose", perm=[0, 3, 1, 2]).then("Conv", net.weight(made, channels, 4, 4), strides=[2, 2])
        net.then("Transpose", perm=[0, 2, 3, 1]).then("Add", net.weight(made)).then("Relu")
        channels = made
    net.then("Reshape", net.constant(np.array([-1, 800]))).then("MatMul", net.weight(800, 100)).then("Relu")
    net.then("MatMul", net.weight(100, 10)).write(path, (28, 28, 1))


NETWORKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "batch norms": ("torch.onnx.export", batch_norms),
    "residual": ("torch.onnx.export", residual),
    "sigmoid": ("onnx.helper", sigmoid),
    "max pooling, leaky ReLU": ("onnx.helper", max_pool),
    "channels last": ("onnx.helper", channels_last),
}


def _property(path: Path, x: Tensor, rival: int, label: int) -> Path:
    names = [f"X_{at}" for at in range(x.numel())]
    lines = [f"(declare-const {name} Real)" for name in (*names, *(f"Y_{at}" for at in range(10)))]
    for name, value in zip(names, x.flatten().tolist(), strict=True):
        lines.append(f"(assert (>= {name} {max(value - EPS, 0)!r}))(assert (<= {name} {min(value + EPS, 1)!r}))")
    path.write_text("\n".join([*lines, f"(assert (>= Y_{rival} Y_{label}))"]), encoding="utf-8")
    return path


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20, help="of verify")
    asked = parser.parse_args()
    print("| network | written by | neurons | verified | images/s | verify | seconds |\n| --- |" + " --- |" * 6)
    with TemporaryDirectory() as folder:
        for at, (name, (writer, build)) in enumerate(NETWORKS.items()):
            torch.manual_seed(at)
            path = Path(folder) / "net.onnx"
            build(path)
            model = softadv.load_model(path)
            x = torch.rand(asked.images, *model.shape, generator=torch.Generator().manual_seed(0))
            y = model(x).argmax(1)
            certify(model, x[:8], y[:8], eps=EPS, margins=False)
            started = time.perf_counter()
            found = certify(model, x, y, eps=EPS, margins=False)
            speed = asked.images / (time.perf_counter() - started)
            network = read_network(model, model.shape)
            rival = int(model(x[:1])[0].argsort()[-2])
            asked_about = read_property(_property(Path(folder) / "p.vnnlib", x[0], rival, int(y[0])))
            started = time.perf_counter()
            answer = verify(model, asked_about, timeout=asked.seconds).status
            seconds = time.perf_counter() - started
            share = int(found.verified.sum())
            print(f"| {name} | {writer} | {network.neurons:,} | {share} of {asked.images} | {speed:.0f} | {answer} "
                  f"| {seconds:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
