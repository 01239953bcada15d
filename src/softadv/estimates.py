"""What a handful of seeds say about a mean: an interval, and no interval from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its interval, and what the claim says it should be.

    low, high: the ends of the interval; None where one seed gives none. All values are in `unit`.
    """

    label: str  # what was measured, such as "cifar10-eps4: natural accuracy, soft - adversarial"
    unit: str  # "points" (differences of accuracies) or "%"
    seeds: int
    mean: float
    low: float | None
    high: float | None
    claimed: tuple[float, float] | None = None  # the range in which the claim holds; an end may be infinite


def interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """The confidence interval of the mean of independent values by Student's t distribution; None for fewer than two.

    Equal values have an interval without width.
    """
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half
