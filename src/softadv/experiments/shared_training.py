"""Trials that differ only in the radius that they are evaluated at: natural training is done once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from softadv._io import read_tensors
from softadv.errors import SoftadvError
from softadv.experiments.run_folder import WEIGHTS, RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import method_of
from softadv.training.records import EpochMetrics


def trains_alike(trial: Trial) -> Trial | None:
    """What two trials share if their trainings end with the same weights whatever radius each is evaluated at.

    None for a method that attacks, and where the radius decides when to stop or what an epoch measures besides.
    """
    if method_of(trial).attacks or trial.validation_images:
        return None
    elsewhere: dict[str, Any] = {"certified_images": None, "certified_domains": (), "autoattack_images": 0}
    return replace(
        trial, setting="any", eps=0.5, alpha=0.5, steps=1, eps_warmup_epochs=0, natural_epochs=0, update="mixed",
        attack="pgd", attack_norm="linf", random_start=True, domain="deeppoly", certifier="native",
        split="full", split_every=1, split_share=0.1, **elsewhere,
    )  # fmt: skip


def trained_by(trial: Trial, trials: Iterable[Trial]) -> Trial | None:
    """The first of a grid's trials whose training is this one's, too; None where that is itself, or there is none."""
    alike = trains_alike(trial)
    first = alike and next((other for other in trials if trains_alike(other) == alike), None)
    return None if first == trial else first


def take_over(trial: Trial, model: nn.Module, *, other: RunFolder) -> list[EpochMetrics]:
    """Give a trial's model the weights that another trial has trained. Returns the epochs, for this trial's record.

    Their adversarial accuracy is None: it was measured at the other's radius.
    Raises SoftadvError where the other's training was not the same, and for damaged files.
    """
    trained, epochs, _ = other.read()
    if len(epochs) != trial.epochs or trains_alike(trained) != trains_alike(trial):
        raise SoftadvError(f"{other.path}: not the training of {trial.name}")
    device = next(model.parameters()).device
    weights = read_tensors(other.path / WEIGHTS)[0]
    model.load_state_dict({name: value.to(device) for name, value in weights.items()})
    return [replace(epoch, adversarial_accuracy=None, trained_by=epoch.trained_by or trained.name) for epoch in epochs]
