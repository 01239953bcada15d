"""Stores a grid's finished trials in the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from softadv._io import (
    json_bytes,
    make_folder,
    parse_json,
    read_tensors,
    tensors_bytes,
    tensors_sha256,
    write_all,
)
from softadv._locks import held
from softadv.errors import SoftadvError
from softadv.experiments.environment import CHANGED
from softadv.experiments.grid_command import portable_command
from softadv.experiments.names import method_rank
from softadv.experiments.reference import (
    FROM_WEIGHTS,
    SUMMARY,
    Record,
    is_reference,
    read_grid_reference,
    read_summary,
    record_from_table,
    record_table,
    stored_elsewhere,
    summary_from_table,
    training_difference,
    weights_path,
)
from softadv.experiments.run_folder import LOCK, WEIGHTS, GridAbout, read_about
from softadv.experiments.runs import FIGURES, Entry, NotRun, Run, read_entries, value_of
from softadv.experiments.spec import Trial, load_grid, packaged_grids
from softadv.experiments.spec_text import mean_and_deviation


@dataclass(frozen=True)
class StoredTrials:
    """The result of keep. folder: the grid's, in the reference; trials: stored now; missing: those it still lacks."""

    folder: Path
    trials: tuple[str, ...]
    missing: tuple[str, ...]


def keep(folder: Path, *, reference: Path, allow_dirty: bool = False) -> StoredTrials:
    """Write a run folder's finished trials into the reference; they replace stored ones of the same name.

    folder: of a grid's runs. reference: the folder that holds a folder for each grid.
    allow_dirty: also take trials whose commit is unknown or had changes, which nobody else can run again.
    Runs of one grid from several machines can be kept one after another.
    Raises SoftadvError, before anything is written, where nothing is finished, where a trial is not as the packaged
    grid or the reference has it, and for damaged files. The records are written first, then the weights, then the
    summary: what stops in between is made whole when the same runs are kept again.
    """
    if is_reference(folder):
        raise SoftadvError(f"{folder}: is a reference already; name the folder of a grid's runs")
    about = read_about(folder)
    if about.name.endswith(FROM_WEIGHTS):
        raise SoftadvError(f"{folder}: was evaluated from stored weights, nothing was trained there: not a reference")
    entries = read_entries(folder)
    runs = [Run(entry.result, entry.epochs) for entry in entries if entry.result is not None]
    for entry in entries:
        if entry.state == "unreadable":
            raise SoftadvError(f"{entry.folder.path}: {entry.note}")
    if not runs:
        raise SoftadvError(f"{folder}: no trial has finished, so there is nothing to keep")
    if not allow_dirty:
        for run in runs:
            _check_commits(run)
    target = reference / about.name
    plan = partial(_plan, runs, entries, folder=folder, about=about, target=target)
    plan()  # whatever is refused is refused before a folder is made
    make_folder(target / "weights")
    with held(target / LOCK, what=target):
        kept, files, superseded = plan()
        write_all(files)
        for path in superseded:
            path.unlink(missing_ok=True)
    return kept


def _plan(
    runs: Sequence[Run], entries: Sequence[Entry], *, folder: Path, about: GridAbout, target: Path
) -> tuple[StoredTrials, dict[Path, bytes], list[Path]]:
    """The result, the files to write, and the files to delete afterwards: weights of later seeds."""
    packaged = load_grid(about.name).trials if about.name in packaged_grids() else ()
    records = {record.trial.name: record for record in read_grid_reference(target)}
    for run in runs:
        _check_spec(run.result.trial, grid=about.name, packaged=packaged, before=list(records.values()))
    if (target / SUMMARY).is_file():
        read_summary(target)  # what is overwritten is softadv's
    files: dict[Path, bytes] = {}
    for run in runs:
        path = target / f"{run.result.trial.name}.json"
        files[path] = json_bytes(path, record_table(run.result, run.metrics))
        records[run.result.trial.name] = record_from_table(parse_json(files[path].decode(), where=str(path)), path=path)
    firsts = {trial.name for trial in _first_seeds([record.trial for record in records.values()])}
    for run in runs:
        name = run.result.trial.name
        if name in firsts:
            tensors, metadata = _read_weights(folder / name / WEIGHTS, run.result.weights_sha256)
            files[weights_path(target, run.result.trial)] = tensors_bytes(tensors, metadata=metadata)
    asked = [trial.name for trial in packaged] or [entry.name for entry in entries]
    elsewhere = [path.stem for path in stored_elsewhere(target, [t for t in packaged if t.name not in records])]
    missing = tuple(name for name in asked if name not in records and name not in elsewhere)
    parts: dict[str, Any] = {"finished": len(asked) - len(missing), "trials": len(asked), "missing": list(missing)}
    if elsewhere:
        parts["elsewhere"] = elsewhere
    summary: dict[str, Any] = {
        "grid": about.name,
        "description": about.description,
        "command": portable_command(about.command),
        "parts": parts,
        "results": summary_rows([records[name] for name in sorted(records)]),
    }
    path = target / SUMMARY
    summary_from_table(summary, path=path)
    files[path] = json_bytes(path, summary)  # the last, since it speaks of the others
    superseded = [records[name].weights for name in records.keys() - firsts]
    return StoredTrials(target, tuple(run.result.trial.name for run in runs), missing), files, superseded


def _check_commits(run: Run) -> None:
    commits = {run.result.environment.get("commit", "unknown")}
    commits |= {epoch.engine.rpartition("commit ")[2] for epoch in run.metrics if epoch.engine}
    for commit in sorted(commits):
        if commit in ("", "unknown") or commit.endswith(CHANGED):
            known = commit.endswith(CHANGED)
            said = f"with changes on top of commit {commit[:12]}" if known else "from an unknown commit"
            raise SoftadvError(
                f"{run.result.trial.name}: was run {said}, so nobody can run it again; --allow-dirty keeps it even so"
            )


def summary_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
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


def _order(trial: Trial) -> tuple[str, float, str, tuple[int, str], int]:
    return trial.dataset, trial.eps, trial.setting, method_rank(trial.method), trial.seed


def _spread(runs: Sequence[Run], figure: str) -> dict[str, float | None] | None:
    if figure == "verified_share" and not runs[0].makes_split:
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
