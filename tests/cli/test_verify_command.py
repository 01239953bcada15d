"""softadv verify and softadv supports: what they print, and when they end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest
import torch

from softadv._onnx.calls import known_operators
from softadv.certify.verify import verify
from softadv.certify.vnnlib import read_property
from softadv.cli import app, verify_commands
from tests.certify.properties import UNIT, box, net, sampled, write
from tests.onnx.graphs import Graph


def test_the_command_says_the_answer_first_and_then_the_assignment(tmp_path, capsys):
    model = net(tmp_path)
    _, outputs = sampled(model)
    path = write(tmp_path, UNIT + f"(assert (>= Y[0,0] {outputs[:, 0].median().item()!r}))")
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}", "--timeout", "3600"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    first, *rest = said.out.splitlines()
    assert first == "sat"
    assert said.err == f"softadv: bounds by {verify(model, read_property(path)).computed_by}\n"
    values = dict(re.findall(r"\(([XY]\[0,\d\]) ([-\d.e+]+)\)", "\n".join(rest)))
    assert list(values) == ["X[0,0]", "X[0,1]", "X[0,2]", "Y[0,0]", "Y[0,1]"]
    x = torch.tensor([[float(values[f"X[0,{at}]"]) for at in range(3)]], dtype=torch.float64)
    assert torch.equal(x.float().double(), x)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"M={tmp_path / 'net.onnx'}"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ("--vnnlib-versions", ["1.0", "2.0"]),
        ("--onnx-opset-versions", ["8", "21"]),
        ("--serialise-assignments", ["true"]),
    ],
)
def test_what_is_supported_is_said_a_line_each(capsys, option, lines):
    with pytest.raises(SystemExit) as ended:
        app.main(["supports", option])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_the_operators_that_are_supported_are_those_that_are_read(capsys):
    with pytest.raises(SystemExit):
        app.main(["supports", "--onnx-operators"])
    said = capsys.readouterr().out.splitlines()
    assert said == known_operators()
    assert {"Constant", "Conv", "Shape", "Unsqueeze"} <= set(said)


def test_the_time_limit_holds_while_a_large_network_is_analysed(tmp_path):
    """One box of this network takes far longer than the limit; the answer does not wait for it."""
    graph = Graph((64, 12, 12), seed=1).conv((64, 12, 12), channels=64, pads=[1, 1, 1, 1]).then("Tanh")
    for _ in range(8):
        graph.conv((64, 12, 12), channels=64, pads=[1, 1, 1, 1]).then("Tanh")
    graph.then("Flatten").gemm(64 * 144, 2).write(tmp_path / "net.onnx")
    count = 64 * 144
    names = "".join(f"(declare-const {n} Real)\n" for n in [*(f"X_{at}" for at in range(count)), "Y_0", "Y_1"])
    path = tmp_path / "p.vnnlib"
    path.write_text(names + box(*[(0, 1)] * count, names="X_{}") + "(assert (<= (- Y_0 Y_1) -1e9))")
    code = (
        "import sys, time; from softadv.cli import app\n"
        "started = time.monotonic()\n"
        "import os; leave = os._exit\n"
        "def told(code): print(time.monotonic() - started, file=sys.stderr, flush=True); leave(code)\n"
        "os._exit = told\n"
        f"arguments = ['verify', {str(path)!r}, '--network', 'N={tmp_path / 'net.onnx'}', '--timeout', '4']\n"
        "try: app.main(arguments)\n"  # it may also end by itself, right after the limit
        "finally: print(time.monotonic() - started, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "timed-out\n"), done.stderr
    assert float(done.stderr.split()[-1]) >= 4


def test_who_comes_too_late_waits_however_long_the_last_word_takes(monkeypatch):
    begun, done = threading.Event(), []

    def say(text):
        begun.set()
        time.sleep(0.2)  # as where nobody reads it yet
        done.append(text)

    monkeypatch.setattr(verify_commands.output, "say", say)
    monkeypatch.setattr(os, "_exit", done.append)
    with verify_commands._time_limit(-1.0) as answers:
        begun.wait()
        answers()
        assert done == ["timed-out", 0]


@pytest.mark.parametrize("timeout", ["nan", "-1"])
def test_a_time_limit_that_is_none_is_refused(tmp_path, capsys, timeout):
    net(tmp_path)
    path = write(tmp_path, UNIT)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}", "--timeout", timeout])
    assert ended.value.code == 2
    assert not capsys.readouterr().out
