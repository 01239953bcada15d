"""Which trials, in what order; a failed trial never loses another."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from softadv._io import remove_partials, write_json, write_text
from softadv._locks import held
from softadv._progress import Report
from softadv._ranges import shown
from softadv.certify.certifiers import check_certifier
from softadv.data import ImageData, load_dataset
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments.run_folder import GRID, LOCK, TRACEBACK, RunFolder, clear_grid, read_about, refuse_foreign
from softadv.experiments.spec import Grid, Trial
from softadv.experiments.train_config import train_config
from softadv.experiments.trial import TrialRun, expected_work, run_trial, train_side_by_side
from softadv.models import load_model
from softadv.training.stacked import can_be_stacked

_LOG = logging.getLogger(__name__)


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
    left: tuple[Path, ...] = ()  # of what was to be deleted: files that softadv did not write

    @property
    def work(self) -> float:
        """The whole grid's cost in attack steps on one image."""
        return sum(expected_work(trial, self.datasets[trial]) for trial in self.grid.trials)


def prepare(
    grid: Grid,
    *,
    folder: Path,
    data_root: Path | None,
    device: torch.device,
    command: str,
    fresh: bool = False,
    redo: Sequence[str] = (),
) -> Prepared:
    """Check every trial, load its data and set up its folder, so that bad input is found before any work.

    command: what reruns the grid, for its report.
    fresh: delete the trials in the folder first, if it holds a grid. redo: delete only these trials first, by name.
    Raises SoftadvError, before anything is written, for data that cannot be had, a folder that holds another run or
    that softadv did not make, and one that another process writes to.
    """
    names = {trial.name for trial in grid.trials}
    for name in redo:
        if name not in names:
            raise SoftadvError(f"redo: {grid.name} has no trial {shown(name)}; it has {', '.join(sorted(names))}")
    for trial in grid.trials:
        train_config(trial)
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
    for model, trial in {(trial.model, trial.dataset): trial for trial in grid.trials}.items():
        load_model(model[0], datasets[trial], seed=0)  # one that cannot be built is found before hours of work
    runs = {trial: RunFolder(folder / trial.name) for trial in grid.trials}
    anew = {trial for trial in grid.trials if fresh or trial.name in redo}
    refuse_foreign(folder, mark=GRID)
    if not fresh and (folder / GRID).exists() and grid_name(folder) != grid.name:
        raise SoftadvError(
            f"{folder}: holds the grid {grid_name(folder)}, not {grid.name}; use --fresh or another folder"
        )
    for trial, run in runs.items():
        if trial not in anew:
            run.check(trial)
    left: list[Path] = []
    # From here on things are written.
    with held(folder / LOCK, what=folder):
        if anew:
            left = clear_grid(folder, but={trial.name for trial in anew}, only=None if fresh else set(redo))
        remove_partials(folder, [GRID])
        write_json(folder / GRID, {"name": grid.name, "description": grid.description, "command": command})
        for trial, run in runs.items():
            with run.held():
                run.begin(trial, anew=trial in anew)
    return Prepared(grid, folder, datasets, tuple(left))


def run_grid(prepared: Prepared, *, report: GridReport, side_by_side: bool | None = None) -> GridRun:
    """Run every trial that has not finished yet, one after another.

    A trial that fails leaves its traceback in its folder, one with bad input, such as a damaged checkpoint,
    leaves the message there; the next one goes on.

    side_by_side: train trials that differ in nothing but the seed as one model, before the first of them is concluded;
        None does so on a GPU, which one of them does not fill.
    """
    begun: set[Trial] = set()

    def run(trial: Trial) -> None:
        folder, data = RunFolder(prepared.folder / trial.name), prepared.datasets[trial]
        if data.train_x.is_cuda if side_by_side is None else side_by_side:
            begun.update(_train_all_seeds(prepared, trial, but=begun, report=report))
        told = _named(report, trial.name)
        run_trial(trial, run=folder, data=data, report=_of_what_is_new(told) if trial in begun else told)

    return for_each_trial(prepared, run, report=report)


def for_each_trial(prepared: Prepared, work: Callable[[Trial], object], *, report: GridReport) -> GridRun:
    """Do something with every trial; one that fails, or whose input is bad, leaves why in its folder and loses none.

    work: raises SoftadvError for bad input. report: told of what failed or was refused.
    Raises SoftadvError where another process writes to the grid's folder.
    """
    finished, failed, refused = [], [], {}
    with held(prepared.folder / LOCK, what=prepared.folder):
        for trial in prepared.grid.trials:
            traceback_file = prepared.folder / trial.name / TRACEBACK
            try:
                work(trial)
                finished.append(trial.name)
            except DivergedError as error:
                write_text(traceback_file, f"{error}\n")
                report(trial.name, "failed", 0)
                failed.append(trial.name)
            except SoftadvError as error:
                write_text(traceback_file, f"{error}\n")
                report(trial.name, "refused", 0)
                refused[trial.name] = str(error)
            except Exception:
                write_text(traceback_file, traceback.format_exc())
                report(trial.name, "failed", 0)
                failed.append(trial.name)
    return GridRun(tuple(finished), tuple(failed), refused)


def _but_for_the_seed(trial: Trial) -> Trial:
    return replace(trial, seed=0)


def _train_all_seeds(prepared: Prepared, trial: Trial, *, but: set[Trial], report: GridReport) -> set[Trial]:
    """Train the trials like this one side by side, those together that are at the same epoch.

    but: trials of which this was tried already. Returns those of which it was tried now.
    What goes wrong here is met again where each trial goes on alone, from its last epoch, and is dealt with there.
    """
    kind = _but_for_the_seed(trial)
    alike = [other for other in prepared.grid.trials if _but_for_the_seed(other) == kind and other not in but]
    at_epoch: dict[int, list[TrialRun]] = {}
    with ExitStack() as holding:
        for other in alike if can_be_stacked(train_config(kind)) else ():
            folder, data = RunFolder(prepared.folder / other.name), prepared.datasets[other]
            with suppress(Exception):
                holding.enter_context(folder.begun(other))
                if folder.result() is None:
                    run = TrialRun.resume(other, run=folder, data=data, report=_named(report, other.name))
                    at_epoch.setdefault(run.epoch, []).append(run)
        for runs in at_epoch.values():
            if len(runs) > 1:
                try:
                    train_side_by_side(runs)
                except Exception as error:
                    names = ", ".join(run.trial.name for run in runs)
                    _LOG.warning("%s: side by side they failed (%s), and go on one by one", names, error)
    return {run.trial for runs in at_epoch.values() for run in runs}


def _of_what_is_new(report: Report) -> Report:
    """A report that is not told what was done before, for it was told when the trial was begun."""

    def told(what: str, work: float, *, before: bool = False, note: str = "") -> None:
        if not before:
            report(what, work, note=note)

    return told


def grid_name(folder: Path) -> str:
    """The name of the grid that a folder holds. Raises SoftadvError when it holds none."""
    return read_about(folder).name


def grid_command(folder: Path) -> str:
    """The command that ran the grid in a folder. Raises SoftadvError when it holds none."""
    return read_about(folder).command


def _named(report: GridReport, name: str) -> Report:
    return partial(report, name)
