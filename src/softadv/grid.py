"""Which trials, in what order; a failed trial never loses another."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from softadv.certifiers import check_certifier
from softadv.data import ImageData, load_dataset
from softadv.errors import SoftadvError
from softadv.progress import Report
from softadv.runs import GRID, TRACEBACK, RunFolder, delete_run, make_folder, read_json, write_json, write_text
from softadv.spec import Grid, Trial
from softadv.training import attack_of
from softadv.trial import expected_work, run_trial


class GridReport(Protocol):
    """Told the trial's name, and then what a trial's Report is told."""

    def __call__(self, trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None: ...


@dataclass(frozen=True)
class GridRun:
    """What happened: the trials that finished, those that failed, and those whose input was bad and why."""

    finished: tuple[str, ...]
    failed: tuple[str, ...]
    refused: dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """A grid whose inputs are checked and loaded, ready to run."""

    grid: Grid
    folder: Path
    datasets: dict[Trial, ImageData]

    @property
    def work(self) -> float:
        """The whole grid's cost in attack steps on one image."""
        return sum(expected_work(trial, self.datasets[trial]) for trial in self.grid.trials)


def prepare(
    grid: Grid, *, folder: Path, data_root: Path | None, device: torch.device, command: str, fresh: bool = False
) -> Prepared:
    """Check every trial, load its data and set up its folder, so that bad input is found before any work.

    command: what reruns the grid, for its report.
    fresh: delete the folder first, if it holds a grid.
    Raises SoftadvError for data that cannot be had, and a folder that holds another run.
    """
    for trial in grid.trials:
        attack_of(trial)
    for certifier in {trial.certifier for trial in grid.trials}:
        check_certifier(certifier)
    whole = {name: load_dataset(name, data_root) for name in {trial.dataset for trial in grid.trials}}
    parts: dict[tuple[str, int | None, int | None], ImageData] = {}
    datasets = {}
    for trial in grid.trials:
        key = (trial.dataset, trial.train_images, trial.test_images)
        if key not in parts:
            parts[key] = whole[trial.dataset].first(train=trial.train_images, test=trial.test_images).to(device)
        datasets[trial] = parts[key]
    if fresh:
        delete_run(folder, mark=GRID)
    if (folder / GRID).exists() and grid_name(folder) != grid.name:
        raise SoftadvError(
            f"{folder}: holds the grid {grid_name(folder)}, not {grid.name}; use --fresh or another folder"
        )
    runs = {trial: RunFolder(folder / trial.name) for trial in grid.trials}
    for trial, run in runs.items():
        run.check(trial)
    # From here on things are written.
    make_folder(folder)
    write_json(folder / GRID, {"name": grid.name, "description": grid.description, "command": command})
    for trial, run in runs.items():
        run.begin(trial)
    return Prepared(grid, folder, datasets)


def run_grid(prepared: Prepared, *, report: GridReport) -> GridRun:
    """Run every trial that has not finished yet, one after another.

    A trial that fails leaves its traceback in its folder, one with bad input, such as a damaged checkpoint,
    leaves the message there; the next one goes on.
    """
    finished, failed, refused = [], [], {}
    for trial in prepared.grid.trials:
        run = RunFolder(prepared.folder / trial.name)
        try:
            run_trial(trial, run=run, data=prepared.datasets[trial], report=_named(report, trial.name))
            finished.append(trial.name)
        except SoftadvError as error:
            write_text(run.path / TRACEBACK, f"{error}\n")
            report(trial.name, "refused", 0)
            refused[trial.name] = str(error)
        except Exception:
            write_text(run.path / TRACEBACK, traceback.format_exc())
            report(trial.name, "failed", 0)
            failed.append(trial.name)
    return GridRun(tuple(finished), tuple(failed), refused)


def grid_name(folder: Path) -> str:
    """The name of the grid that a folder holds. Raises SoftadvError when it holds none."""
    return _about(folder, "name")


def grid_command(folder: Path) -> str:
    """The command that ran the grid in a folder. Raises SoftadvError when it holds none."""
    return _about(folder, "command")


def _about(folder: Path, key: str) -> str:
    if not (folder / GRID).exists():
        raise SoftadvError(f"{folder}: not the folder of a grid (no {GRID} in it)")
    return str(read_json(folder / GRID).get(key, ""))


def _named(report: GridReport, name: str) -> Report:
    return partial(report, name)
