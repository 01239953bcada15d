"""What a grid's folder, or the reference that was kept of one, holds of each trial, in whatever state it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softadv.errors import SoftadvError
from softadv.records import EpochMetrics, Result
from softadv.reference import is_reference, read_record, record_files
from softadv.run_folder import TRACEBACK, RunFolder, grid_runs
from softadv.series import Series, by_setting
from softadv.spec import METHODS, Trial

State = Literal["finished", "unfinished", "failed", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the run folder holds of one trial. trial is None where not even its spec can be read."""

    folder: RunFolder
    state: State
    note: str
    trial: Trial | None = None
    epochs: tuple[EpochMetrics, ...] = ()
    result: Result | None = None

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.folder.path.name


def read_entries(folder: Path) -> list[Entry]:
    """Every trial of a grid's folder or reference, in the order of the report. Raises SoftadvError for none."""
    if is_reference(folder):
        return _ordered([_read_recorded(path) for path in record_files(folder)])
    return _ordered([read_entry(run) for run in grid_runs(folder)])


def read_entry(folder: RunFolder) -> Entry:
    """Read one trial's folder; damaged files make it unreadable, not the whole report."""
    trial = None
    try:
        trial = folder.trial()
        epochs, result = tuple(folder.metrics()), folder.result()
    except SoftadvError as error:
        note = str(error).replace(f"{folder.path}/", "")
        return Entry(folder=folder, state="unreadable", note=note, trial=trial)
    state, note = _state(folder, trial, epochs, result)
    result = result if state == "finished" else None
    return Entry(folder=folder, state=state, note=note, trial=trial, epochs=epochs, result=result)


def _read_recorded(path: Path) -> Entry:
    # The folder is not there: what is only in run folders, such as the examples, is missing like in an old one.
    folder = RunFolder(path.with_name(path.name.removesuffix(".json")))
    try:
        record = read_record(path)
    except SoftadvError as error:
        return Entry(folder=folder, state="unreadable", note=str(error).replace(f"{path.parent}/", ""))
    return Entry(
        folder=folder, state="finished", note="", trial=record.trial, epochs=record.epochs, result=record.result
    )


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """By setting as in the figures, then method and seed; those without a spec last."""
    settings = list(by_setting([Series(trial=entry.trial, epochs=()) for entry in entries if entry.trial]))

    def key(entry: Entry) -> tuple[int, int, int, str]:
        if entry.trial is None:
            return len(settings), 0, 0, entry.name
        trial = entry.trial
        return settings.index(trial.setting), METHODS.index(trial.method), trial.seed, entry.name

    return sorted(entries, key=key)


def _state(
    folder: RunFolder, trial: Trial, epochs: tuple[EpochMetrics, ...], result: Result | None
) -> tuple[State, str]:
    failure = _last_line(folder.path / TRACEBACK)
    done = f"{len(epochs)} of {trial.epochs} epochs finished"
    if result is not None and len(epochs) < trial.epochs:
        return "unreadable", f"result.json is there, but metrics.json has {done}"
    if result is not None:
        return "finished", f"a later attempt to run it failed: {failure}" if failure else ""
    if failure:
        return "failed", f"{done}; {failure}"
    return "unfinished", done


def _last_line(path: Path) -> str:
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "traceback.txt is empty"
