"""From a run folder to the reference: what is kept of a grid's finished trials."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from softadv._io import make_folder, read_json, read_tensors, tensors_sha256, write_json, write_tensors
from softadv.entries import read_entries
from softadv.errors import SoftadvError
from softadv.evidence import FIGURES, NotRun, Run, value_of
from softadv.grid import grid_command, grid_name
from softadv.reference import (
    FROM_WEIGHTS,
    SUMMARY,
    Record,
    is_reference,
    read_grid_reference,
    training_difference,
    weights_path,
    write_record,
)
from softadv.run_folder import GRID, WEIGHTS
from softadv.series import mean_and_deviation
from softadv.spec import METHODS, Trial, load_grid, packaged_grids

_PLACES = ("--data", "--out")  # the options that say where things lie on one machine


@dataclass(frozen=True)
class Kept:
    """What was kept: the grid's folder in the reference, the trials of this call, and those that still lack there."""

    folder: Path
    trials: tuple[str, ...]
    missing: tuple[str, ...]


def keep(folder: Path, *, reference: Path) -> Kept:
    """Write a run folder's finished trials into the reference, in place of what it has of them.

    folder: of a grid's runs. reference: the folder that holds a folder for each grid.
    Runs of one grid from several machines can be kept one after another.
    Raises SoftadvError, before anything is written, where nothing is finished, where a trial is not as the packaged
    grid or the reference has it, and for damaged files.
    """
    if is_reference(folder):
        raise SoftadvError(f"{folder}: is a reference already; name the folder of a grid's runs")
    grid = grid_name(folder)
    if grid.endswith(FROM_WEIGHTS):
        raise SoftadvError(f"{folder}: was evaluated from stored weights, nothing was trained there: not a reference")
    entries = read_entries(folder)
    runs = [Run(entry.result, entry.epochs) for entry in entries if entry.result is not None]
    if not runs:
        raise SoftadvError(f"{folder}: no trial has finished, so there is nothing to keep")
    target = reference / grid
    packaged = load_grid(grid).trials if grid in packaged_grids() else ()
    before = {record.trial.name: record for record in read_grid_reference(target)}
    for run in runs:
        _check_spec(run.result.trial, grid=grid, packaged=packaged, before=list(before.values()))
    names = {run.result.trial.name for run in runs} | before.keys()
    firsts = _first_seeds([run.result.trial for run in runs] + [record.trial for record in before.values()])
    weights = {
        trial: _read_weights(folder / trial.name / WEIGHTS, run.result.weights_sha256)
        for run in runs
        if (trial := run.result.trial) in firsts
    }
    # From here on things are written; the summary last, since it speaks of the others.
    for run in runs:
        write_record(target, result=run.result, epochs=run.metrics)
    make_folder(target / "weights")
    for trial, (tensors, metadata) in weights.items():
        write_tensors(weights_path(target, trial), tensors, metadata=metadata)
    for path in (target / "weights").glob("*.safetensors"):
        if path.stem not in {trial.name for trial in firsts}:
            path.unlink()
    asked = [trial.name for trial in packaged] or [entry.name for entry in entries]
    missing = tuple(name for name in asked if name not in names)
    about: dict[str, Any] = {
        "grid": grid,
        "description": str(read_json(folder / GRID).get("description", "")),
        "command": portable_command(grid_command(folder)),
        "parts": {"finished": len(asked) - len(missing), "trials": len(asked), "missing": list(missing)},
    }
    write_json(target / SUMMARY, about | {"results": summarize(read_grid_reference(target))})
    return Kept(target, tuple(run.result.trial.name for run in runs), missing)


def summarize(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each setting and method its seeds, and the mean and sample deviation of its figures, as fractions.

    A figure that not every seed has is null, and so is the deviation of one seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for record in sorted(records, key=lambda record: _order(record.trial)):
        groups.setdefault((record.trial.setting, record.trial.method), []).append(Run(record.result, record.epochs))
    return [
        {
            "setting": setting,
            "method": method,
            "seeds": [run.result.trial.seed for run in runs],
            **{figure: _spread(runs, figure) for figure in FIGURES},
        }
        for (setting, method), runs in groups.items()
    ]


def portable_command(command: str) -> str:
    """A grid's command without the folders of the machine that ran it; of a grid's file it keeps the name."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word.split("=")[0] not in _PLACES:
            kept.append(PurePath(word).name if word.endswith(".toml") else word)
        skip = not skip and word in _PLACES
    return shlex.join(kept)


def _order(trial: Trial) -> tuple[str, float, str, int, int]:
    return trial.dataset, trial.eps, trial.setting, METHODS.index(trial.method), trial.seed


def _spread(runs: Sequence[Run], figure: str) -> dict[str, float | None] | None:
    if figure == "verified_share" and runs[0].result.trial.method != "soft":
        return None
    try:
        mean, deviation = mean_and_deviation([value_of(run, figure) for run in runs])
    except NotRun:
        return None
    return {"mean": round(mean, 6), "deviation": None if deviation is None else round(deviation, 6)}


def _first_seeds(trials: Sequence[Trial]) -> list[Trial]:
    """The trial of the first seed for each setting and method."""
    first: dict[tuple[str, str], Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.seed):
        first.setdefault((trial.setting, trial.method), trial)
    return list(first.values())


def _check_spec(trial: Trial, *, grid: str, packaged: Sequence[Trial], before: Sequence[Record]) -> None:
    """A reference under a grid's name is of that grid, with whichever seeds, and all of its seeds are alike."""
    alike = [other for other in packaged if (other.setting, other.method) == (trial.setting, trial.method)]
    if packaged and not alike:
        raise SoftadvError(f"{trial.name}: grid {grid} has no such trial, so it is no reference for it")
    kept = [
        record.trial
        for record in before
        if (record.trial.setting, record.trial.method) == (trial.setting, trial.method)
    ]
    for other, whose in [(other, f"grid {grid}") for other in alike] + [(other, "the reference") for other in kept]:
        difference = training_difference(other, trial)
        if difference is not None:
            raise SoftadvError(f"{trial.name}: was run with {difference}, as {whose} has it: not kept")


def _read_weights(path: Path, sha256: str) -> tuple[dict[str, Any], dict[str, str]]:
    tensors, about = read_tensors(path)
    if tensors_sha256(tensors) != sha256:
        raise SoftadvError(f"{path}: not the weights that result.json was measured with")
    return tensors, about
