"""The run folder: what is in it, written so that a run killed at any moment loses nothing.

runs/<grid>/grid.json                       the grid's name
runs/<grid>/<trial>/spec.json               what was asked for
                    metrics.json            one record per finished epoch
                    checkpoint.safetensors  weights, optimizer and partition after the last epoch
                    weights.safetensors     the final weights
                    model.onnx              the same network for ONNX readers
                    examples.safetensors    a few test images, attacked
                    result.json             the outcome; there only once everything else is
                    traceback.txt           why the trial failed, if it did
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from softadv._io import make_folder, read_json, write_json
from softadv.errors import SoftadvError
from softadv.records import (
    EpochMetrics,
    Result,
    metrics_from_table,
    metrics_to_table,
    read_result,
    result_to_table,
)
from softadv.spec import Trial, trial_from_table, trial_to_table

SPEC = "spec.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.safetensors"
MODEL = "model.onnx"
TRACEBACK = "traceback.txt"
GRID = "grid.json"


class RunFolder:
    """One trial's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, trial: Trial) -> None:
        """Create the folder and record the spec; keep what an earlier run of the same trial left.

        Raises SoftadvError where the folder holds another trial, or cannot be written.
        """
        self.check(trial)
        make_folder(self.path)
        if not (self.path / SPEC).exists():
            write_json(self.path / SPEC, trial_to_table(trial))
        (self.path / TRACEBACK).unlink(missing_ok=True)

    def check(self, trial: Trial) -> None:
        """Raise SoftadvError if the folder holds another trial; write nothing."""
        if os.path.lexists(self.path / SPEC):  # unlike exists(), quiet about a folder below a file
            recorded = self.trial()
            if recorded != trial:
                raise SoftadvError(f"{self.path}: {_difference(recorded, trial)}; use --fresh or another folder")

    def trial(self) -> Trial:
        """The recorded spec."""
        return trial_from_table(read_json(self.path / SPEC), where=str(self.path / SPEC))

    def metrics(self) -> list[EpochMetrics]:
        """The finished epochs, in order; empty before the first."""
        path = self.path / "metrics.json"
        if not path.exists():
            return []
        return metrics_from_table(read_json(path), where=str(path))

    def write_metrics(self, metrics: list[EpochMetrics]) -> None:
        """Replace metrics.json."""
        write_json(self.path / "metrics.json", metrics_to_table(metrics))

    def result(self) -> Result | None:
        """The outcome, or None while the trial has not finished."""
        path = self.path / "result.json"
        return read_result(path) if path.exists() else None

    def write_result(self, result: Result) -> None:
        """Record the outcome; from then on the trial counts as finished."""
        write_json(self.path / "result.json", result_to_table(result))


def grid_runs(folder: Path) -> list[RunFolder]:
    """The run folders of a grid, finished or not, by name. Raises SoftadvError when there is none."""
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/spec.json"))]
    if not runs:
        raise SoftadvError(f"{folder}: holds no runs (no folder in it has a spec.json)")
    return runs


def delete_run(folder: Path, *, mark: str) -> None:
    """Delete a folder, if it is there and the file `mark` shows that softadv made it; else SoftadvError."""
    if not folder.exists():
        return
    # Deleting is for runs, not for whatever a mistyped path names.
    if not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise SoftadvError(f"{folder}: not a folder that softadv made (no {mark} in it), so it is not deleted")
    try:
        shutil.rmtree(folder.resolve())  # a link to a larger disk stays, what it names goes
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be deleted ({error.strerror or error})") from error


def _difference(recorded: Trial, asked: Trial) -> str:
    old, new = trial_to_table(recorded), trial_to_table(asked)
    key = next(key for key in new if old[key] != new[key])
    return f"holds a run with {key} = {old[key]!r}, not {new[key]!r}"
