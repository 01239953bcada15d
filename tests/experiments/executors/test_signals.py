"""A driver that is interrupted or killed leaves no worker behind, and goes on with the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.bits import bits
from benchmarks.kills import workers
from softadv.experiments.run_folder import CHECKPOINT, METRICS
from softadv.experiments.run_grid import run_grid
from softadv.experiments.spec import parse_grid
from tests.experiments.executors.scripted import HELD, PATIENT
from tests.experiments.executors.test_processes import ready
from tests.experiments.test_grid import TINY, silent

ROOT = Path(__file__).parents[3]
# The first of its trials waits in its second epoch while the test wants it to.
TEXT = TINY.replace('["natural", "adversarial", "soft"]', json.dumps([PATIENT, "natural"]))
TEXT = TEXT.replace("epochs = 1", "epochs = 3")
needs_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for which the trial waits. The grid's file is beside it, and the home folder is empty."""
    (tmp_path / "tiny.toml").write_text(TEXT)
    (tmp_path / "home").mkdir()
    file = tmp_path / "held"
    file.touch()
    monkeypatch.setenv(HELD, str(file))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    return file


def command(folder: Path, *more: str) -> list[str]:
    words = ["reproduce", str(folder / "tiny.toml"), "--out", str(folder / "runs"), "--device", "cpu", *more]
    return [sys.executable, "-m", "softadv", *words, "--threads", "1"]


def below(process: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    found: set[int] = set()
    with suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{process}/task"):
            with suppress(OSError):  # so has this thread
                found.update(map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split()))
    return found.union(*map(below, found))


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


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, which is ended at the end of the block at the latest."""
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 (no threads here)
    ) as driver:
        try:
            yield driver
        finally:
            driver.terminate()


def told(driver: subprocess.Popen[str]) -> str:
    """What a command prints until it and its workers have ended."""
    assert driver.stdout is not None
    return driver.stdout.read()


def wait_until_held(driver: subprocess.Popen[str], held: Path) -> None:
    """Until the trial waits in its second epoch, and the driver has all of the first: the checkpoint comes last."""
    while not (list(held.parent.glob("held-*")) and list(held.parent.glob(f"runs/*-Patient-*/{CHECKPOINT}"))):
        assert driver.poll() is None, told(driver)
        time.sleep(0.01)


def wait_until_idle(process: int) -> None:
    """Until its main thread has slept for a while: where Ray waits, it wakes once a second."""

    def sleeps() -> str:
        status = Path(f"/proc/{process}/task/{process}/status").read_text()
        # One that waits for a processor does not wake either.
        return status.partition("voluntary_ctxt_switches:")[2] if "State:\tS" in status else ""

    before = ""
    while not (now := sleeps()) or now != before:
        before = now
        time.sleep(0.3)


def wait_until_gone(processes: set[int]) -> None:
    """However long they take on a busy machine; a test that does not end says that they never do."""
    while alive(processes):
        time.sleep(0.01)


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


@needs_linux
@pytest.mark.parametrize("where", [("--jobs", "2"), ("--ray", "local")], ids=" ".join)
def test_whatever_ends_the_driver_ends_its_workers_and_nothing_is_lost(
    where: tuple[str, str], tmp_path: Path, held: Path
) -> None:
    if "--ray" in where:
        pytest.importorskip("ray", reason="needs Ray")
    words = command(tmp_path, *where)
    places: set[str] = set()  # of Ray
    kept: list[bytes] = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        with started(words) as driver:
            wait_until_held(driver, held)
            if "--ray" in where:  # within Ray's own code a signal's exit became another one
                wait_until_idle(driver.pid)
            (metrics,) = (tmp_path / "runs").glob(f"*-Patient-*/{METRICS}")
            kept.append(metrics.read_bytes())
            those = below(driver.pid)
            places.update(*(re.findall(r"/tmp/softadv-ray-\w+", command_line(each)) for each in those))
            os.kill(driver.pid, number)
            printed = told(driver)
            driver.wait()
        assert driver.returncode == code, printed
        assert "Traceback" not in printed
        wait_until_gone(those)
        for waiting in tmp_path.glob("held-*"):
            waiting.unlink()
    assert len(set(kept)) == 1  # with its seconds: the epoch was not done again
    held.unlink()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert run_grid(ready(parse_grid(TEXT, source="tiny"), tmp_path / "whole"), report=silent, threads=1).refused == {}
    assert bits(tmp_path / "runs") == bits(tmp_path / "whole")
    assert len(places) == (3 if "--ray" in where else 0)
    assert not any(map(os.path.exists, places))
    assert not (tmp_path / "home" / ".ray").exists()  # nor a token that a cluster started later would ask for


def python_has_begun(process: int) -> bool:
    """Whether Python has begun in a process, and would raise KeyboardInterrupt at an interrupt, or ignores it."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    heeded = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)
    return bool(heeded & 1 << signal.SIGINT - 1)


@needs_linux
def test_ctrl_c_while_the_workers_start_leaves_no_traceback_on_the_terminal(tmp_path: Path, held: Path) -> None:
    """Ctrl-C reaches all processes of the terminal at once."""
    with started(command(tmp_path, "--jobs", "2")) as driver:
        while sum(map(python_has_begun, those := workers(driver.pid))) < 2:
            assert driver.poll() is None, told(driver)
            time.sleep(0.01)
        os.killpg(driver.pid, signal.SIGINT)
        printed = told(driver)
        driver.wait()
    assert driver.returncode == 130
    assert "Traceback" not in printed
    wait_until_gone(set(those))


def test_a_second_driver_is_told_who_holds_the_folder(tmp_path: Path, held: Path) -> None:
    words = command(tmp_path, "--jobs", "1")
    with started(words) as first:
        wait_until_held(first, held)
        second = subprocess.run(words, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert f"in use by process {first.pid} on " in line


def test_the_smoke_grid_ends_with_the_same_bits_on_every_executor(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    found = []
    for name, where in (("here", []), ("jobs", ["--jobs", "2"]), ("ray", ["--ray", "local"])):
        words = ["reproduce", "smoke", "--seeds", "1", "--epochs", "2", "--device", "cpu", "--threads", "1", *where]
        words += ["--out", str(tmp_path / name)]
        done = subprocess.run([sys.executable, "-m", "softadv", *words], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # so few epochs bear out no claim
        found.append(bits(tmp_path / name))
    assert sum(file.endswith("result.json") for file in found[0]) == 3
    assert found[1] == found[0]
    assert found[2] == found[0]
