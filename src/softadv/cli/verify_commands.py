"""The commands of the VNN-LIB standard: answer a property of an ONNX file, and say what is supported."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from softadv.cli import output
from softadv.cli.options import path_argument
from softadv.errors import SoftadvError

# An answer that comes by itself, between two boxes, is waited for so long after the limit.
_GRACE = 0.5


@contextmanager
def _time_limit(seconds: float) -> Iterator[Callable[[], None]]:
    """End the process with the answer timed-out soon after a limit, also while something long cannot be interrupted.

    Yields a function to call before an answer is said: from then on the process stays. Where it is too late, it returns
    only if what the other thread says cannot be written.
    """
    spoken = threading.Lock()

    def end() -> None:
        if spoken.acquire(blocking=False):
            output.say("timed-out")
            sys.stdout.flush()
            os._exit(0)

    def answers() -> None:
        if not spoken.acquire(blocking=False):
            timer.join()

    timer = threading.Timer(min(seconds + _GRACE, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield answers
    finally:
        timer.cancel()


def verify(
    property: Annotated[Path, path_argument("A VNN-LIB file, of version 1.0 or 2.0.")],
    network: Annotated[
        list[str], typer.Option("--network", metavar="NAME=FILE", help="The network's name in it, and its ONNX file.")
    ],
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="X", help="Seconds; then the answer is timed-out.", min=0)
    ] = 600.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the search.", min=0)] = 0,
) -> None:
    """Answer a VNN-LIB property of an ONNX file.

    unsat is proven for the network as float32 evaluates it, sat comes with an assignment that onnxruntime confirms;
    else unknown or timed-out.
    """
    from softadv._onnx import read_onnx  # noqa: PLC0415 (brings onnx, which other commands do without)
    from softadv.certify.verify import verify as answer  # noqa: PLC0415
    from softadv.certify.vnnlib import read_property  # noqa: PLC0415

    if not timeout >= 0:
        raise SoftadvError(f"--timeout {timeout}: expected a number of seconds")
    if len(network) != 1:
        raise SoftadvError(f"--network: one network is read, got {len(network)}")
    name, equals, file = network[0].partition("=")
    if not equals or not file:
        raise SoftadvError(f"--network {network[0]}: expected NAME=FILE, such as N=net.onnx")
    started = time.monotonic()
    with _time_limit(timeout) as answers:
        asked = read_property(property)
        if asked.network not in (None, name):
            raise SoftadvError(f"--network {network[0]}: the property's network is called {asked.network}")
        model = read_onnx(Path(file))
        found = answer(model, asked, timeout=max(timeout - (time.monotonic() - started), 0), seed=seed)
        answers()
    output.say(found.status)
    if found.status == "sat":
        output.say(_assignment(asked, found.inputs, found.outputs))
    output.complain(f"bounds by {found.computed_by}")  # on standard error: standard output is the standard's


def _assignment(asked: Any, inputs: Any, outputs: Any) -> str:
    """((X_0 0.5) (Y_0 1.0)), a line each: the numbers that say exactly what was evaluated."""
    from softadv.certify.vnnlib import Variable  # noqa: PLC0415

    lines = [
        f"({asked.name(Variable(output, at))} {float(value)!r})"
        for output, values in ((False, inputs), (True, outputs))
        for at, value in enumerate(values)
    ]
    return "(" + "\n ".join(lines) + ")"


def _flag(name: str, text: str) -> Any:
    return typer.Option(name, help=text)


def supports(
    onnx_operators: Annotated[bool, _flag("--onnx-operators", "The ONNX operators that are read.")] = False,
    onnx_opset_versions: Annotated[
        bool, _flag("--onnx-opset-versions", "The oldest ONNX opset and the newest.")
    ] = False,
    vnnlib_versions: Annotated[bool, _flag("--vnnlib-versions", "The oldest VNN-LIB and the newest.")] = False,
    arithmetic: Annotated[
        bool, _flag("--arithmetic-complexity-theories", "How properties may combine numbers.")
    ] = False,
    networks: Annotated[bool, _flag("--multiple-network-theories", "How many networks in a property.")] = False,
    tensors: Annotated[bool, _flag("--multiple-input-output-theories", "How many inputs and outputs.")] = False,
    hidden: Annotated[bool, _flag("--hidden-node-theories", "How properties may name hidden nodes.")] = False,
    element_types: Annotated[bool, _flag("--element-types", "Element types with sound answers.")] = False,
    serialise_assignments: Annotated[
        bool, _flag("--serialise-assignments", "Whether an assignment follows sat.")
    ] = False,
) -> None:
    """List what the verify command supports, of the kind that an option names."""
    from softadv._onnx.calls import known_operators  # noqa: PLC0415
    from softadv._onnx.file import OPSETS  # noqa: PLC0415
    from softadv._onnx.model import read_onnx  # noqa: F401, PLC0415 (with it all operators are registered)
    from softadv.certify.vnnlib import SOUND_TYPES, VERSIONS  # noqa: PLC0415

    said = [
        (onnx_operators, known_operators()), (onnx_opset_versions, [str(OPSETS[0]), str(OPSETS[-1])]),
        (vnnlib_versions, list(VERSIONS)), (arithmetic, ["BND", "OUTC", "LIN"]), (networks, ["SNET"]),
        (tensors, ["SIO"]), (hidden, []), (element_types, list(SOUND_TYPES)), (serialise_assignments, ["true"]),
    ]  # fmt: skip
    chosen = [lines for asked, lines in said if asked]
    if len(chosen) != 1:
        raise SoftadvError("supports: give one option, such as --onnx-operators")
    for line in chosen[0]:
        output.say(line)
