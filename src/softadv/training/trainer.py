"""A running training: one epoch at a time, each evaluated and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from softadv.attacks import PGD, AtRadius, Attack
from softadv.training.config import TrainConfig
from softadv.training.early_stopping import Best
from softadv.training.evaluation import adversarial_accuracy, natural_accuracy
from softadv.training.loop import Progress, TrainedEpoch, replayed, train_epoch
from softadv.training.partition import Partition
from softadv.training.records import EpochMetrics
from softadv.training.state import TrainState

# What each purpose of an evaluation is called for those who watch the progress.
_PARTS = {"evaluation": "evaluating", "validation": "validating"}
# Images, float (N, C, H, W) in [0, 1], and labels, int64 (N,).
LabelledImages = tuple[Tensor, Tensor]


@dataclass
class Trainer:
    """A training's state, settings and data, and the epochs it has finished.

    train, test, validation: images and labels on the model's device; test and validation are not evaluated if None.
    engine: the device, kernels and version, as text for the record. best: where the training may stop early.
    """

    state: TrainState
    config: TrainConfig
    train: LabelledImages
    test: LabelledImages | None
    validation: LabelledImages | None = None
    engine: str = ""
    metrics: list[EpochMetrics] = field(default_factory=list)
    best: Best | None = field(init=False)

    def __post_init__(self) -> None:
        self.best = None if self.config.patience is None else Best(patience=self.config.patience)

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return len(self.metrics)

    @property
    def is_done(self) -> bool:
        """Whether no epoch is left, or the training has stopped early."""
        told = self.epoch > 0 and self.config.evaluates(self.epoch)
        stale = self.best is not None and told and self.best.is_stale(epoch=self.epoch)
        return self.epoch >= self.config.epochs or stale

    def run_epoch(self, on_progress: Progress) -> EpochMetrics:
        """Train the next epoch, evaluate it and record it. Raises DivergedError where it ends in NaN or infinity."""
        trained = train_epoch(
            self.state, *self.train, config=self.config, epoch=self.epoch + 1, on_progress=on_progress
        )
        return self.record(trained, on_progress)

    def record(self, trained: TrainedEpoch, on_progress: Progress) -> EpochMetrics:
        """Record an epoch that the state has just been trained for, and evaluate it if it is due.

        Raises NotFiniteError where the model's scores are NaN or infinite; then nothing is recorded.
        """
        epoch, started = self.epoch + 1, time.perf_counter()
        adversarial, natural = self._accuracies(self.test, epoch, "evaluation", on_progress)
        robust, clean = self._accuracies(self.validation, epoch, "validation", on_progress)
        split = self.state.partition
        metrics = EpochMetrics(
            epoch=epoch,
            loss=trained.loss,
            natural_accuracy=natural,
            adversarial_accuracy=adversarial,
            validation_natural_accuracy=clean,
            validation_adversarial_accuracy=robust,
            attacked=trained.attacked,
            misclassified=None if split is None else int(split.misclassified.sum()),
            unverified=None if split is None else int(split.unverified.sum()),
            verified=None if split is None else int(split.verified.sum()),
            certifier=None if split is None else split.certifier,
            **_ages(split, epoch),
            engine=self.engine,
            trained_by=None,
            attack_seconds=trained.seconds.attack,
            certification_seconds=trained.seconds.certification,
            update_seconds=trained.seconds.update,
            evaluation_seconds=time.perf_counter() - started,
        )
        if robust is not None and self.best is not None:
            self.best.look(self.state.model, epoch=epoch, accuracy=robust)
        self.metrics.append(metrics)
        return metrics

    def measure_last(self, metrics: list[EpochMetrics], on_progress: Progress) -> None:
        """Take over the epochs of a training that the model's weights come from, and evaluate the last of them.

        Raises NotFiniteError where the model's scores are NaN or infinite.
        """
        started = time.perf_counter()
        adversarial, natural = self._accuracies(self.test, len(metrics), "evaluation", on_progress)
        last = replace(
            metrics[-1], natural_accuracy=natural, adversarial_accuracy=adversarial,
            evaluation_seconds=time.perf_counter() - started,
        )  # fmt: skip
        self.metrics = [*metrics[:-1], last]

    def finish(self) -> None:
        """Restore the best weights, if early stopping is on."""
        if self.best is not None and self.best.weights:
            self.best.restore(self.state.model)

    def _accuracies(
        self, images: LabelledImages | None, epoch: int, purpose: str, on_progress: Progress
    ) -> tuple[float | None, float | None]:
        """Adversarial and natural accuracy; None if the epoch is not evaluated, or there are no images."""
        if images is None or not self.config.evaluates(epoch):
            return None, None
        x, y = images
        adversarial = adversarial_accuracy(
            self.state.model,
            x,
            y,
            attack=evaluation_attack(self.config, self.state, most=len(x)),
            generator=self.config.generator(epoch, purpose, x.device),
            on_progress=lambda done: on_progress(_PARTS[purpose], done),
        )
        return adversarial, natural_accuracy(self.state.model, x, y)


def _ages(split: Partition | None, epoch: int) -> dict[str, int]:
    """The ages of an epoch's verdicts, as fields of EpochMetrics."""
    if split is None or split.made_in is None:
        return {}
    new = split.made_in == epoch
    return {
        "certified": int((new & ~split.misclassified).sum()),
        "stale": int((~new).sum()),
        "oldest_verdict": epoch - int(split.made_in.min()),
    }


def evaluation_attack(config: TrainConfig, state: TrainState, *, most: int) -> Callable[..., Tensor]:
    """The attack that epochs are evaluated with, at config.eps, whatever the method trains against."""
    attack: Attack = config.attack
    if type(attack) is not PGD:
        return AtRadius(attack, config.eps, config.clip)
    return replayed(attack, state, eps=config.eps, most=most)
