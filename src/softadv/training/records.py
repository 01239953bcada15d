"""The record of an epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from softadv._units import Count, Seconds, Several, Share

PARTS = ("attack", "certification", "update", "evaluation")  # what the seconds of an epoch are spent on


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One finished epoch. Accuracies are fractions; seconds are wall-clock.

    natural_accuracy, adversarial_accuracy: of the test images; None where the epoch was not evaluated.
    misclassified, unverified, verified: the partition of the training images that the epoch was trained with; None for
    methods that make none. certified: how many of these images were classified correctly when they were split in this
    epoch, and so certified, or refuted by an adversarial example of the last epoch. stale: how many verdicts are
    older than this epoch; oldest_verdict: the age of the oldest, in epochs. None in old records, and for methods that
    make no split.
    attacked: how many training images were attacked; None in old records.
    trained_by: the trial that this epoch was trained in, where that was another one, which is evaluated at another
    radius; None for most. Then adversarial_accuracy is None but after the last epoch.
    """

    epoch: Several  # from 1
    loss: float  # mean over the training images, as they were trained
    natural_accuracy: Share | None
    adversarial_accuracy: Share | None
    misclassified: Count | None
    unverified: Count | None
    verified: Count | None
    attack_seconds: Seconds
    certification_seconds: Seconds
    update_seconds: Seconds
    evaluation_seconds: Seconds
    certifier: str | None = None  # its name, version and soundness
    engine: str = ""  # device, kernels there, commit: a trial may go on elsewhere. "" in old records
    attacked: Count | None = None
    certified: Count | None = None
    stale: Count | None = None
    oldest_verdict: Count | None = None
    validation_natural_accuracy: Share | None = None
    validation_adversarial_accuracy: Share | None = None
    trained_by: str | None = None

    @property
    def seconds(self) -> float:
        """Of all its parts."""
        of_parts: list[float] = [getattr(self, f"{part}_seconds") for part in PARTS]
        return sum(of_parts)

    def numbers(self) -> dict[str, float]:
        """The epoch's numeric fields that are not None, by name, for loggers."""
        return {
            name: float(value)
            for name, value in asdict(self).items()
            if isinstance(value, int | float) and name != "epoch"
        }
