"""Stored results of finished runs, small enough for the checkout: what later runs are compared with.

expected_results/reference/<grid>/<trial>.json  a trial's spec, epochs and result
                                  summary.json  means over seeds, and which part of the grid was run
                                  weights/<trial>.safetensors  of the first seed of each setting and method
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from softadv._io import make_folder, read_json, write_json
from softadv.errors import SoftadvError
from softadv.records import (
    EpochMetrics,
    Result,
    metrics_from_table,
    metrics_to_table,
    result_from_table,
    result_to_table,
)
from softadv.run_folder import GRID
from softadv.series import spec_value
from softadv.spec import Trial

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
    """What two trials share if only their seeds, their certifier or what is measured at the end tell them apart."""
    return replace(trial, seed=0, certifier="native", certified_images=None, certified_domains=(), autoattack_images=0)


def training_difference(recorded: Trial, other: Trial) -> str | None:
    """In which key of the training two trials differ, such as "epochs 50 instead of 2"; None if in none."""
    one, two = training_of(recorded), training_of(other)
    differing = next(
        (field.name for field in fields(Trial) if getattr(one, field.name) != getattr(two, field.name)), None
    )
    return differing and f"{differing} {spec_value(two, differing)} instead of {spec_value(one, differing)}"


def write_record(folder: Path, *, result: Result, epochs: Sequence[EpochMetrics]) -> None:
    """Keep a finished trial in the folder of a grid's reference, without the paths of this machine.

    Raises SoftadvError where it cannot be written.
    """
    table = result_to_table(result)
    spec = table.pop("trial")
    if result.trial.dataset != "digits":  # the others are read from a folder, whose place is this machine's own
        table["data_source"] = result.trial.dataset
    make_folder(folder)
    write_json(folder / f"{result.trial.name}.json", {"spec": spec, **metrics_to_table(epochs), "result": table})


def read_record(path: Path) -> Record:
    """Read a trial's file. Raises SoftadvError naming the file when it is damaged or something else."""
    table = read_json(path)
    outcome = table.get("result")
    if not isinstance(outcome, dict) or not isinstance(table.get("spec"), dict):
        raise SoftadvError(f"{path}: not a reference (needs spec, epochs and result)")
    result = result_from_table({**outcome, "trial": table["spec"]}, where=str(path))
    epochs = tuple(metrics_from_table(table, where=str(path)))
    if result.trial.name != path.stem:
        raise SoftadvError(f"{path}: holds {result.trial.name}, which its name does not say")
    if len(epochs) != result.trial.epochs:
        raise SoftadvError(f"{path}: holds {len(epochs)} epochs of {result.trial.epochs}")
    _check_figures(result, epochs, path)
    return Record(path=path, epochs=epochs, result=result)


def is_reference(folder: Path) -> bool:
    """Whether a folder holds a grid's reference rather than its runs."""
    return (folder / SUMMARY).is_file() and not (folder / GRID).exists()


def record_files(folder: Path) -> list[Path]:
    """The files of the trials in the folder of a grid's reference, by name."""
    return sorted(path for path in folder.glob("*.json") if path.name != SUMMARY)


def read_grid_reference(folder: Path) -> list[Record]:
    """Every trial in the folder of a grid's reference, by name. Raises SoftadvError naming a damaged file."""
    return [read_record(path) for path in record_files(folder)]


def read_reference(root: Path, *, grid: str) -> list[Record]:
    """Every reference below a folder; none where there is no such folder.

    A grid may be part of another, so trials are looked for in all of them. Where several have the same trial, that
    of the folder named `grid` is taken, else the first by name. Raises SoftadvError naming a damaged file.
    """
    folders = sorted(
        (path for path in root.glob("*") if path.is_dir()), key=lambda path: (path.name != grid, path.name)
    )
    found: dict[tuple[Trial, int], Record] = {}
    for folder in folders:
        for record in read_grid_reference(folder):
            found.setdefault((training_of(record.trial), record.trial.seed), record)
    return list(found.values())


def summary_text(folder: Path, key: str) -> str:
    """A text of the summary: "grid", "description" or "command". Raises SoftadvError naming the file."""
    path = folder / SUMMARY
    found = read_json(path).get(key)
    if not isinstance(found, str):
        raise SoftadvError(f"{path}: {key}: expected a text, got {found!r}")
    return found


def summary_parts(folder: Path) -> tuple[int, int]:
    """How many trials of the grid have finished, and how many it has. Raises SoftadvError naming the file."""
    path = folder / SUMMARY
    parts = read_json(path).get("parts")
    counts = [parts.get(key) for key in ("finished", "trials")] if isinstance(parts, dict) else []
    match counts:
        case [int(finished), int(trials)]:
            return finished, trials
    raise SoftadvError(f"{path}: parts: expected the numbers finished and trials, got {parts!r}")


def _check_figures(result: Result, epochs: Sequence[EpochMetrics], path: Path) -> None:
    """JSON of another program may have the right keys: what is compared must be numbers that can be."""
    fractions: dict[str, Any] = {
        "natural_accuracy": result.natural_accuracy,
        "adversarial_accuracy": result.adversarial_accuracy,
    }
    for key, value in fractions.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise SoftadvError(f"{path}: {key}: expected a fraction, got {value!r}")
    counted = [(f"certified by {found.domain}", found.verified, found.images) for found in result.certified]
    if result.autoattack is not None:
        counted.append(("autoattack", result.autoattack.correct, result.autoattack.images))
    counted += [
        (f"epoch {e.epoch}: verified", e.verified, result.train_images) for e in epochs if e.verified is not None
    ]
    for key, count, images in counted:
        if not all(type(value) is int for value in (count, images)) or not 0 <= count <= images or not images:
            raise SoftadvError(f"{path}: {key}: {count!r} of {images!r} is no count of images")
