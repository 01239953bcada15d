"""The settings of the training loop for a trial: its TrainConfig, method and attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from softadv.attacks import Attack, is_linf, load_attack
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE, read_reference, training_of
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial
from softadv.training.config import TrainConfig
from softadv.training.methods import Method, load_method, parse_method
from softadv.training.methods.base import methods
from softadv.training.records import EpochMetrics


def train_config(trial: Trial, *, beside: Path | None = None) -> TrainConfig:
    """The TrainConfig of a trial.

    beside: the folder that holds the other trials of the grid; a method that replays another's numbers of attacked
    images finds them there, else in the reference that is stored with softadv. None: it must have them itself.
    Raises SoftadvError for a method or an attack that cannot be found or does not fit, and where there is nothing to
    replay.
    """
    return TrainConfig(
        method=_with_counts(method_of(trial), trial, beside=beside),
        attack=attack_of(trial),
        eps=trial.eps,
        epochs=trial.epochs,
        seed=trial.seed,
        batch_size=trial.batch_size,
        optimizer=trial.optimizer,
        lr=trial.lr,
        momentum=trial.momentum,
        weight_decay=trial.weight_decay,
        schedule=trial.schedule,
        schedule_epochs=trial.schedule_epochs,
        schedule_factor=trial.schedule_factor,
        eps_warmup_epochs=trial.eps_warmup_epochs,
        clip_gradients=trial.clip_gradients,
        natural_epochs=trial.natural_epochs,
        update=trial.update,
        augment=trial.augment,
        patience=trial.patience,
        evaluate_every=trial.evaluate_every,
        tf32=trial.tf32,
    )


def method_of(trial: Trial) -> Method:
    """A trial's method. Its settings that have the names of the trial's keys, such as domain, are the trial's.

    Raises SoftadvError for an unknown one, for settings that do not fit, and for one that is the trial's to say: a
    report reads it there.
    """
    name, settings = parse_method(trial.method)
    kind: Any = methods.get(name)
    own = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    shared = {field.name: getattr(trial, field.name) for field in fields(trial) if field.name in own}
    for key in settings:
        if key in shared:
            raise SoftadvError(f"method {trial.method}: {key} is a key of the setting; give it there")
    return load_method(name, **shared | settings)


def attack_of(trial: Trial) -> Attack:
    """The attack that a trial trains against and is evaluated with.

    Raises SoftadvError for an unknown name, and for an attack of another norm than the split's, unless the trial's
    attack_norm is "any".
    """
    attack = load_attack(trial.attack, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start)
    if trial.attack_norm == "linf" and not is_linf(attack):
        raise SoftadvError(
            f"attack: {trial.attack} is not known to attack in the L-infinity norm, in which images are certified; "
            'attack_norm = "any" trains against it all the same'
        )
    return attack


def attacked_counts(metrics: Sequence[EpochMetrics], *, train_images: int) -> tuple[int, ...]:
    """How many images each epoch attacked; of old records of soft training it is all that were not verified."""
    return tuple(
        epoch.attacked if epoch.attacked is not None else train_images - (epoch.verified or 0) for epoch in metrics
    )


def replayed_by(trial: Trial) -> Trial | None:
    """The trial whose numbers of attacked images this one replays, which has to be run before; None for most.

    Raises SoftadvError where a trial would have to be run before itself.
    """
    chain = [trial]
    while (other := _replayed(chain[-1])) is not None:
        if other in chain:
            raise SoftadvError(f"{trial.name}: its method, or one that it replays, replays itself")
        chain.append(other)
    return chain[1] if len(chain) > 1 else None


def _replayed(trial: Trial) -> Trial | None:
    method = method_of(trial)
    return None if method.replays is None or _has_numbers(method) else replace(trial, method=method.replays)


def _with_counts(method: Method, trial: Trial, *, beside: Path | None) -> Method:
    """A method that replays another's numbers of attacked images, with these numbers."""
    other = replayed_by(trial)
    if other is None or beside is None:
        return method
    metrics = _epochs_beside(other, beside) or _epochs_stored(other)
    if not metrics:
        raise SoftadvError(
            f"{trial.name}: attacks as many images as {other.name} did, but neither {beside} nor the stored reference "
            f"has its {trial.epochs} epochs; run it first"
        )
    partition = metrics[-1]
    images = sum(getattr(partition, part) or 0 for part in ("misclassified", "unverified", "verified"))
    counts: Any = attacked_counts(metrics, train_images=images)
    return replace(method, counts=counts)  # type: ignore[type-var] # methods that replay are dataclasses


def _epochs_beside(trial: Trial, folder: Path) -> Sequence[EpochMetrics]:
    """The epochs of a trial that was run in a grid's folder; none unless all are there, or it stopped early."""
    run = RunFolder(folder / trial.name)
    if not (run.path / "spec.json").exists() or training_of(run.trial()) != training_of(trial):
        return ()
    metrics = run.metrics()
    return metrics if len(metrics) >= trial.epochs or run.result() is not None else ()


def _epochs_stored(trial: Trial) -> Sequence[EpochMetrics]:
    """The epochs of a trial that is stored with softadv; none where it is not."""
    for record in read_reference(expected_folder() / REFERENCE, grid=""):
        if record.trial.seed == trial.seed and training_of(record.trial) == training_of(trial):
            return record.epochs
    return ()


def _has_numbers(method: Method) -> bool:
    return getattr(method, "counts", None) is not None or getattr(method, "share", None) is not None
