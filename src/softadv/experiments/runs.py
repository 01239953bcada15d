"""The trials in a grid's folder or in a stored reference, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from softadv.errors import SoftadvError
from softadv.experiments.names import Names, method_rank, names_of, names_together
from softadv.experiments.records import Result
from softadv.experiments.reference import is_reference, read_record, record_files, shared_files
from softadv.experiments.run_folder import TRACEBACK, RunFolder, grid_runs
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import Series, by_setting
from softadv.training.records import EpochMetrics

State = Literal["finished", "unfinished", "failed", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The content of one trial's run folder. trial is None where not even its spec can be read.

    named: the names of its method and data set, unique among the folder's trials.
    """

    folder: RunFolder
    state: State
    note: str
    trial: Trial | None = None
    epochs: tuple[EpochMetrics, ...] = ()
    result: Result | None = None
    named: Names | None = None

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.folder.path.name


def all_series(entries: Sequence[Entry]) -> list[Series]:
    """The trials whose spec can be read, in the order of the entries."""
    return [
        Series(trial=entry.trial, epochs=entry.epochs, result=entry.result, named=entry.named)
        for entry in entries
        if entry.trial
    ]


def read_entries(folder: Path) -> list[Entry]:
    """Every trial of a grid's folder or reference, in the order of the report. Raises SoftadvError for none.

    A trial that belongs to two grids is stored under one: a grid's reference has it from there.
    """
    if is_reference(folder):
        return _named(_ordered([_read_recorded(path) for path in [*record_files(folder), *shared_files(folder)]]))
    return _named(_ordered([_in_its_place(read_entry(run)) for run in grid_runs(folder)]))


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
    """Check that a trial's folder has the trial's name: otherwise two folders could count as two seeds."""
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


def _named(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with what their methods and data sets are called beside one another."""
    found = [(entry.trial, entry.result.names if entry.result else None) for entry in entries if entry.trial]
    names = iter(names_together(found))
    return [replace(entry, named=next(names)) if entry.trial else entry for entry in entries]


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """By setting as in the figures, then method and seed; those without a spec last."""
    settings = list(by_setting(all_series(entries)))

    def key(entry: Entry) -> tuple[int, tuple[int, str], int, str]:
        if entry.trial is None:
            return len(settings), (0, ""), 0, entry.name
        trial = entry.trial
        return settings.index(trial.setting), method_rank(trial.method), trial.seed, entry.name

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


# The figures of a run that claims speak of, in words; value_of looks them up.
FIGURES: dict[str, str] = {
    "natural_accuracy": "natural accuracy",
    "adversarial_accuracy": "adversarial accuracy",
    "autoattack_accuracy": "accuracy under AutoAttack",
    "certified_accuracy": "certified accuracy",
    "verified_share": "verified share",
}


class NotRun(Exception):
    """A claim's trials were not run; the message says which."""


@dataclass(frozen=True)
class Run:
    """One finished trial."""

    result: Result
    metrics: Sequence[EpochMetrics]

    @property
    def names(self) -> Names:
        """What the method and the data set are called, for this run alone."""
        return names_of(self.result.trial, self.result.names)

    @property
    def makes_split(self) -> bool:
        """Whether its last epoch was trained with a split of the training images."""
        return bool(self.metrics) and self.metrics[-1].verified is not None

    @property
    def verified_share(self) -> float:
        """The verified fraction of the training images in the last epoch, of methods that make a split; else 0."""
        return (self.metrics[-1].verified or 0) / self.result.trained_images


def finished_runs(entries: Sequence[Entry]) -> list[Run]:
    """The finished trials of a grid's folder."""
    return [Run(entry.result, entry.epochs) for entry in entries if entry.result is not None]


def value_of(run: Run, what: str) -> float:
    """A figure of a run by its name in FIGURES, as a fraction.

    "certified_accuracy" is by the domain of the trial's own certifier. Raises NotRun where it was not measured.
    """
    match what:
        case "natural_accuracy" | "adversarial_accuracy":
            return float(getattr(run.result, what))
        case "verified_share":
            return run.verified_share
        case "certified_accuracy":
            certified = run.result.certified_by(run.result.trial.domain)
            if certified is None:
                raise NotRun(f"{run.result.trial.name} certified no test images with {run.result.trial.domain}")
            return certified.accuracy
        case "autoattack_accuracy":
            if run.result.autoattack is None:
                raise NotRun(f"{run.result.trial.name} was not attacked by AutoAttack")
            return run.result.autoattack.accuracy
        case _:
            raise NotRun(f"no figure is named {what!r}")


def images_of(run: Run, what: str) -> int:
    """Of how many images a figure is a share: of the first so many. Raises NotRun as value_of does."""
    value_of(run, what)
    result = run.result
    if what == "verified_share":
        return result.trained_images
    parts = {"certified_accuracy": result.certified_by(result.trial.domain), "autoattack_accuracy": result.autoattack}
    part = parts.get(what)
    return result.test_images if part is None else part.images
