"""What is verified, and what falls from radius to radius: each answer at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest

from softadv.claims.decision import Rule
from softadv.claims.rules.radii import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.experiments.records import Result
from softadv.experiments.runs import NotRun, Run
from softadv.training.records import EpochMetrics
from tests.finished import a_run, decide, each_seed, outcome

FALLING = {"a": (0.30, 0.32, 0.34), "b": (0.20, 0.21, 0.25), "c": (0.10, 0.12, 0.13)}


def in_settings(values: dict[str, Sequence[float]], *, method: str = "soft") -> list[Run]:
    return [
        run for setting, of_setting in values.items() for run in each_seed(of_setting, setting=setting, method=method)
    ]


@pytest.mark.parametrize(
    "rule",
    [VerifiedFalls(settings=["a", "b", "c"]), AdversarialFalls(settings=["a", "b", "c"], methods=["soft"])],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ((0.10, 0.12, 0.13), "holds"),
        ((0.10, 0.21, 0.26), "inconclusive"),
        ((0.20, 0.21, 0.25), "inconclusive"),  # the same again, three times: no fall, and no rise
        ((0.30, 0.32, 0.34), "fails"),
    ],
)
def test_a_fall_by_every_step(rule: Rule, last: Sequence[float], expected: str) -> None:
    assert outcome(rule, *in_settings(FALLING | {"c": last})) == expected


def test_a_fall_is_paired_by_seed_and_gives_levels_and_steps() -> None:
    found = decide(VerifiedFalls(settings=["a", "b"]), *in_settings({"a": (0.1, 0.5), "b": (0.08, 0.48)}))
    assert found.reason == (
        "verified in the last epoch, soft: a 30.00%, b 28.00% (-2.00 points [-2.00, -2.00]), 2 seeds; "
        "claimed each below 0: its interval lies within that"
    )
    assert found.estimates[0].claimed == (-inf, 0.0)


def test_a_step_on_the_floor_decides_nothing() -> None:
    rule = VerifiedFalls(settings=["a", "b", "c"])
    found = decide(rule, *in_settings({"a": (0.2, 0.21), "b": (0.0, 0.0), "c": (0.0, 0.0)}))
    assert found.outcome == "holds"
    assert "c 0.00% (0.00 points [0.00, 0.00]; nothing left to fall)" in found.reason
    # Where there is nothing but the floor, nothing is known of a fall.
    found = decide(rule, *in_settings(dict.fromkeys("abc", (0.0, 0.0))))
    assert found.outcome == "inconclusive"
    step = "(0.00 points [0.00, 0.00]; nothing left to fall)"
    assert found.reason == (
        f"verified in the last epoch, soft: a 0.00%, b 0.00% {step}, c 0.00% {step}, 2 seeds; "
        "claimed each below 0: nothing of this decides it"
    )


def test_a_fall_in_one_seed_is_inconclusive() -> None:
    found = decide(VerifiedFalls(settings=["a", "b"]), *in_settings({"a": (0.5,), "b": (0.1,)}))
    assert (found.outcome, "one seed gives no interval" in found.reason) == ("inconclusive", True)


def test_a_fall_needs_seeds_that_both_settings_have() -> None:
    runs = each_seed([0.5], setting="a") + each_seed([0.1], setting="b", first=1)
    with pytest.raises(NotRun, match="no seed of soft training was run in both a and b"):
        decide(VerifiedFalls(settings=["a", "b"]), *runs)


def test_a_fall_is_asked_of_every_method() -> None:
    rule = AdversarialFalls(settings=["a", "b"], methods=["soft", "adversarial"])
    soft = in_settings({"a": (0.5, 0.6), "b": (0.4, 0.5)})
    found = decide(rule, *soft, *in_settings({"a": (0.4, 0.5), "b": (0.5, 0.6)}, method="adversarial"))
    assert found.outcome == "fails"
    assert found.reason.endswith("the whole interval of a to b (adversarial accuracy, adversarial) lies above that")
    assert outcome(rule, *soft, *in_settings({"a": (0.5, 0.6), "b": (0.4, 0.5)}, method="adversarial")) == "holds"


@pytest.mark.parametrize(
    ("small", "expected"), [((0.7, 0.8), "holds"), ((0.5, 0.9), "inconclusive"), ((0.1, 0.2), "fails")]
)
def test_the_gap_falls(small: Sequence[float], expected: str) -> None:
    runs = [
        a_run(setting=setting, seed=seed, natural=0.9, adversarial=value)
        for setting, values in (("large", (0.5, 0.6)), ("small", small))
        for seed, value in enumerate(values)
    ]
    found = decide(GapFalls(settings=["large", "small"], methods=["soft"]), *runs)
    assert found.outcome == expected
    assert "natural - adversarial accuracy, soft: large 35.00, small" in found.reason


# 10, 12 and 14% of the training set: 12 ± 4.302653 * 2 / sqrt(3) = 4.9683.
TENTH = (0.10, 0.12, 0.14)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.1697, "holds"), (0.1696, "inconclusive"), (0.0704, "inconclusive"), (0.0703, "fails")]
)
def test_verified_at_most(share: float, expected: str) -> None:
    assert outcome(VerifiedAtMost(settings=["s"], share=share), *each_seed(TENTH)) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0703, "holds"), (0.0704, "inconclusive"), (0.1696, "inconclusive"), (0.1697, "fails")]
)
def test_verified_at_least(share: float, expected: str) -> None:
    assert outcome(VerifiedAtLeast(settings=["s"], share=share), *each_seed(TENTH)) == expected


def test_verified_at_most_looks_at_every_epoch_and_verified_at_least_at_the_last() -> None:
    runs = []
    for run in each_seed([0.0, 0.0]):
        first = EpochMetrics(**vars(run.metrics[0]) | {"verified": 20})
        runs.append(Run(run.result, [first, run.metrics[1]]))
    found = decide(VerifiedAtMost(settings=["s"], share=0.1), *runs)
    assert found.outcome == "fails"
    assert "most verified in any epoch: s 20.00% [20.00, 20.00], 2 seeds; taken as at most 10.00%" in found.reason
    assert outcome(VerifiedAtLeast(settings=["s"], share=0.1), *runs) == "fails"


def test_epochs_without_a_split_verify_nothing() -> None:
    run = a_run()
    metrics = [EpochMetrics(**vars(record) | {"verified": None}) for record in run.metrics]
    other = a_run(seed=1, verified=0)
    assert outcome(VerifiedAtMost(settings=["s"], share=0.0), Run(run.result, metrics), other) == "holds"


def test_a_share_in_one_seed_is_inconclusive() -> None:
    for rule in (VerifiedAtMost(settings=["s"], share=0.5), VerifiedAtLeast(settings=["s"], share=0.05)):
        found = decide(rule, a_run())
        assert (found.outcome, "one seed gives no interval" in found.reason) == ("inconclusive", True)


def test_a_small_share_is_not_shown_as_none() -> None:
    run = a_run(verified=1)
    big = [
        Run(Result(**vars(r.result) | {"train_images": 50_000}), r.metrics) for r in (run, a_run(seed=1, verified=1))
    ]
    found = decide(VerifiedAtMost(settings=["s"], share=0.0), *big)
    assert found.outcome == "fails"
    assert "s 0.0020% [0.0020, 0.0020]" in found.reason


@pytest.mark.parametrize(
    ("verified", "natural", "expected"),
    [
        ((0, 0, 0), (0.9, 0.91, 0.9), "holds"),
        ((0, 0, 1), (0.9, 0.91, 0.9), "inconclusive"),
        ((1, 1, 1), (0.9, 0.91, 0.9), "fails"),
        ((0, 0, 0), (0.95, 0.96, 0.94), "fails"),
        ((0, 0, 0), (0.9, 0.94, 0.9), "inconclusive"),
    ],
)
def test_nothing_verified_also_asks_for_like_performance(
    verified: Sequence[int], natural: Sequence[float], expected: str
) -> None:
    soft = [a_run(seed=s, verified=v, natural=n) for s, (v, n) in enumerate(zip(verified, natural, strict=True))]
    hard = [a_run(seed=seed, method="adversarial") for seed in range(3)]
    found = decide(NothingVerified(settings=["s"], margin=2.0), *soft, *hard)
    assert found.outcome == expected
    assert len(found.estimates) == 3
    assert "most verified in any epoch" in found.reason
    assert "adversarial accuracy, soft - adversarial" in found.reason
