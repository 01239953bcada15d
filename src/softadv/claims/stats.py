"""What a handful of seeds say about a mean: its interval, and whether a claim about it is settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy import stats

# What the seeds say of one claim about one mean.
Answer = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its interval, and what the claim says it should be.

    low, high: the ends of the interval; None where one seed gives none. All values are in `unit`.
    """

    label: str  # what was measured, such as "cifar10-eps4: natural accuracy, soft - adversarial"
    unit: str  # "points" (differences of accuracies), "%" or "times" (ratios)
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


def estimate(values: Sequence[float], *, label: str, unit: str, claimed: tuple[float, float] | None = None) -> Estimate:
    """The mean of one value per seed, with its 95% interval. Raises ValueError where there are no values."""
    if not values:
        raise ValueError(f"{label}: no values")
    low, high = interval(values) or (None, None)
    return Estimate(label=label, unit=unit, seeds=len(values), mean=fmean(values), low=low, high=high, claimed=claimed)


def within(found: Estimate, *, ends_count: bool) -> Answer:
    """Whether the mean lies in the claimed range: by its whole interval, or its interval wholly outside, or neither.

    ends_count: whether the range has its own ends ("at most"), or lies strictly between them ("above"). An
    interval that only touches a range without ends settles nothing.
    """
    if found.claimed is None or found.low is None or found.high is None:
        return "inconclusive"
    least, most = found.claimed
    if found.high < least or found.low > most:
        return "fails"
    inside = least <= found.low and found.high <= most if ends_count else least < found.low and found.high < most
    return "holds" if inside else "inconclusive"


def equivalent(found: Estimate, *, margin: float) -> Answer:
    """Whether a mean difference is within ±margin, by two one-sided t-tests at 5%.

    Both tests reject exactly where the 90% interval lies within the margin: then it holds. It fails where the 95%
    interval lies wholly beyond the margin. "Not significantly different" would be no evidence of likeness.
    """
    if found.low is None or found.high is None:
        return "inconclusive"
    freedom = found.seeds - 1
    half = (found.high - found.low) / 2 * float(stats.t.ppf(0.95, freedom) / stats.t.ppf(0.975, freedom))
    if -margin <= found.mean - half and found.mean + half <= margin:
        return "holds"
    return "fails" if found.high < -margin or found.low > margin else "inconclusive"


def all_of(answers: Iterable[Answer]) -> Answer:
    """Of a claim about several means: fails if it fails of any, holds if it holds of all; of none, inconclusive."""
    found = set(answers)
    if "fails" in found:
        return "fails"
    return "holds" if found == {"holds"} else "inconclusive"
