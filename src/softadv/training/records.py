"""What is recorded of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from softadv._units import Count, Seconds, Several, Share


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One finished epoch. Accuracies are fractions of the test images; seconds are wall-clock.

    misclassified, unverified, verified: the partition of the training images that the epoch was
    trained with; None for methods that make none.
    """

    epoch: Several  # from 1
    loss: float  # mean over the training images, as they were trained
    natural_accuracy: Share
    adversarial_accuracy: Share
    misclassified: Count | None
    unverified: Count | None
    verified: Count | None
    attack_seconds: Seconds
    certification_seconds: Seconds
    update_seconds: Seconds
    evaluation_seconds: Seconds
    certifier: str | None = None  # who split the images, its version and soundness
    engine: str = ""  # device, kernels there, commit: a trial may go on elsewhere. "" in old records
