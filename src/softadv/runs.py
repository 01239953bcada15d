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

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from softadv.errors import SoftadvError
from softadv.spec import Trial, trial_from_table, trial_to_table

SPEC = "spec.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.safetensors"
MODEL = "model.onnx"
TRACEBACK = "traceback.txt"
GRID = "grid.json"

_METADATA = "softadv"


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One finished epoch. Accuracies are fractions of the test images; seconds are wall-clock.

    misclassified, unverified, verified: the partition of the training images that the epoch was
    trained with; None for methods that make none.
    """

    epoch: int  # from 1
    loss: float  # mean over the training images, as they were trained
    natural_accuracy: float
    adversarial_accuracy: float
    misclassified: int | None
    unverified: int | None
    verified: int | None
    attack_seconds: float
    certification_seconds: float
    update_seconds: float
    evaluation_seconds: float
    certifier: str | None = None  # who split the images, its version and soundness
    engine: str = ""  # device, kernels there, commit: a trial may go on elsewhere. "" in old records


@dataclass(frozen=True, kw_only=True)
class Certified:
    """How many of `images` test images a domain verified, and the seconds it took."""

    domain: str
    images: int
    verified: int
    seconds: float
    certifier: str = ""  # its name, version and soundness

    @property
    def accuracy(self) -> float:
        """Certified accuracy: the verified fraction of all images asked about."""
        return self.verified / self.images


@dataclass(frozen=True, kw_only=True)
class Autoattacked:
    """How many of `images` test images are still classified correctly after AutoAttack, and the seconds it took."""

    images: int
    correct: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Adversarial accuracy under AutoAttack."""
        return self.correct / self.images


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the exported model compares with PyTorch's on `images` test images, in onnxruntime.

    largest_difference: of an output, relative to it where it is above 1.
    """

    images: int
    largest_difference: float
    classes_equal: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of a trial, as result.json holds it."""

    trial: Trial
    natural_accuracy: float
    adversarial_accuracy: float
    certified: tuple[Certified, ...]
    parity: Parity
    neurons: int
    train_images: int
    test_images: int
    data_fingerprint: str
    data_source: str
    weights_sha256: str
    environment: dict[str, str]  # versions, device, commit
    autoattack: Autoattacked | None = None  # where the trial asks for it

    def certified_by(self, domain: str) -> Certified | None:
        """The certification by one domain, or None where it was not run."""
        return next((c for c in self.certified if c.domain == domain), None)


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


def read_result(path: Path) -> Result:
    """Read a result.json. Raises SoftadvError naming the file when it is not one."""
    return result_from_table(read_json(path), where=str(path))


def metrics_to_table(metrics: Sequence[EpochMetrics]) -> dict[str, Any]:
    """Epochs as JSON takes them; metrics_from_table reads them back."""
    return {"epochs": [dataclasses.asdict(epoch) for epoch in metrics]}


def metrics_from_table(table: Mapping[str, Any], *, where: str) -> list[EpochMetrics]:
    """Epochs from JSON. Raises SoftadvError that begins with `where` when they are none."""
    try:
        return [EpochMetrics(**record) for record in table["epochs"]]
    except (KeyError, TypeError) as error:
        raise SoftadvError(f"{where}: not the metrics of a run ({error})") from error


def result_to_table(result: Result) -> dict[str, Any]:
    """A result as JSON takes it; result_from_table reads it back."""
    return dataclasses.asdict(result) | {"trial": trial_to_table(result.trial)}


def result_from_table(table: Mapping[str, Any], *, where: str) -> Result:
    """A result from JSON. Raises SoftadvError that begins with `where` when it is none."""
    try:
        known = {
            "trial": trial_from_table(table["trial"], where=where),
            "certified": tuple(Certified(**entry) for entry in table["certified"]),
            "parity": Parity(**table["parity"]),
            "autoattack": Autoattacked(**table["autoattack"]) if table.get("autoattack") else None,
        }
        return Result(**{**table, **known})
    except (KeyError, TypeError) as error:
        raise SoftadvError(f"{where}: not the result of a trial ({error})") from error


def grid_runs(folder: Path) -> list[RunFolder]:
    """The run folders of a grid, finished or not, by name. Raises SoftadvError when there is none."""
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/spec.json"))]
    if not runs:
        raise SoftadvError(f"{folder}: holds no runs (no folder in it has a spec.json)")
    return runs


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises SoftadvError naming it where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be made ({error.strerror})") from error


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


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SoftadvError(f"{path}: cannot be written ({error.strerror})") from error


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that files appear there in the order they were written."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write JSON that people can read, atomically."""
    write_text(path, json.dumps(table, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises SoftadvError naming the file when it is missing or not one."""
    try:
        table = json.loads(path.read_text())
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SoftadvError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(table, dict):
        raise SoftadvError(f"{path}: expected a JSON object")
    return table


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with a digest that read_tensors checks."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = dict(metadata or {})
    about["sha256"] = _digest(whole, about)
    # One key, because safetensors writes several in no fixed order, and equal runs should be equal files.
    write_bytes(path, save(whole, metadata={_METADATA: json.dumps(about, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and their metadata. Raises SoftadvError when missing, truncated or altered.

    Only files that softadv wrote have the digest that tells alterations; others have no metadata here.
    """
    if not path.is_file():
        raise SoftadvError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            metadata = json.loads(about.get(_METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise SoftadvError(f"{path}: not a safetensors file, or damaged ({error})") from error
    if not about.keys() <= {_METADATA, "format"}:
        raise SoftadvError(f"{path}: damaged, or its metadata are not softadv's")
    if _METADATA in about and metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise SoftadvError(f"{path}: damaged, its contents do not match its own checksum")
    return tensors, metadata


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bits, independent of the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{tensors_sha256(tensors)} {json.dumps(metadata, sort_keys=True)}".encode()).hexdigest()


def _difference(recorded: Trial, asked: Trial) -> str:
    old, new = trial_to_table(recorded), trial_to_table(asked)
    key = next(key for key in new if old[key] != new[key])
    return f"holds a run with {key} = {old[key]!r}, not {new[key]!r}"
