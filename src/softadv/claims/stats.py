"""Statistics of a mean over a few seeds: its interval, and tests of claims about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from scipy import stats

# The answer of the seeds to one claim about one mean.
Answer = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its interval, and the claimed range.

    low, high: the ends of the interval; None where one seed gives none. All values are in `unit`.
    """

    label: str  # what was measured, such as "cifar10-eps4: natural accuracy, soft - adversarial"
    unit: str  # "points" (differences of accuracies), "%" or "times" (ratios)
    seeds: int
    mean: float
    low: float | None
    high: float | None
    claimed: tuple[float, float] | None = None  # the range in which the claim holds; an end may be infinite
    values: tuple[float, ...] = ()  # one per seed: what the mean is of


def interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """The confidence interval of the mean of independent values by Student's t distribution; None for fewer than two.

    Values that are equal, but for rounding, have an interval without width.
    """
    if len(values) < 2:
        return None
    if _equal(values):
        return fmean(values), fmean(values)
    found = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return float(found.low), float(found.high)


def estimate(values: Sequence[float], *, label: str, unit: str, claimed: tuple[float, float] | None = None) -> Estimate:
    """The mean of one value per seed, with its 95% interval. Raises ValueError where there are no values."""
    if not values:
        raise ValueError(f"{label}: no values")
    low, high = interval(values) or (None, None)
    return Estimate(
        label=label, unit=unit, seeds=len(values), mean=fmean(values), low=low, high=high, claimed=claimed,
        values=tuple(values),
    )  # fmt: skip


def within(found: Estimate, *, ends_count: bool) -> Answer:
    """holds if the whole interval lies in the claimed range, fails if it lies wholly outside, else inconclusive.

    ends_count: whether the range includes its ends ("at most") or not ("above"). An interval that only touches the
    end of an open range is inconclusive.
    """
    if found.claimed is None or found.low is None or found.high is None:
        return "inconclusive"
    least, most = found.claimed
    if found.high < least or found.low > most:
        return "fails"
    inside = least <= found.low and found.high <= most if ends_count else least < found.low and found.high < most
    return "holds" if inside else "inconclusive"


def equivalent(found: Estimate, *, margin: float) -> Answer:
    """Whether a mean difference is within ±margin, by two one-sided t-tests of its values at 5% (Schuirmann, 1987).

    It holds where both tests reject, which is exactly where the 90% interval lies within the margin. It fails where
    the 95% interval lies wholly beyond the margin. "Not significantly different" would be no evidence of likeness.
    """
    if found.low is None or found.high is None:
        return "inconclusive"
    if _equal(found.values):
        holds = abs(found.mean) <= margin
    else:
        above = stats.ttest_1samp(found.values, -margin, alternative="greater")
        below = stats.ttest_1samp(found.values, margin, alternative="less")
        holds = max(above.pvalue, below.pvalue) <= 0.05
    if holds:
        return "holds"
    return "fails" if found.high < -margin or found.low > margin else "inconclusive"


def _equal(values: Sequence[float]) -> bool:
    """Whether values differ only by rounding, so that there is no spread to test against."""
    return math.isclose(min(values), max(values), rel_tol=1e-14)


def all_of(answers: Iterable[Answer]) -> Answer:
    """Of a claim about several means: fails if it fails of any, holds if it holds of all; of none, inconclusive."""
    found = set(answers)
    if "fails" in found:
        return "fails"
    return "holds" if found == {"holds"} else "inconclusive"
