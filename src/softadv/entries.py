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
    return _ordered([_in_its_place(read_entry(run)) for run in grid_runs(folder)])


def read_entry(folder: RunFolder) -> Entry:
    """Read one trial's folder; damaged files make it unreadable, not the whole report."""
    trial = None
    try:
        trial = folder.trial()
        trial, epochs, result = folder.read()
        failure = _last_line(folder.path / TRACEBACK)
    except (SoftadvError, OSError) as error:  # a folder may be another user's
        note = str(error).removeprefix(f"{folder.path}: ").replace(f"{folder.path}/", "")
        return Entry(folder=folder, state="unreadable", note=note, trial=trial)
    state, note = _state(failure, trial, epochs, result)
    result = result if state == "finished" else None
    return Entry(folder=folder, state=state, note=note, trial=trial, epochs=epochs, result=result)


def _in_its_place(entry: Entry) -> Entry:
    """A trial of a grid lies under its name: else two folders could be taken for two seeds."""
    if entry.trial is None or entry.trial.name == entry.name:
        return entry
    note = f"holds {entry.trial.name}, which its name does not say"
    return Entry(folder=entry.folder, state="unreadable", note=note, trial=entry.trial)


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


def _state(failure: str, trial: Trial, epochs: tuple[EpochMetrics, ...], result: Result | None) -> tuple[State, str]:
    done = f"{len(epochs)} of {trial.epochs} epochs finished"
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
