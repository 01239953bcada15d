"""Methods compared: each answer at its edges, from pairs of seeds that share their assumptions."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from softadv.claims.decision import Rule
from softadv.claims.rules.methods import SettingsAlike
from softadv.claims.rules.radii import GapFalls, VerifiedAtMost, VerifiedFalls
from softadv.claims.selection import Evidence, Required
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun, Run
from tests.finished import ONE_TWO_THREE, a_run, alike, decide, each_seed, natural_gain, outcome, soft_and_hard


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        (-0.49, 4.49, "holds"),
        (-0.48, 4.49, "inconclusive"),
        (-0.49, 4.48, "inconclusive"),
        (-0.49, None, "holds"),
        (1.0, 2.5, "inconclusive"),
        (4.48, 5.0, "inconclusive"),
        (4.49, None, "fails"),
        (-2.0, -0.49, "fails"),
    ],
)
def test_a_gain_by_its_whole_interval(above: float, below: float | None, expected: str) -> None:
    assert outcome(natural_gain("s", above=above, below=below), *soft_and_hard(ONE_TWO_THREE)) == expected


def test_a_gain_says_mean_interval_seeds_and_what_is_claimed() -> None:
    found = decide(natural_gain("s", above=1.0, below=2.5), *soft_and_hard(ONE_TWO_THREE))
    assert found.reason == (
        "natural accuracy, soft - adversarial: s +2.00 points [-0.48, +4.48], 3 seeds; taken as 1.00 to 2.50: "
        "the interval of the mean lies neither within that nor outside"
    )
    (figures,) = found.estimates
    assert (figures.label, figures.unit) == ("s: natural accuracy, soft - adversarial", "points")
    assert (figures.seeds, figures.mean, figures.claimed) == (3, pytest.approx(2.0), (1.0, 2.5))
    assert (figures.low, figures.high) == (pytest.approx(-0.48414, abs=1e-4), pytest.approx(4.48414, abs=1e-4))


def test_a_gain_without_an_upper_end_is_claimed_to_infinity() -> None:
    (figures,) = decide(natural_gain("s", above=1.0), *soft_and_hard(ONE_TWO_THREE)).estimates
    assert figures.claimed == (1.0, inf)


def test_one_seed_is_inconclusive_and_the_sentence_says_why() -> None:
    found = decide(natural_gain("s", above=0.0), *soft_and_hard([0.9], [0.5]))
    assert found.outcome == "inconclusive"
    assert "s +40.00 points, 1 seed; claimed above 0.00: one seed gives no interval" in found.reason


def test_no_gain_at_all_is_no_gain_above_0() -> None:
    assert outcome(natural_gain("s", above=0.0), *soft_and_hard([0.9, 0.9], [0.9, 0.9])) != "holds"


def test_equal_gains_have_no_width_whatever_their_rounding() -> None:
    # In floating point, 0.93 - 0.9 and 0.73 - 0.7 differ.
    (figures,) = decide(natural_gain("s", above=0.0), *soft_and_hard([0.93, 0.73], [0.9, 0.7])).estimates
    assert figures.low == figures.mean == figures.high == 3.0


def test_several_settings_hold_if_all_hold_and_fail_if_any_fails() -> None:
    good, open_ = soft_and_hard([0.51, 0.71, 0.61], setting="a"), soft_and_hard(ONE_TWO_THREE, setting="b")
    bad = soft_and_hard([0.49, 0.69, 0.59], setting="c")
    assert outcome(natural_gain("a", above=0.0), *good) == "holds"
    assert outcome(natural_gain("a", "b", above=0.0), *good, *open_) == "inconclusive"
    found = decide(natural_gain("a", "b", "c", above=0.0), *good, *open_, *bad)
    assert found.outcome == "fails"
    assert found.reason.endswith("3 seeds; claimed above 0.00: the whole interval of c lies below that")
    assert [figures.label[0] for figures in found.estimates] == ["a", "b", "c"]


def test_a_gain_is_paired_by_seed() -> None:
    # The seeds spread over 20 points, the differences not at all.
    assert outcome(natural_gain("s", above=0.9, below=1.1), *soft_and_hard([0.51, 0.71, 0.61])) == "holds"


def test_seeds_without_a_partner_do_not_count() -> None:
    runs = each_seed([0.1, 0.52, 0.63]) + each_seed([0.5, 0.6, 0.9], method="adversarial", first=1)
    (figures,) = decide(natural_gain("s", above=0.0), *runs).estimates
    assert (figures.seeds, figures.mean) == (2, pytest.approx(2.5))
    with pytest.raises(NotRun, match="no seed of s was run with both soft and adversarial"):
        decide(natural_gain("s", above=0.0), *each_seed([0.5]), *each_seed([0.5], method="adversarial", first=1))


def test_settings_with_different_numbers_of_seeds_say_each() -> None:
    runs = soft_and_hard(ONE_TWO_THREE, setting="a") + soft_and_hard([0.6, 0.8], [0.5, 0.7], setting="b")
    reason = decide(natural_gain("a", "b", above=0.0), *runs).reason
    assert "a +2.00 points [-0.48, +4.48], 3 seeds, b +10.00 points [+10.00, +10.00], 2 seeds; claimed" in reason


def test_settings_run_in_part_are_not_run_and_the_reason_says_which_were() -> None:
    with pytest.raises(NotRun, match=r"^no finished soft run of b and c; run in part only: a$"):
        decide(natural_gain("a", "b", "c", above=0.0), *soft_and_hard(ONE_TWO_THREE, setting="a"))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("margin", "expected"), [(3.69, "holds"), (3.68, "inconclusive"), (0.5, "inconclusive")])
def test_comparable_is_an_equivalence_test(sign: int, margin: float, expected: str) -> None:
    values = [h + sign * (s - h) for s, h in zip(ONE_TWO_THREE, (0.5, 0.7, 0.6), strict=True)]
    assert outcome(alike(margin), *soft_and_hard(values)) == expected


def test_comparable_fails_beyond_the_margin() -> None:
    # 10, 11 and 12 points: 11 ± 2.48.
    runs = soft_and_hard([0.6, 0.81, 0.72])
    assert outcome(alike(8.51), *runs) == "fails"
    assert outcome(alike(8.52), *runs) == "inconclusive"
    assert outcome(alike(12.69), *runs) == "holds"


def test_a_difference_that_is_not_significant_is_not_thereby_alike() -> None:
    assert outcome(alike(2.0), *soft_and_hard([0.4, 0.8, 0.6])) == "inconclusive"


def test_comparable_says_what_kind_of_test_it_is() -> None:
    found = decide(alike(4.0), *soft_and_hard(ONE_TWO_THREE))
    assert found.reason == (
        "adversarial accuracy, soft - adversarial: s +2.00 points [-0.48, +4.48], 3 seeds; taken as within ±4.00: "
        "its 90% interval lies within that (two one-sided tests at 5%)"
    )
    assert found.estimates[0].claimed == (-4.0, 4.0)


def test_comparable_in_one_seed_is_inconclusive() -> None:
    assert "one seed gives no interval" in decide(alike(5.0), *soft_and_hard([0.5], [0.5])).reason


def test_what_stands_beside_is_given_where_it_was_run_and_decides_nothing() -> None:
    runs = [
        a_run(method=method, setting=setting, seed=seed, autoattack=attacked)
        for setting in ("a", "b")
        for seed in range(3)
        for method, attacked in (
            ("soft", 0.2 if setting == "a" else None),
            ("adversarial", 0.4 if setting == "a" else None),
        )
    ]  # fmt: skip
    rule = alike(1.0, settings=["a", "b"], beside=["autoattack_accuracy", "certified_accuracy"])
    found = decide(rule, *runs)
    assert found.outcome == "holds"
    assert found.reason.endswith(
        "; beside it, accuracy under AutoAttack, soft - adversarial: a -20.00 points [-20.00, -20.00]; "
        "certified accuracy, soft - adversarial: a 0.00 points [0.00, 0.00], b 0.00 points [0.00, 0.00], 3 seeds"
    )
    assert [figures.claimed for figures in found.estimates] == [(-1.0, 1.0)] * 2 + [None] * 3


def test_runs_that_share_an_assumption_count_and_the_sentence_names_it() -> None:
    runs = [
        a_run(method=method, seed=seed, optimizer="sgd", batch_size=64)
        for method in ("soft", "adversarial")
        for seed in range(2)
    ]
    found = decide(alike(1.0), *runs)
    assert found.outcome == "holds"
    assert found.reason.endswith("; run with optimizer sgd instead of adam, batch_size 64 instead of 128")


ASSUMED: list[dict[str, Any]] = [
    {"optimizer": "sgd"}, {"lr": 0.01}, {"batch_size": 64}, {"natural_epochs": 1}, {"split_every": 2},
    {"update": "two-pass"}, {"random_start": False}, {"normalize": True}, {"tf32": True}, {"epochs": 3},
]  # fmt: skip


@pytest.mark.parametrize("other", ASSUMED, ids=lambda other: next(iter(other)))
def test_runs_of_a_setting_with_mixed_assumptions_are_no_comparison(other: dict[str, Any]) -> None:
    (key,) = other
    with pytest.raises(NotRun, match=f"^s: not one comparison, run with {key} .* and "):
        decide(alike(1.0), a_run(), a_run(method="adversarial", **other))
    with pytest.raises(NotRun, match=f"run with {key} "):
        decide(VerifiedAtMost(settings=["s"], share=1.0), a_run(), a_run(seed=1, **other))


def test_settings_with_different_assumptions_are_no_comparison_but_may_measure_differently() -> None:
    rule = VerifiedFalls(settings=["a", "b"])
    with pytest.raises(NotRun, match="a, b: not one comparison, run with batch_size 128 and 64"):
        decide(rule, a_run(setting="a"), a_run(setting="b", batch_size=64))
    decide(rule, a_run(setting="a", certified_images=5), a_run(setting="b", autoattack_images=5, certifier="gpupoly"))


def on_other_images(run: Run) -> Run:
    return replace(run, result=replace(run.result, data_fingerprint="other"))


def test_runs_on_different_images_of_one_data_set_are_no_comparison() -> None:
    hard = [on_other_images(run) for run in each_seed([0.5, 0.7], method="adversarial")]
    with pytest.raises(NotRun, match=r"^s: not one comparison, run on different digits images$"):
        decide(alike(1.0), *each_seed([0.5, 0.7]), *hard)
    later = [on_other_images(run) for run in each_seed([0.1, 0.2], setting="b")]
    with pytest.raises(NotRun, match=r"^a, b: not one comparison, run on different digits images$"):
        decide(VerifiedFalls(settings=["a", "b"]), *each_seed([0.5, 0.7], setting="a"), *later)


VERIFIED, GAP = VerifiedFalls(settings=["a", "b"]), GapFalls(settings=["a", "b"], methods=["soft"])


@pytest.mark.parametrize(
    ("rule", "fewer", "said"),
    [
        (VERIFIED, {"test_images": 50}, "^a, b: not one comparison, run on 50 and 100 test images$"),
        (GAP, {"test_images": 50}, "^a, b: not one comparison, run on 50 and 100 test images$"),
        (VERIFIED, {"train_images": 60}, "^verified share of a-soft-seed0 is on 100 images, of b-soft-seed0 on 60$"),
    ],
)
def test_a_fall_to_other_numbers_of_images_is_no_comparison(rule: Rule, fewer: dict[str, int], said: str) -> None:
    earlier, later = each_seed([0.5, 0.7], setting="a"), each_seed([0.1, 0.2], setting="b")
    assert outcome(rule, *earlier, *later)
    with pytest.raises(NotRun, match=said):
        decide(rule, *earlier, *(replace(run, result=replace(run.result, **fewer)) for run in later))


@pytest.mark.parametrize("figure", ["autoattack_accuracy", "certified_accuracy"])
def test_figures_of_different_numbers_of_images_are_not_subtracted(figure: str) -> None:
    soft, hard = (a_run(method=method, autoattack=0.3) for method in ("soft", "adversarial"))
    assert soft.result.autoattack is not None
    fewer = replace(
        soft.result,
        autoattack=replace(soft.result.autoattack, images=50),
        certified=tuple(replace(found, images=50) for found in soft.result.certified),
    )
    rule = alike(1.0, figures=[figure])
    assert outcome(rule, soft, hard) == "inconclusive"  # one seed
    with pytest.raises(NotRun, match=r"of s-soft-seed0 is on 50 images, of s-adversarial-seed0 on 100$"):
        decide(rule, Run(fewer, soft.metrics), hard)


def test_natural_epochs_are_not_the_papers() -> None:
    required = {"s": Required(dataset="digits", eps=0.1, alpha=0.01, steps=5, epochs=2)}
    runs = [a_run(method=method, natural_epochs=1) for method in ("soft", "adversarial")]
    with pytest.raises(NotRun, match="s was run with natural_epochs 1 instead of 0"):
        alike(1.0).decide(Evidence(runs, required))


@pytest.mark.parametrize(("gap", "expected"), [(0.004, "holds"), (-0.004, "holds"), (0.03, "fails"), (-0.03, "fails")])
def test_a_method_in_two_settings_is_held_to_a_margin_for_each_figure(gap: float, expected: str) -> None:
    rule = SettingsAlike(pairs=[["full", "rolling"]], margins={"natural_accuracy": 0.5, "adversarial_accuracy": 5.0})
    runs = [
        a_run(setting=setting, seed=seed, natural=0.8 + seed / 50 + change, adversarial=0.5 + change)
        for setting, change in (("full", 0.0), ("rolling", gap))
        for seed in range(3)
    ]
    found = decide(rule, *runs)
    assert found.outcome == expected
    assert f"natural accuracy, soft training: rolling - full {100 * gap:+.2f} points" in found.reason
    assert found.estimates[0].claimed == (-0.5, 0.5)
    assert found.estimates[1].claimed == (-5.0, 5.0)


def test_two_settings_need_a_seed_in_common() -> None:
    rule = SettingsAlike(pairs=[["full", "rolling"]], margins={"natural_accuracy": 0.5})
    with pytest.raises(NotRun, match="no finished soft run of rolling"):
        decide(rule, a_run(setting="full"))
    with pytest.raises(SoftadvError, match="pairs: expected two settings"):
        SettingsAlike(pairs=[["full"]], margins={"natural_accuracy": 0.5})
    with pytest.raises(SoftadvError, match="margins: unknown 'speed'"):
        SettingsAlike(pairs=[["full", "rolling"]], margins={"speed": 0.5})
