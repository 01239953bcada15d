"""A trial's records: its epochs and its result, their checks, and their form in JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softadv._io import read_json, text_sha256
from softadv._typed import build
from softadv._units import Count, Seconds, Several, Share
from softadv.certify.records import Certified, Parity, check_part
from softadv.errors import SoftadvError
from softadv.experiments.names import Names
from softadv.experiments.spec import Trial, trial_to_table
from softadv.training.records import EpochMetrics


@dataclass(frozen=True, kw_only=True)
class Autoattacked:
    """How many of `images` test images are still classified correctly after AutoAttack, and the seconds it took."""

    images: Several
    correct: Count
    seconds: Seconds

    def __post_init__(self) -> None:
        check_part("correct", self.correct, self.images)

    @property
    def accuracy(self) -> float:
        """Adversarial accuracy under AutoAttack."""
        return self.correct / self.images


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of a trial, as result.json holds it."""

    trial: Trial
    natural_accuracy: Share
    adversarial_accuracy: Share
    certified: tuple[Certified, ...]
    parity: Parity | None  # None where the model cannot be exported
    neurons: Several
    train_images: Several
    test_images: Several
    data_fingerprint: str
    data_source: str
    weights_sha256: str
    environment: dict[str, str]  # versions, device, commit
    autoattack: Autoattacked | None = None  # where the trial asks for it
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the run folder's others; {} in old records
    names: Names | None = None  # what the method and the data set are called; None in old records
    own_loss: bool = False  # whether the method has a loss that the compiled kernels do not differentiate

    @property
    def trained_images(self) -> int:
        """How many images the model was trained on: the training images without those kept back for validation."""
        return self.train_images - self.trial.validation_images

    def certified_by(self, domain: str) -> Certified | None:
        """The certification by one domain, or None where it was not run."""
        return next((c for c in self.certified if c.domain == domain), None)


@dataclass(frozen=True, kw_only=True)
class _Epochs:
    """What metrics.json holds."""

    epochs: tuple[EpochMetrics, ...]


def read_result(path: Path) -> Result:
    """Read a result.json. Raises SoftadvError naming the file when it is not one."""
    return result_from_table(read_json(path), where=str(path))


def metrics_to_table(metrics: Sequence[EpochMetrics]) -> dict[str, Any]:
    """Epochs as JSON takes them; metrics_from_table reads them back."""
    return {"epochs": [dataclasses.asdict(epoch) for epoch in metrics]}


def metrics_from_table(table: Mapping[str, Any], *, where: str) -> list[EpochMetrics]:
    """Epochs from JSON. Raises SoftadvError that begins with `where` when they are none."""
    return list(build(_Epochs, table, where=where).epochs)


def digest(*records: Trial | EpochMetrics) -> str:
    """SHA-256 of records, without seconds, which differ in every run, and without values equal to their defaults.

    So a key with a default that a later version adds does not change any digest.
    """
    tables = [
        {
            f.name: value
            for f in dataclasses.fields(record)
            if (value := getattr(record, f.name)) != f.default and not f.name.endswith("_seconds")
        }
        for record in records
    ]
    return text_sha256(json.dumps(tables, sort_keys=True))


def result_to_table(result: Result) -> dict[str, Any]:
    """A result as JSON takes it; result_from_table reads it back."""
    return dataclasses.asdict(result) | {"trial": trial_to_table(result.trial)}


def result_from_table(table: Mapping[str, Any], *, where: str) -> Result:
    """A result from JSON. Raises SoftadvError that begins with `where` when it is none."""
    return build(Result, table, where=where)


def check_together(trial: Trial, epochs: Sequence[EpochMetrics], result: Result | None) -> None:
    """Raise SoftadvError where a trial's epochs or its result are not of this trial, or contradict one another."""
    for number, epoch in enumerate(epochs, start=1):
        if epoch.epoch != number:
            raise SoftadvError(f"epoch {epoch.epoch} is in the place of epoch {number}")
    if len(epochs) > trial.epochs:
        raise SoftadvError(f"{len(epochs)} epochs of a trial of {trial.epochs}")
    images = None if trial.train_images is None else trial.train_images - trial.validation_images
    if result is not None:
        _check_result(trial, result)
        stopped_early = trial.patience is not None and len(epochs) > trial.patience
        if len(epochs) != trial.epochs and not stopped_early:
            raise SoftadvError(f"there is a result after {len(epochs)} of {trial.epochs} epochs")
        images = result.trained_images
    for epoch in epochs:
        parts = [epoch.misclassified, epoch.unverified, epoch.verified]
        counts = [part for part in parts if part is not None]
        if len(counts) not in (0, len(parts)):
            raise SoftadvError(f"epoch {epoch.epoch}: a part of the split is missing")
        images = images if images is not None or not counts else sum(counts)
        if counts and sum(counts) != images:
            raise SoftadvError(f"epoch {epoch.epoch}: the split is of {sum(counts)} images, not of {images}")


def _check_result(trial: Trial, result: Result) -> None:
    if result.trial != trial:
        key = next(f.name for f in dataclasses.fields(Trial) if getattr(trial, f.name) != getattr(result.trial, f.name))
        raise SoftadvError(
            f"the result is of a trial with {key} = {getattr(result.trial, key)!r}, not {getattr(trial, key)!r}"
        )
    for key, asked, found in (
        ("train_images", trial.train_images, result.train_images),
        ("test_images", trial.test_images, result.test_images),
    ):
        if asked is not None and found != asked:
            raise SoftadvError(f"{key}: the result is of {found}, the trial of {asked}")
    domains = [certified.domain for certified in result.certified]
    if len(set(domains)) != len(domains):
        raise SoftadvError("certified: a domain is there twice")
    measured = [(f"certified by {found.domain}", found.images) for found in result.certified]
    measured += [] if result.autoattack is None else [("autoattack", result.autoattack.images)]
    for what, count in measured:
        if count > result.test_images:
            raise SoftadvError(f"{what}: of {count} images, but there are {result.test_images} test images")
