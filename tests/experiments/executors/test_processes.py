"""A grid on processes: the same bits as in this process, whatever happens to a worker."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.bits import bits
from softadv._locks import held
from softadv.errors import SoftadvError
from softadv.experiments.executors import processes
from softadv.experiments.executors.images import ImageLoader
from softadv.experiments.executors.jobs import Lost, Send
from softadv.experiments.executors.processes import Processes
from softadv.experiments.executors.resources import Dealt
from softadv.experiments.grid import Prepared, prepare
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import TRIES_AGAIN, run_grid
from softadv.experiments.spec import Grid, parse_grid
from tests.experiments.executors.scripted import MortalTraining
from tests.experiments.test_grid import TINY, silent


def grid_of(*methods: str, epochs: int = 2) -> Grid:
    text = TINY.replace('["natural", "adversarial", "soft"]', str(list(methods)).replace("'", '"'))
    return parse_grid(text, source="tiny").select(epochs=epochs)


def ready(grid: Grid, folder: Path) -> Prepared:
    return prepare(grid, folder=folder, data_root=None, device=torch.device("cpu"), command="again", elsewhere="cpu")


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Two workers of one thread, with temporary files where no other test has any."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    executor = Processes(Dealt(2, 1))
    yield executor
    executor.close()
    assert multiprocessing.active_children() == []
    assert list(temporary.glob("softadv-worker-*")) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid of these tests as one process leaves it, with one thread. Shared: tests must not change it."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_grid(ready(grid_of("soft", "random", "natural"), folder), report=silent, threads=1).refused == {}
    return folder


def test_two_workers_leave_the_bits_that_one_process_leaves(whole: Path, tmp_path: Path, two: Processes) -> None:
    grid = grid_of("random", "soft", "natural")  # the first waits for the second, whose counts it replays
    done: list[float] = []
    prepared = ready(grid, tmp_path)

    def report(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        done.append(work)

    ran = run_grid(prepared, report=report, executor=two, threads=1)
    assert ran.finished == tuple(trial.name for trial in grid.trials)
    assert sum(done) == prepared.work
    assert bits(tmp_path) == bits(whole)
    result = RunFolder(tmp_path / grid.trials[0].name).result()
    assert result is not None
    assert result.environment["threads"] == "1"
    assert ", 1 threads, " in RunFolder(tmp_path / grid.trials[0].name).metrics()[0].engine
    # A second time nothing is done.
    assert run_grid(ready(grid, tmp_path), report=silent, executor=two, threads=1) == ran


def test_a_killed_workers_trial_goes_on_from_its_last_epoch_with_the_same_bits(
    whole: Path, tmp_path: Path, two: Processes
) -> None:
    deaths = {"epoch 1/2: training": 1, "epoch 2/2: evaluating": 1, "certifying test": 1}
    told: list[str] = []
    done: list[float] = []

    def report(trial: str, what: str, work: float, **rest: object) -> None:
        assert not rest.get("before")  # what was done before a kill is told once
        told.append(what)
        done.append(work)

    prepared = ready(grid_of("soft"), tmp_path / "runs")
    task = MortalTraining(deaths, tmp_path)
    ran = run_grid(prepared, report=report, executor=two, threads=1, task=task)
    assert (ran.failed, ran.refused) == ((), {})
    assert told.count("lost its worker") == 3
    assert sum(done) == pytest.approx(prepared.work)
    name = ran.finished[0]
    assert bits(tmp_path / "runs") == {path: content for path, content in bits(whole).items() if path.startswith(name)}


def test_a_trial_whose_workers_die_again_and_again_is_given_up_and_loses_no_other(
    tmp_path: Path, two: Processes
) -> None:
    grid = grid_of("soft", "natural")
    task = MortalTraining({"epoch 1/2: certifying": TRIES_AGAIN + 1}, tmp_path)  # which soft training alone does
    ran = run_grid(ready(grid, tmp_path / "runs"), report=silent, executor=two, threads=1, task=task)
    assert (ran.failed, ran.finished) == ((grid.trials[0].name,), (grid.trials[1].name,))
    told = (tmp_path / "runs" / ran.failed[0] / "traceback.txt").read_text()
    assert f"given up after {TRIES_AGAIN + 1} workers" in told
    assert f"SIGKILL (on {platform.node()}, process " in told


OWN = """
from pathlib import Path
from softadv.training.methods import Method

class Failing(Method):
    title, color = "Failing", "#000000"
    def attacked(self, epoch):
        with Path("tries").open("a") as file:
            file.write("x")
        raise {error}("no good")
"""


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_a_trial_that_fails_by_itself_is_not_tried_again_and_says_where(
    error: str, tmp_path: Path, two: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_failing.py").write_text(OWN.format(error=error))
    grid = grid_of("own_failing:Failing")
    ran = run_grid(ready(grid, tmp_path / "runs"), report=silent, executor=two, threads=1)
    sys.modules.pop("own_failing", None)
    assert ran.failed == (grid.trials[0].name,)
    assert (tmp_path / "tries").read_text() == "x"
    last = (tmp_path / "runs" / ran.failed[0] / "traceback.txt").read_text().splitlines()[-1]
    assert last.startswith(f"{error}: no good (on {platform.node()}, process ")


def test_bad_input_is_refused_with_the_path_that_the_user_knows(tmp_path: Path, two: Processes) -> None:
    grid = grid_of("soft")
    prepared = ready(grid, tmp_path)
    damaged = tmp_path / grid.trials[0].name / "checkpoint.safetensors"
    damaged.write_text("nonsense")
    ran = run_grid(prepared, report=silent, executor=two, threads=1)
    (message,) = ran.refused.values()
    assert message.startswith(f"{damaged}: not a safetensors file")
    assert f"(on {platform.node()}, process " in message


def test_files_that_cannot_be_written_end_their_trial_alone(tmp_path: Path, two: Processes) -> None:
    grid = grid_of("soft", "natural")
    prepared = ready(grid, tmp_path)
    (tmp_path / grid.trials[0].name / "model.onnx").mkdir()  # where a file is to come
    ran = run_grid(prepared, report=silent, executor=two, threads=1)
    assert ran.finished == (grid.trials[1].name,)
    assert "model.onnx" in ran.refused[grid.trials[0].name]


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path, two: Processes) -> None:
    grid = grid_of("soft", "natural")
    prepared = ready(grid, tmp_path)
    taken = tmp_path / grid.trials[0].name
    with held(taken / ".lock", what=taken):
        there = sorted(taken.iterdir())
        ran = run_grid(prepared, report=silent, executor=two, threads=1)
        assert sorted(taken.iterdir()) == there
    assert ran.finished == (grid.trials[1].name,)
    assert "in use by process" in ran.refused[grid.trials[0].name]


def test_a_reason_that_cannot_be_kept_is_told_and_the_other_trials_go_on(
    tmp_path: Path, two: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = OWN.format(error="RuntimeError").replace(
        "with Path", "if epoch.number == 1:\n            return epoch.y < 0\n        with Path"
    )
    (tmp_path / "own_unlucky.py").write_text(text)
    grid = grid_of("own_unlucky:Failing", "natural")
    first, second = (trial.name for trial in grid.trials)

    def report(trial: str, what: str, work: float, **_: object) -> None:
        if trial == first and what.startswith("epoch 1"):
            (tmp_path / "runs" / first / "traceback.txt").mkdir(exist_ok=True)  # where the reason is to go

    ran = run_grid(ready(grid, tmp_path / "runs"), report=report, executor=two, threads=1)
    sys.modules.pop("own_unlucky", None)
    assert ran.finished == (second,)
    assert "RuntimeError: no good (on " in ran.refused[first]
    assert "traceback.txt: cannot be written" in ran.refused[first]


@dataclass(frozen=True)
class Unsendable:
    """A job with a part that cannot be pickled."""

    part: Callable[[], None] = lambda: None
    name: str = "unsendable"
    threads: int | None = 1

    def run(self, *, images: ImageLoader, send: Send) -> None:
        raise AssertionError


def test_a_job_that_cannot_be_sent_is_an_error_and_not_waited_for(two: Processes) -> None:
    with pytest.raises(Exception, match="pickle"):
        two.submit(Unsendable())
    assert two.free == 2


@dataclass(frozen=True)
class Lingering:
    """A job whose worker is long in dying: its pipe has ended some time before it has."""

    name: str = "lingering"
    threads: int | None = 1

    def run(self, *, images: ImageLoader, send: Send) -> None:
        os.closerange(3, 1024)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_may_take_its_time_to_die(two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_END_SECONDS", 0.1)
    found: list[object] = []
    two.submit(Lingering())
    two.deliver(lambda _handle, message: found.append(message))
    (lost,) = found
    assert isinstance(lost, Lost)
    assert "by the signal SIGKILL (on " in lost.reason


def test_an_error_of_the_driver_ends_the_workers(tmp_path: Path) -> None:
    def report(trial: str, what: str, work: float, **_: object) -> None:
        raise KeyboardInterrupt

    executor = Processes(Dealt(2, 1))
    try:
        with pytest.raises(KeyboardInterrupt):
            run_grid(ready(grid_of("soft", "natural"), tmp_path), report=report, executor=executor, threads=1)
    finally:
        executor.close()
    assert multiprocessing.active_children() == []
    assert list(tmp_path.rglob(".lock")) == []


def test_other_images_than_the_drivers_are_refused(tmp_path: Path, two: Processes) -> None:
    prepared = ready(grid_of("natural"), tmp_path)
    (trial,) = prepared.trials
    object.__setattr__(prepared.datasets[trial], "fingerprint", "0" * 64)
    ran = run_grid(prepared, report=silent, executor=two, threads=1)
    assert "the images here are not those that the jobs are for" in ran.refused[trial.name]
    with pytest.raises(SoftadvError, match="are not those"):
        prepared.source(trial).load()
