"""Prepares a grid to run: checks its inputs, loads its images, and sets up its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from softadv._io import remove_partials, write_json
from softadv._locks import held
from softadv._ranges import shown
from softadv.certify.certifiers import check_certifier
from softadv.data import Dataset, load_dataset
from softadv.errors import SoftadvError
from softadv.experiments.executors.images import Source
from softadv.experiments.run_folder import (
    GRID,
    LOCK,
    RunFolder,
    clear_grid,
    read_about,
    refuse_foreign,
    shard_lock,
    shard_locks,
)
from softadv.experiments.shard import Shard
from softadv.experiments.spec import Grid, Trial
from softadv.experiments.train_config import train_config
from softadv.experiments.trial import expected_work
from softadv.models import load_model

_PATIENCE = 600.0  # seconds that a part of a grid waits for the others, many perhaps, to have set up their folders


class GridReport(Protocol):
    """A Report with the trial's name as first argument."""

    def __call__(self, trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None: ...


@dataclass(frozen=True)
class GridRun:
    """The outcome: the trials that finished, those that failed, and those refused for bad input, with the reason."""

    finished: tuple[str, ...]
    failed: tuple[str, ...]
    refused: dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """A grid whose inputs are checked and loaded, ready to run."""

    grid: Grid
    folder: Path
    datasets: dict[Trial, Dataset]
    left: tuple[Path, ...] = ()  # of what was to be deleted: files that softadv did not write
    trials: tuple[Trial, ...] = ()  # those to run: the grid's, or a part of them
    data_root: Path | None = None
    device: str = "cpu"  # where they run: "auto", "cpu" or "cuda"
    shard: Shard | None = None

    @property
    def work(self) -> float:
        """The cost of all trials to run in attack steps on one image."""
        return sum(self.work_of_each.values())

    @property
    def work_of_each(self) -> dict[str, float]:
        """The cost of each trial to run, by its name."""
        return {trial.name: expected_work(trial, self.datasets[trial]) for trial in self.trials}

    @property
    def lock(self) -> Path:
        """The lock file of a process that runs these trials: of the grid, or of this part of it."""
        return self.folder / (LOCK if self.shard is None else shard_lock(str(self.shard)))

    def source(self, trial: Trial) -> Source:
        """What loads a trial's images."""
        return Source(
            trial.dataset, self.data_root, trial.train_images, trial.test_images, self.datasets[trial].fingerprint
        )

    def images(self, source: Source) -> Dataset:
        """The images of a source, as they are here: without loading them again."""
        return next(data for trial, data in self.datasets.items() if self.source(trial) == source)


def prepare(
    grid: Grid,
    *,
    folder: Path,
    data_root: Path | None,
    device: torch.device,
    command: str,
    fresh: bool = False,
    redo: Sequence[str] = (),
    shard: Shard | None = None,
    elsewhere: str | None = None,
) -> Prepared:
    """Check every trial, load its data and set up its folder, so that bad input is found before any work.

    device: where the images are put. elsewhere: the device to run on, by name, where other processes do the work;
    None: in this process, where the images are. command: what reruns the grid, for its report.
    shard: the part of the grid to run; None: all of it.
    fresh: delete the trials in the folder first, if it holds a grid. redo: delete only these trials first, by name.
    Raises SoftadvError, before anything is written, for data that cannot be had, a folder that holds another run or
    that softadv did not make, and one that another process writes to.
    """
    trials = grid.trials if shard is None else shard.of(grid.trials)
    check_redo(grid, redo)
    _check(grid)
    datasets = _datasets(grid, data_root, device)
    for model, trial in {(trial.model, trial.dataset): trial for trial in grid.trials}.items():
        load_model(model[0], datasets[trial], seed=0)  # one that cannot be built is found before hours of work
    runs = {trial: RunFolder(folder / trial.name) for trial in trials}
    anew = {trial for trial in trials if fresh or trial.name in redo}
    refuse_foreign(folder, mark=GRID)
    if not fresh and (folder / GRID).exists() and grid_name(folder) != grid.name:
        raise SoftadvError(
            f"{folder}: holds the grid {grid_name(folder)}, not {grid.name}; use --fresh or another folder"
        )
    for trial, run in runs.items():
        if trial not in anew:
            run.check(trial)
    left: list[Path] = []
    # From here on things are written. Parts of a grid that begin together wait for one another here.
    with held(folder / LOCK, what=folder, patience=_PATIENCE if shard else 0):
        if shard is None:
            for lock in shard_locks(folder):
                with held(lock, what=folder):
                    pass
        if anew:
            chosen = {trial.name for trial in anew}
            left = clear_grid(folder, but=chosen, only=None if fresh and shard is None else chosen)
        remove_partials(folder, [GRID])
        write_json(folder / GRID, {"name": grid.name, "description": grid.description, "command": command})
        for trial, run in runs.items():
            with run.held():
                run.begin(trial, anew=trial in anew)
    return Prepared(
        grid, folder, datasets, tuple(left), trials, data_root, elsewhere or device.type, shard,
    )  # fmt: skip


def check_redo(grid: Grid, redo: Sequence[str]) -> None:
    """Raise SoftadvError for a trial in `redo` that a grid does not have."""
    names = {trial.name for trial in grid.trials}
    for name in redo:
        if name not in names:
            raise SoftadvError(f"redo: {grid.name} has no trial {shown(name)}; it has {', '.join(sorted(names))}")


def _check(grid: Grid) -> None:
    """Raise SoftadvError for names in a grid that cannot be loaded."""
    for trial in grid.trials:
        train_config(trial)
    for certifier in {trial.certifier for trial in grid.trials}:
        check_certifier(certifier)


def _datasets(grid: Grid, data_root: Path | None, device: torch.device) -> dict[Trial, Dataset]:
    """The images of every trial, each part of a data set once."""
    whole = {name: load_dataset(name, data_root) for name in {trial.dataset for trial in grid.trials}}
    parts: dict[tuple[str, int | None, int | None], Dataset] = {}
    datasets = {}
    for trial in grid.trials:
        key = (trial.dataset, trial.train_images, trial.test_images)
        if key not in parts:
            parts[key] = whole[trial.dataset].first(train=trial.train_images, test=trial.test_images).to(device)
        datasets[trial] = parts[key]
    return datasets


def grid_name(folder: Path) -> str:
    """The name of the grid that a folder holds. Raises SoftadvError when it holds none."""
    return read_about(folder).name


def grid_command(folder: Path) -> str:
    """The command that ran the grid in a folder. Raises SoftadvError when it holds none."""
    return read_about(folder).command
