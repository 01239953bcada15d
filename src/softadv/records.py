"""What is recorded of a trial: its epochs and its result, and how JSON holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softadv._io import read_json
from softadv.errors import SoftadvError
from softadv.spec import Trial, trial_from_table, trial_to_table


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
