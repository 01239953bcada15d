"""A driver that is interrupted or killed leaves no worker behind, and goes on with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bits import bits
from benchmarks.kills import workers
from softadv.experiments.run_grid import run_grid
from tests.experiments.executors.test_processes import grid_of, ready
from tests.experiments.test_grid import TINY, silent

EPOCHS = 40  # so that no signal comes when all is done
TEXT = TINY.replace('["natural", "adversarial", "soft"]', '["soft", "natural"]').replace(
    "epochs = 1", f"epochs = {EPOCHS}"
)
_SECONDS = 60  # in which processes end, on a machine that is busy


def command(folder: Path, *more: str) -> list[str]:
    words = ["reproduce", str(folder / "tiny.toml"), "--out", str(folder / "runs"), "--device", "cpu", *more]
    return [sys.executable, "-m", "softadv", *words]


def below(process: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    try:
        found = {int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()}
    except OSError:
        return set()
    return found.union(*(below(child) for child in found))


def alive(processes: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    states = {}
    for process in processes:
        try:
            states[process] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    return {process for process, state in states.items() if state != "Z"}


def _heed_interrupts() -> None:
    """A shell starts what it runs in the background with interrupts ignored, and Python then goes on ignoring them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_by(number: signal.Signals, words: list[str], *, at: str) -> int:
    """Send a command a signal when it prints this, and wait until it and all that it has started are gone."""
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 (no threads here)
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if at in line:
                break
        started = below(driver.pid)
        assert started
        os.kill(driver.pid, number)
        driver.stdout.read()
    until = time.monotonic() + _SECONDS
    while alive(started) and time.monotonic() < until:
        time.sleep(0.1)
    assert alive(started) == set()
    return driver.returncode


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_whatever_ends_the_driver_ends_its_workers_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TEXT)
    words = command(tmp_path, "--jobs", "2", "--threads", "1")
    assert end_by(signal.SIGTERM, words, at="epoch ") == 128 + signal.SIGTERM
    assert end_by(signal.SIGINT, words, at="epoch ") == 130
    assert end_by(signal.SIGKILL, words, at="epoch ") == -signal.SIGKILL
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    assert run_grid(ready(grid_of("soft", "natural", epochs=EPOCHS), whole), report=silent, threads=1).refused == {}
    assert bits(tmp_path / "runs") == bits(whole)


def heeds_interrupts(process: int) -> bool:
    """Whether Python has begun in a process, and would raise KeyboardInterrupt at an interrupt that reaches it."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & 1 << signal.SIGINT - 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_ctrl_c_while_the_workers_start_leaves_no_traceback_on_the_terminal(tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of the terminal at once."""
    (tmp_path / "tiny.toml").write_text(TEXT)
    with subprocess.Popen(
        command(tmp_path, "--jobs", "2", "--threads", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 (no threads here)
    ) as driver:
        while driver.poll() is None and sum(map(heeds_interrupts, started := workers(driver.pid))) < 2:
            time.sleep(0.01)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.stdout is not None
        told = driver.stdout.read()
    assert driver.returncode == 130
    assert "Traceback" not in told
    assert alive(set(started)) == set()


def test_a_second_driver_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TEXT.replace(f"epochs = {EPOCHS}", "epochs = 2000"))
    words = command(tmp_path, "--jobs", "1", "--threads", "1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "epoch 1/" in line:
                break
        second = subprocess.run(words, capture_output=True, text=True, check=False)
        first.terminate()
        first.stdout.read()
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert f"in use by process {first.pid} on " in line


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_no_ray_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "tiny.toml").write_text(TEXT)
    words = command(tmp_path, "--ray", "local", "--threads", "1")
    assert end_by(signal.SIGTERM, words, at="epoch 1/") == 128 + signal.SIGTERM
    assert not (tmp_path / "home" / ".ray").exists()  # nor a token that a cluster started later would ask for


def test_the_smoke_grid_ends_with_the_same_bits_on_every_executor(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    found = []
    for name, where in (("here", []), ("jobs", ["--jobs", "2"]), ("ray", ["--ray", "local"])):
        words = ["reproduce", "smoke", "--epochs", "2", "--device", "cpu", "--threads", "1", *where]
        words += ["--out", str(tmp_path / name)]
        done = subprocess.run([sys.executable, "-m", "softadv", *words], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # so few epochs bear out no claim
        found.append(bits(tmp_path / name))
    assert sum(file.endswith("result.json") for file in found[0]) == 6
    assert found[1] == found[0]
    assert found[2] == found[0]
