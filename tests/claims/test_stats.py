"""Intervals against values worked out by hand, and by simulation: how often they are right."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from softadv.claims.stats import Estimate, all_of, equivalent, estimate, interval, within

# For five values the 97.5% and 95% points of Student's t, from a printed table: 2.776445 and 2.131847.
# 1 to 5: mean 3, deviation sqrt(2.5), standard error sqrt(0.5) = 0.7071068.
FIVE = [1.0, 2.0, 3.0, 4.0, 5.0]


def test_interval_of_five_values_by_hand() -> None:
    assert interval(FIVE) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-5)
    assert interval(FIVE, confidence=0.9) == pytest.approx((3 - 1.507443, 3 + 1.507443), abs=1e-5)


def test_interval_of_two_values_by_hand() -> None:
    # Mean 1, deviation sqrt(2), standard error 1; the table's 97.5% point for two values is 12.7062.
    assert interval([0.0, 2.0]) == pytest.approx((-11.7062, 13.7062), abs=1e-4)


def test_one_value_has_no_interval_and_equal_values_one_without_width() -> None:
    assert interval([3.0]) is None
    assert interval([0.1, 0.1, 0.1]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert interval([0.0, 0.0]) == (0.0, 0.0)


def test_values_that_rounding_alone_tells_apart_count_as_equal() -> None:
    # Their spread is noise, of which SciPy warns.
    noisy = [0.1 + 0.2, 0.3, 0.3]
    assert noisy[0] != noisy[1]
    low, high = interval(noisy) or (None, None)
    assert low == high == pytest.approx(0.3)
    for margin, answer in ((0.31, "holds"), (0.29, "fails")):
        assert equivalent(estimate(noisy, label="x", unit="points"), margin=margin) == answer


def test_an_estimate_says_how_many_seeds_it_rests_on() -> None:
    found = estimate(FIVE, label="x", unit="points", claimed=(0.0, inf))
    assert (found.seeds, found.mean, found.unit, found.claimed) == (5, 3.0, "points", (0.0, inf))
    assert (found.low, found.high) == (pytest.approx(1.036757, abs=1e-5), pytest.approx(4.963243, abs=1e-5))
    one = estimate([2.0], label="x", unit="%")
    assert (one.seeds, one.mean, one.low, one.high, one.claimed) == (1, 2.0, None, None, None)
    with pytest.raises(ValueError, match="x: no values"):
        estimate([], label="x", unit="%")


@pytest.mark.parametrize(
    ("low", "high", "with_ends", "without"),
    [
        (1.1, 1.9, "holds", "holds"),
        (1.0, 2.0, "holds", "inconclusive"),  # touches both ends
        (1.0, 1.0, "holds", "inconclusive"),
        (0.9, 1.9, "inconclusive", "inconclusive"),
        (1.1, 2.1, "inconclusive", "inconclusive"),
        (0.0, 3.0, "inconclusive", "inconclusive"),
        (0.0, 1.0, "inconclusive", "inconclusive"),  # touches from outside
        (0.0, 0.99, "fails", "fails"),
        (2.01, 3.0, "fails", "fails"),
        (None, None, "inconclusive", "inconclusive"),
    ],
)
def test_a_range_claim_at_its_edges(low: float | None, high: float | None, with_ends: str, without: str) -> None:
    found = Estimate(label="x", unit="points", seeds=5, mean=1.5, low=low, high=high, claimed=(1.0, 2.0))
    assert within(found, ends_count=True) == with_ends
    assert within(found, ends_count=False) == without


def test_what_nothing_is_claimed_of_settles_nothing() -> None:
    assert within(estimate(FIVE, label="x", unit="%"), ends_count=True) == "inconclusive"


@pytest.mark.parametrize(
    ("values", "margin", "answer"),
    [
        ([-2.0, -1.0, 0.0, 1.0, 2.0], 1.51, "holds"),  # the 90% interval is ±1.5074, the 95% one ±1.9632
        ([-2.0, -1.0, 0.0, 1.0, 2.0], 1.50, "inconclusive"),
        (FIVE, 4.51, "holds"),
        (FIVE, 4.50, "inconclusive"),
        (FIVE, 1.04, "inconclusive"),  # the 95% interval starts at 1.0368
        (FIVE, 1.03, "fails"),
        ([-value for value in FIVE], 1.03, "fails"),
        ([-value for value in FIVE], 4.51, "holds"),
        ([0.5], 2.0, "inconclusive"),
        ([2.0, 2.0], 2.0, "holds"),
        ([0.0, 0.0], 0.0, "holds"),
        ([2.0, 2.0], 1.99, "fails"),
    ],
)
def test_equivalence_by_hand(values: list[float], margin: float, answer: str) -> None:
    assert equivalent(estimate(values, label="x", unit="points"), margin=margin) == answer


def test_several_answers_make_one() -> None:
    assert all_of(["holds", "holds"]) == "holds"
    assert all_of(["holds", "inconclusive"]) == "inconclusive"
    assert all_of(["inconclusive", "fails", "holds"]) == "fails"
    assert all_of([]) == "inconclusive"


TRIALS = 2000


def share_of(hits: int) -> float:
    return hits / TRIALS


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    samples = np.random.default_rng(1).normal(1.7, 0.4, size=(TRIALS, 5)).tolist()
    ends = [interval(sample) for sample in samples]
    # Four standard errors of a share of 0.95 over 2,000 trials: 0.0195.
    assert share_of(sum(e is not None and e[0] <= 1.7 <= e[1] for e in ends)) == pytest.approx(0.95, abs=0.0195)


def test_equivalence_is_claimed_of_a_difference_at_the_margin_5_times_in_100() -> None:
    # With this little spread only the nearer end of the margin matters, and the level is reached.
    samples = np.random.default_rng(2).normal(2.0, 0.2, size=(TRIALS, 5)).tolist()
    answers = [equivalent(estimate(sample, label="x", unit="points"), margin=2.0) for sample in samples]
    assert share_of(answers.count("holds")) == pytest.approx(0.05, abs=0.0195)
    assert share_of(answers.count("fails")) == pytest.approx(0.025, abs=0.014)


def test_equivalence_is_claimed_less_often_where_the_spread_is_as_wide_as_the_margin() -> None:
    samples = np.random.default_rng(3).normal(2.0, 2.0, size=(TRIALS, 5)).tolist()
    answers = [equivalent(estimate(sample, label="x", unit="points"), margin=2.0) for sample in samples]
    assert share_of(answers.count("holds")) < 0.05
