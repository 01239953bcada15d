"""A worker for tests: the real one's loop, over other engines, with faults to order.

    python stand_in.py [--fault FAULT] [--at K] [--once FILE] [--offer ENGINE,...] ENGINE ...

ENGINE: eran-deeppoly is softadv's own DeepPoly, which takes seconds to be loaded; eran-deepzono is Box, in
NumPy; gpupoly answers yes to everything, and says no margin. FAULT: what goes wrong at image K; with --once,
only as long as there is no FILE, which is then made. --offer: the engines that it has, without it all.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
FOREVER = 600
# Seconds of work under "starve", which take some thirty times as long by the clock; numbers kept an image under "grow".
WORK, KEPT = 0.06, 2**24
# Image number k has a first pixel of FIRST + k STEP, so that the stand-in knows it whatever row it is in.
FIRST, STEP = 0.5, 0.001


def real_worker() -> ModuleType:
    """docker/eran/worker.py as a module."""
    path = Path(__file__).parents[3] / "docker" / "eran" / "worker.py"
    spec = importlib.util.spec_from_file_location("worker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Layers:
    """A network as its ONNX nodes with their constants."""

    version = "stand-in 1"
    soundness = {"sound": "as PyTorch", "none": "none"}  # noqa: RUF012

    def load(self, path: str) -> None:
        graph = onnx.load(path).graph
        constants = {c.name: numpy_helper.to_array(c).astype(np.float64) for c in graph.initializer}
        self.layers = [(node, [constants[name] for name in node.input[1:]]) for node in graph.node]


class Box(Layers):
    """Interval arithmetic on linear layers and ReLUs."""

    def verify(self, lower: Array, upper: Array, label: int, _sound: bool) -> tuple[bool, float]:
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        *body, (_, (weight, bias)) = self.layers
        for node, constants in body:
            if node.op_type == "Gemm":
                center, radius = constants[0] @ center + constants[1], np.abs(constants[0]) @ radius
            else:
                assert node.op_type == "Relu"
                low, high = np.maximum(center - radius, 0), np.maximum(center + radius, 0)
                center, radius = (low + high) / 2, (high - low) / 2
        rows, offset = weight[label] - weight, bias[label] - bias
        margin = float(np.delete(rows @ center + offset - np.abs(rows) @ radius, label).min())
        return margin > 0, margin


class Native(Layers):
    """DeepPoly, as softadv computes it."""

    def load(self, path: str) -> None:
        """Read an ONNX file."""
        import torch  # seconds, for the few tests that ask for it

        super().load(path)
        self.nn = torch.nn
        layers = [self._layer(node, constants) for node, constants in self.layers]
        # Where the network takes a vector, that is an image of one pixel to softadv.
        self.model = self.nn.Sequential(
            self.nn.Identity() if self.layers[0][0].op_type == "Conv" else self.nn.Flatten()
        )
        self.model.extend(layers).to(torch.float32).eval().requires_grad_(False)

    def _layer(self, node: onnx.NodeProto, constants: list[Array]) -> Any:
        import torch

        if node.op_type in ("Relu", "Reshape"):
            return self.nn.ReLU() if node.op_type == "Relu" else self.nn.Flatten()
        weight, bias = (torch.from_numpy(constant) for constant in constants)
        if node.op_type == "Conv":
            given = {attribute.name: tuple(attribute.ints) for attribute in node.attribute}
            layer = self.nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], given["strides"], given["pads"][:2])
        else:
            assert node.op_type == "Gemm"
            layer = self.nn.Linear(*weight.shape[::-1])
        layer.weight, layer.bias = self.nn.Parameter(weight), self.nn.Parameter(bias)
        return layer

    def verify(self, lower: Array, upper: Array, label: int, _sound: bool) -> tuple[bool, float]:
        """Of the ball around the box, which is the box itself where all its sides are equal."""
        import torch

        from softadv.certify import certify

        center, radius = (lower + upper) / 2, (upper - lower) / 2
        image = torch.from_numpy(center).reshape(1, *center.shape, *(1,) * (3 - center.ndim))
        eps = float(radius.max()) + 1e-12  # the center is rounded
        found = certify(self.model, image, torch.tensor([label]), eps=eps, clip=(-100.0, 100.0))
        return bool(found.verified), float(found.margin)


class Yes(Layers):
    """Proves anything."""

    def load(self, path: str) -> None:
        pass

    def verify(self, _lower: Array, _upper: Array, _label: int, _sound: bool) -> tuple[bool, None]:
        return True, None


class Faults:
    """What goes wrong, and when: in the engine or in what the worker says. Wraps the stream that it answers to."""

    def __init__(self, stream: TextIO, fault: str, at: int, once: Path | None) -> None:
        self.stream, self.fault, self.at, self.once = stream, fault, at, once
        self.due, self.held = False, ""

    def armed(self) -> bool:
        """Whether the fault is to happen now."""
        if self.once is None:
            return True
        if self.once.exists():
            return False
        self.once.touch()
        return True

    def write(self, line: str) -> None:
        """Pass a line on, or not quite."""
        if '"protocol"' in line and self.fault in _HELLOS and self.armed():
            line = _HELLOS[self.fault](line)
        elif self.due:
            self.due = False
            line = _LINES[self.fault](self, line)
        elif self.held:
            line, self.held = line + self.held, ""
        self.stream.write(line)

    def flush(self) -> None:
        """As a stream's."""
        self.stream.flush()

    def hold(self, line: str) -> str:
        """Keep a line until the next one has gone."""
        self.held = line
        return ""

    def half(self, line: str) -> str:
        """Die in the middle of a line."""
        self.stream.write(line[: len(line) // 2])
        self.stream.flush()
        os._exit(7)


class Rival:
    """Another process that shares one processor with this one, and gets nearly all of it once starve is called."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        # Started before there is a time limit, and whatever becomes of this process, it ends by itself.
        loop = "read go || exit; echo; while :; do :; done"
        self.process = subprocess.Popen(
            ["timeout", "60", "sh", "-c", loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def starve(self) -> None:
        """Work for a moment. No step of it is a wait, which would be this process's own."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"\n")
        while not select.select([stdout], [], [], 0)[0]:
            pass
        os.nice(15)
        end = time.process_time() + WORK
        while time.process_time() < end:
            pass
        self.process.terminate()  # timeout passes it on
        while self.process.poll() is None:
            pass


class Faulty:
    """An engine that misbehaves when it is asked about the image that says that it is number K."""

    def __init__(self, make: Callable[[], Any], faults: Faults) -> None:
        if faults.fault == "unloadable" and faults.armed():
            sys.stderr.write("no such library\n")
            os._exit(5)
        self.engine, self.faults = make(), faults
        self.version, self.soundness = self.engine.version, self.engine.soundness
        self.kept: list[Array] = []
        self.rival = Rival() if faults.fault == "starve" else None

    def load(self, path: str) -> None:
        """As the engine's."""
        if self.faults.fault == "unreadable":
            raise NotImplementedError("Unknown layer: Gemm")
        self.engine.load(path)

    def verify(self, lower: Array, upper: Array, label: int, sound: bool) -> Any:
        """As the engine's, but for the fault."""
        fault = self.faults.fault
        if fault == "misread":
            return self.engine.verify(lower[::-1], upper[::-1], label, sound)
        if fault == "grow":
            self.kept.append(np.ones(KEPT))
        number = round((float(lower.flat[0] + upper.flat[0]) / 2 - FIRST) / STEP)
        # Points are what the engine is tried with; the fault is for the question itself.
        if number == self.faults.at and lower.flat[0] < upper.flat[0] and self.faults.armed():
            self.faults.due = fault in _LINES
            _DEEDS.get(fault, lambda: None)()
            if self.rival is not None:
                self.rival.starve()
        return self.engine.verify(lower, upper, label, sound)


def _fail() -> None:
    raise ArithmeticError("a fault\nof two lines")


def _noise() -> None:
    sys.stdout.write('{"request": 1, "index": 0, "verdict": "verified", "seconds": 0}\n')
    sys.stdout.flush()
    os.write(1, b"half a line")
    ctypes.CDLL(None).puts(b"from C")


def _flood() -> None:
    while True:
        os.write(2, b"0123456789abcdef" * 4096)


def _child() -> None:
    """Leave a child behind that holds everything open, and hang."""
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"])
    time.sleep(FOREVER)


_DEEDS: dict[str, Callable[[], object]] = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(FOREVER),
    "hang with the lock": lambda: ctypes.PyDLL(None).sleep(FOREVER),
    "hang with a child": _child,
    "starve": lambda: None,  # Rival's part
    "flood": _flood,
    "fail": _fail,
    "noise": _noise,
}
_LINES: dict[str, Callable[[Faults, str], str]] = {
    "garbage": lambda _f, _l: "Traceback (most recent call last):\n",
    "not an object": lambda _f, _l: "[1, 2]\n",
    "bytes": lambda _f, _l: "\x00\x07\n",
    "endless line": lambda _f, _l: "x" * 2**21,
    "unknown index": lambda _f, line: line.replace('"index": ', '"index": 9'),
    "index that is none": lambda _f, line: line.replace('"index": ', '"index": 0.'),
    "twice": lambda _f, line: line * 2,
    "unknown verdict": lambda _f, line: line.replace('"seconds"', '"verdict": "perhaps", "seconds"'),
    "no seconds": lambda _f, line: line.replace('"seconds": ', '"seconds": -'),
    "other request": lambda _f, line: line.replace('"request": ', '"request": 9'),
    "out of order": Faults.hold,
    "half a line": Faults.half,
}
_HELLOS: dict[str, Callable[[str], str]] = {
    "other version": lambda line: line.replace('"protocol": 1', '"protocol": 2'),
    "no version": lambda line: line.replace('"protocol"', '"hello"'),
    "no engine": lambda _: '{"protocol": 1, "engines": {}, "missing": {"eran-deepzono": "OSError: no libzonoml.so"}}\n',
    "no hello": lambda _: "Segmentation fault\n",
    "silence": lambda _: "",
}
FAULTS = (*_DEEDS, *_LINES, *_HELLOS, "unloadable", "unreadable", "misread", "grow")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="none", choices=[*FAULTS, "none"])
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--once", type=Path)
    parser.add_argument("--offer", default="eran-deeppoly,eran-deepzono,gpupoly")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    worker = real_worker()
    faults = Faults(worker.claim_stdout(), given.fault, given.at, given.once)
    worker.die_with_parent()
    engines = {"eran-deeppoly": Native, "eran-deepzono": Box, "gpupoly": Yes}
    names = set(given.names).intersection(given.offer.split(","))
    chosen = {name: partial(Faulty, engines[name], faults) for name in names}
    worker.serve(chosen, worker.lines_until_hangup(), faults)


if __name__ == "__main__":
    main()
