"""The stored reference: results of finished runs that later runs are compared with.

expected_results/reference/<grid>/<trial>.json  a trial's spec, epochs and result
                                  summary.json  means over seeds, and which part of the grid was run
                                  weights/<trial>.safetensors  of the first seed of each setting and method
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from softadv._io import list_folder, read_json
from softadv._typed import build
from softadv._units import Count
from softadv.errors import SoftadvError
from softadv.experiments.records import (
    Result,
    check_together,
    metrics_from_table,
    metrics_to_table,
    result_from_table,
    result_to_table,
)
from softadv.experiments.run_folder import GRID
from softadv.experiments.spec import Trial, check_name, load_grid, packaged_grids
from softadv.experiments.spec_text import spec_value
from softadv.training.records import EpochMetrics

REFERENCE = "reference"  # below the expected results
SUMMARY = "summary.json"
FROM_WEIGHTS = "-from-weights"  # ends the name of a grid whose trials were evaluated from stored weights


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished trial as a reference folder holds it."""

    path: Path
    epochs: tuple[EpochMetrics, ...]
    result: Result

    @property
    def trial(self) -> Trial:
        """What was run."""
        return self.result.trial

    @property
    def weights(self) -> Path:
        """Where the trial's final weights lie, if they are kept."""
        return weights_path(self.path.parent, self.trial)


def weights_path(folder: Path, trial: Trial) -> Path:
    """Where the folder of a grid's reference keeps the weights of a trial."""
    return folder / "weights" / f"{trial.name}.safetensors"


def training_of(trial: Trial) -> Trial:
    """A key of a training: equal for trials that differ only in seed, certifier or measurements."""
    measured: dict[str, Any] = {"certified_images": None, "certified_domains": (), "autoattack_images": 0}
    return replace(trial, seed=0, certifier="native", evaluate_every=1, **measured)


def training_difference(recorded: Trial, other: Trial) -> str | None:
    """In which key of the training two trials differ, such as "epochs 50 instead of 2"; None if in none."""
    one, two = training_of(recorded), training_of(other)
    differing = next(
        (field.name for field in fields(Trial) if getattr(one, field.name) != getattr(two, field.name)), None
    )
    return differing and f"{differing} {spec_value(two, differing)} instead of {spec_value(one, differing)}"


def record_table(result: Result, epochs: Sequence[EpochMetrics]) -> dict[str, Any]:
    """A finished trial as a reference keeps it, without the paths of this machine; record_from_table reads it."""
    table = result_to_table(result)
    spec = table.pop("trial")
    if result.trial.dataset != "digits":  # the others are read from a folder, whose place is this machine's own
        table["data_source"] = result.trial.dataset
    return {"spec": spec, **metrics_to_table(epochs), "result": table}


def read_record(path: Path) -> Record:
    """Read a trial's file. Raises SoftadvError naming the file when it is damaged or something else."""
    return record_from_table(read_json(path), path=path)


def record_from_table(table: dict[str, Any], *, path: Path) -> Record:
    """A trial from its file's content. Raises SoftadvError naming the file when it is damaged or something else."""
    if table.keys() != {"spec", "epochs", "result"} or not isinstance(table["result"], dict):
        raise SoftadvError(f"{path}: not a reference (needs spec, epochs and result)")
    if "trial" in table["result"]:
        raise SoftadvError(f"{path}: result: unknown key 'trial': the spec is above it")
    result = result_from_table({**table["result"], "trial": table["spec"]}, where=str(path))
    epochs = tuple(metrics_from_table({"epochs": table["epochs"]}, where=str(path)))
    if result.trial.name != path.stem:
        raise SoftadvError(f"{path}: holds {result.trial.name}, which its name does not say")
    try:
        check_together(result.trial, epochs, result)
    except SoftadvError as error:
        raise SoftadvError(f"{path}: {error}") from error
    return Record(path=path, epochs=epochs, result=result)


def is_reference(folder: Path) -> bool:
    """Whether a folder holds a grid's reference rather than its runs."""
    return (folder / SUMMARY).is_file() and not (folder / GRID).exists()


def record_files(folder: Path) -> list[Path]:
    """The files of the trials in the folder of a grid's reference, by name."""
    return [path for path in list_folder(folder) if path.suffix == ".json" and path.name != SUMMARY]


def shared_files(folder: Path) -> list[Path]:
    """The files of a packaged grid's trials that are stored beside its reference, under another grid, by name."""
    grid = read_summary(folder).grid
    own = {path.stem for path in record_files(folder)}
    lacking = [trial for trial in load_grid(grid).trials if trial.name not in own] if grid in packaged_grids() else []
    return stored_elsewhere(folder, lacking)


def stored_elsewhere(folder: Path, trials: Sequence[Trial]) -> list[Path]:
    """Those of the trials that other grids' folders beside this one hold: their files, by name."""
    sought = {trial.name: trial for trial in trials}
    found: dict[str, Path] = {}
    here = folder.resolve()
    for other in list_folder(here.parent):
        if other != here and is_reference(other):
            found |= {path.stem: path for path in record_files(other) if _is_stored(path, sought.get(path.stem))}
    return [found[name] for name in sorted(found)]


def _is_stored(path: Path, trial: Trial | None) -> bool:
    """Whether another grid's file holds this trial, whatever else was measured of it. A damaged file holds none."""
    try:
        return trial is not None and training_of(read_record(path).trial) == training_of(trial)
    except SoftadvError:
        return False


def read_grid_reference(folder: Path) -> list[Record]:
    """Every trial in the folder of a grid's reference, by name. Raises SoftadvError naming a damaged file."""
    return [read_record(path) for path in record_files(folder)]


def read_reference(root: Path, *, grid: str) -> list[Record]:
    """Every reference below a folder; none where there is no such folder.

    A grid may be part of another, so trials are looked for in all of them. Where several have the same trial, that
    of the folder named `grid` is taken, else the first by name. Raises SoftadvError naming a damaged file.
    """
    folders = sorted(
        (path for path in list_folder(root) if path.is_dir()), key=lambda path: (path.name != grid, path.name)
    )
    found: dict[tuple[Trial, int], Record] = {}
    for folder in folders:
        for record in read_grid_reference(folder):
            found.setdefault((training_of(record.trial), record.trial.seed), record)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure's mean over seeds, as a fraction, and its sample deviation where there are two seeds or more."""

    mean: float
    deviation: Annotated[float, Ge(0)] | None


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """A setting's method over its seeds. A figure that not every seed has is None."""

    setting: str
    method: str
    seeds: tuple[int, ...]
    natural_accuracy: Spread | None
    adversarial_accuracy: Spread | None
    autoattack_accuracy: Spread | None
    certified_accuracy: Spread | None
    verified_share: Spread | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How many trials a grid has, how many of them have finished, and the names of those that lack.

    elsewhere: the names of those that another grid's folder holds, since their training is the same.
    """

    finished: Count
    trials: Count
    missing: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What summary.json holds of a grid's reference."""

    grid: str
    description: str
    command: str
    parts: Parts
    results: tuple[SummaryRow, ...]

    def __post_init__(self) -> None:
        check_name(self.grid, key="grid")


def read_summary(folder: Path) -> Summary:
    """The summary of a grid's reference. Raises SoftadvError naming the file."""
    path = folder / SUMMARY
    return summary_from_table(read_json(path), path=path)


def summary_from_table(table: dict[str, Any], *, path: Path) -> Summary:
    """A summary from its file's content. Raises SoftadvError naming the file."""
    return build(Summary, table, where=str(path))
