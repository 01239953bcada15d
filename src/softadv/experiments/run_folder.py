"""The run folder: its files, written so that a run killed at any moment loses nothing.

runs/<grid>/grid.json                       the grid's name
runs/<grid>/<trial>/spec.json               what was asked for
                    sources.json            where code of one's own comes from, if the trial runs any
                    metrics.json            one record per finished epoch
                    checkpoint.safetensors  weights, optimizer and partition after the last epoch
                    weights.safetensors     the final weights
                    model.onnx              the same network for ONNX readers
                    examples.safetensors    a few test images, attacked
                    result.json             the outcome; there only once everything else is
                    traceback.txt           why the trial failed, if it did
runs/<grid>/report/                         the page, its figures and tables, and a list of these

One process at a time writes a trial's folder, and a grid's: it holds the file .lock there. Reading needs none.
Several may run parts of one grid: each then holds a file .lock-K-of-N in the grid's folder instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from softadv._io import (
    delete_file,
    file_sha256,
    is_partial,
    list_folder,
    make_folder,
    read_bytes,
    read_json,
    read_tensors,
    remove_partials,
    tensors_sha256,
    write_all,
    write_json,
)
from softadv._locks import held
from softadv._typed import build
from softadv.errors import SoftadvError
from softadv.experiments.records import (
    Result,
    check_together,
    metrics_from_table,
    metrics_to_table,
    read_result,
    result_to_table,
)
from softadv.experiments.report_files import PAGES, delete_page
from softadv.experiments.spec import Trial, check_name, trial_from_table, trial_to_table
from softadv.training.records import EpochMetrics

SPEC = "spec.json"
METRICS = "metrics.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.safetensors"
MODEL = "model.onnx"
RESULT = "result.json"
TRACEBACK = "traceback.txt"
GRID = "grid.json"
SOURCES = "sources.json"
LOCK = ".lock"
REPORT = "report"

# In the order in which they are deleted: what is left at any moment is a trial that has not finished.
_OF_A_TRIAL = (RESULT, CHECKPOINT, METRICS, WEIGHTS, MODEL, EXAMPLES, TRACEBACK, SOURCES, SPEC)
# In the order in which they are written: a checkpoint never knows an epoch that the metrics do not, and where there is
# a result, there is all else.
WRITTEN = (SPEC, SOURCES, METRICS, CHECKPOINT, WEIGHTS, MODEL, EXAMPLES, RESULT)
# Whose digests the result records: what a reader takes from a finished trial.
_KEPT = (METRICS, WEIGHTS, MODEL, EXAMPLES)


class RunFolder:
    """One trial's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder for writing by this process. Raises SoftadvError naming the holder if another one has it."""
        with held(self.path / LOCK, what=self.path):
            yield

    @contextmanager
    def begun(self, trial: Trial) -> Iterator[None]:
        """Check, lock and begin the folder. Raises SoftadvError as check, held and begin do, in this order."""
        self.check(trial)
        with self.held():
            self.begin(trial)
            yield

    def begin(self, trial: Trial, *, anew: bool = False) -> None:
        """Create the folder and record the spec; keep what an earlier run of the same trial left.

        anew: what was there has been cleared, and another spec takes the place of the one there.
        Raises SoftadvError where the folder holds another trial or somebody's files, or cannot be written.
        """
        if not anew:
            self.check(trial)
        make_folder(self.path)
        remove_partials(self.path, _OF_A_TRIAL)
        if anew or not (self.path / SPEC).exists():
            write_json(self.path / SPEC, trial_to_table(trial))
        delete_file(self.path / TRACEBACK)

    def renew(self, trial: Trial) -> list[Path]:
        """Delete the trial in the folder, if there is one, and let another take its place.

        Returns what was left, which softadv did not write. Raises SoftadvError, before anything is deleted, for a
        folder with files in it that holds no trial, and where another process writes there.
        """
        refuse_foreign(self.path, mark=SPEC)
        if not (self.path / SPEC).exists():
            return []
        self.trial()  # a file of that name may be anything
        left = self.clear(but_spec=True)
        with self.held():
            self.begin(trial, anew=True)
        return left

    def check(self, trial: Trial) -> None:
        """Raise SoftadvError if the folder holds another trial, or files but none; write nothing."""
        if os.path.lexists(self.path / SPEC):  # unlike exists(), quiet about a folder below a file
            recorded = self.trial()
            if recorded != trial:
                raise SoftadvError(f"{self.path}: {_difference(recorded, trial)}; use --fresh or another folder")
        elif self.path.is_dir():
            refuse_foreign(self.path, mark=SPEC)

    def trial(self) -> Trial:
        """The recorded spec."""
        return trial_from_table(read_json(self.path / SPEC), where=str(self.path / SPEC))

    def metrics(self) -> list[EpochMetrics]:
        """The finished epochs, in order; empty before the first."""
        path = self.path / METRICS
        return metrics_from_table(read_json(path), where=str(path)) if path.exists() else []

    def write_metrics(self, metrics: list[EpochMetrics]) -> None:
        """Replace metrics.json."""
        write_json(self.path / METRICS, metrics_to_table(metrics))

    def result(self) -> Result | None:
        """The outcome, or None while the trial has not finished."""
        path = self.path / RESULT
        return read_result(path) if path.exists() else None

    def write_result(self, result: Result) -> Result:
        """Record the outcome, with the digests of what else is there; from then on the trial counts as finished."""
        files = {name: file_sha256(self.path / name) for name in _KEPT if (self.path / name).exists()}
        result = replace(result, files=files)
        write_json(self.path / RESULT, result_to_table(result))
        return result

    def read(self) -> tuple[Trial, tuple[EpochMetrics, ...], Result | None]:
        """All that is recorded. Raises SoftadvError where it contradicts itself, and for damaged files."""
        trial, result = self.trial(), self.result()
        if result is not None and result.trial == trial:
            self._check_file(METRICS, result)
        epochs = tuple(self.metrics())
        try:
            check_together(trial, epochs, result)
        except SoftadvError as error:
            raise SoftadvError(f"{self.path}: {error}") from error
        return trial, epochs, result

    def finished(self) -> Result | None:
        """The outcome of a trial whose files are all as they were when it finished, or None before that.

        Raises SoftadvError naming what is missing or changed, and how the trial alone is run again.
        """
        try:
            _, _, result = self.read()
            if result is None:
                return None
            for name in _KEPT:
                self._check_file(name, result)
            if tensors_sha256(read_tensors(self.path / WEIGHTS)[0]) != result.weights_sha256:
                raise SoftadvError(f"{self.path / WEIGHTS}: not the weights that {RESULT} was measured with")
        except SoftadvError as error:
            raise SoftadvError(f"{error}; {self.again()}") from error
        return result

    def again(self) -> str:
        """Advice for a damaged file of this trial."""
        return f"reproduce --redo {self.path.name} (of train: --fresh) runs this trial again, and no other"

    def clear(self, *, but_spec: bool = False) -> list[Path]:
        """Delete the files that softadv writes, by name, and the folder if nothing else is in it.

        but_spec: keep what marks the folder as softadv's, since it is written again at once.
        Returns what was left, which softadv did not write. Raises SoftadvError where something cannot be deleted.
        """
        with self.held():
            remove_partials(self.path, _OF_A_TRIAL)
            for name in _OF_A_TRIAL[:-1] if but_spec else _OF_A_TRIAL:
                delete_file(self.path / name)
        left = [path for path in list_folder(self.path) if path.name != SPEC]
        if not but_spec and not left:
            with suppress(OSError):  # a disk of its own stays, empty
                self.path.rmdir()
        return left

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """The files of these names that there are, by name, as receive takes them."""
        return {name: read_bytes(self.path / name) for name in names if (self.path / name).exists()}

    def receive(self, files: Mapping[str, bytes]) -> None:
        """Write files of a trial that was run elsewhere, each whole or not at all, in the order that a reader needs.

        Raises SoftadvError where one has a name that no trial's file has, and where one cannot be written.
        """
        for name in files:
            if name not in WRITTEN:
                raise SoftadvError(f"{self.path}: a file {name!r} is none that a trial writes")
        write_all({self.path / name: files[name] for name in WRITTEN if name in files})

    def _check_file(self, name: str, result: Result) -> None:
        recorded = result.files.get(name)  # none in a result of an earlier version
        path = self.path / name
        if recorded is not None and not path.exists():
            raise SoftadvError(f"{path}: is missing, though the trial has finished")
        if recorded is not None and file_sha256(path) != recorded:
            raise SoftadvError(f"{path}: was changed after the trial had finished")


@dataclass(frozen=True, kw_only=True)
class GridAbout:
    """What grid.json holds. command: what reruns the grid."""

    name: str
    description: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, key="name")


def read_about(folder: Path) -> GridAbout:
    """What a grid's folder says of itself. Raises SoftadvError when it holds no grid."""
    path = folder / GRID
    if not path.exists():
        raise SoftadvError(f"{folder}: not the folder of a grid (no {GRID} in it)")
    return build(GridAbout, read_json(path), where=str(path))


def grid_runs(folder: Path) -> list[RunFolder]:
    """The run folders of a grid, finished or not, by name. Raises SoftadvError when there is none.

    A folder that has files of a trial but no spec is one, too: it is damaged, not absent.
    """
    runs = [
        RunFolder(path)
        for path in list_folder(folder)
        if path.is_dir() and any(os.path.lexists(path / name) for name in _OF_A_TRIAL)
    ]
    if not runs:
        if os.path.lexists(folder / SPEC):
            raise SoftadvError(f"{folder}: is one run, not the folder of a grid")
        there = os.path.lexists(folder)
        raise SoftadvError(
            f"{folder}: " + (f"holds no runs (no folder in it has a {SPEC})" if there else "no such folder")
        )
    return runs


def shard_lock(shard: str) -> str:
    """The name of the lock file of a part of a grid. shard: K/N."""
    return f"{LOCK}-{shard.replace('/', '-of-')}"


def shard_locks(folder: Path) -> list[Path]:
    """The lock files of parts of a grid that are in its folder, held or left behind."""
    return [path for path in list_folder(folder) if path.name.startswith(f"{LOCK}-")]


def _is_lock(path: Path) -> bool:
    return path.name == LOCK or path.name.startswith(f"{LOCK}-")


def refuse_foreign(folder: Path, *, mark: str) -> None:
    """Raise SoftadvError for a folder with files in it, none of which is `mark`: softadv did not make it."""
    if folder.exists() and not folder.is_dir():
        raise SoftadvError(f"{folder}: not a folder")
    there = [path for path in list_folder(folder) if not _is_lock(path) and not is_partial(path)]
    if there and not any(path.name == mark for path in there):
        raise SoftadvError(
            f"{folder}: not a folder that softadv made ({there[0].name} is in it, but no {mark}); name another folder"
        )


def clear_grid(folder: Path, *, but: Set[str] = frozenset(), only: Set[str] | None = None) -> list[Path]:
    """Delete the trials of a grid's folder, if it holds a grid.

    but: trials that take their place: their specs stay until then, so that the folder is softadv's at every moment.
    only: delete these trials alone, also where nothing of them can be read.
    Returns what was left, which softadv did not write. Raises SoftadvError, before anything is deleted, for a folder
    with files in it that holds no grid, for a trial's folder that softadv did not make, and for one behind a link.
    """
    if not folder.exists():
        return []
    refuse_foreign(folder, mark=GRID)
    if not (folder / GRID).exists():
        return []
    read_about(folder)  # a file of that name may be anything
    ours, left = [], []
    for path in list_folder(folder):
        if only is not None and path.name not in only:
            continue
        if path.name in (GRID, REPORT) or _is_lock(path) or is_partial(path):
            continue
        if path.is_dir() and path.is_symlink() and _is_trial(path):
            raise SoftadvError(f"{path}: a link, and softadv deletes nothing behind one; delete it yourself")
        if path.is_dir() and not path.is_symlink() and (only is not None or _is_trial(path)):
            ours.append(RunFolder(path))
        elif path.name in but and (not path.is_dir() or list_folder(path)):
            raise SoftadvError(f"{path}: holds no trial that can be read; --redo {path.name} replaces it even so")
        else:
            left.append(path)
    for run in ours:
        left += run.clear(but_spec=run.path.name in but)
    if only is None and not (folder / REPORT).is_symlink():
        for page in PAGES:
            delete_page(folder / REPORT, page)
    return left


def _is_trial(folder: Path) -> bool:
    """Whether a folder is a trial's by what is in its files, not by their names."""
    run = RunFolder(folder)
    for read in (run.trial, run.metrics, run.result):
        try:
            if read():
                return True
        except SoftadvError:
            continue
    return False


def _difference(recorded: Trial, asked: Trial) -> str:
    old, new = trial_to_table(recorded), trial_to_table(asked)
    key = next(key for key in new if old[key] != new[key])
    return f"holds a run with {key} = {old[key]!r}, not {new[key]!r}"
