"""Counts, domains and what was measured before; and of all rules: none decides without its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from softadv.decisions import Rule
from softadv.errors import SoftadvError
from softadv.evidence import Evidence, NotRun, Required, Run
from softadv.method_rules import Comparable, Gain
from softadv.radius_rules import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.rules import RULES, DomainOrder, DomainTotals, ExportParity, Measured, MeasuredRange, NeuronCount
from softadv.runs import Certified, Parity, Result
from softadv.spec import Method
from tests.finished import ONE_TWO_THREE, a_run, alike, decide, natural_gain, outcome, soft_and_hard


def test_the_papers_neuron_counts() -> None:
    assert outcome(NeuronCount(mnist=3614, cifar10=4862)) == "holds"
    assert outcome(NeuronCount(mnist=3615, cifar10=4862)) == "fails"


DOMAINS = ["deeppoly", "deepzono", "box"]


def certified_models(seeds: int = 3, *, methods: Sequence[Method] = ("natural", "soft"), zono: int = 20) -> list[Run]:
    """Models of which natural ones verify little: the methods differ far more than the seeds."""
    return [
        a_run(
            seed=seed,
            method=method,
            certified={"deeppoly": (30 * scale + seed, 1.0), "deepzono": (zono * scale, 2.0), "box": (0, 0.1)},
        )
        for seed in range(seeds)
        for scale, method in enumerate(methods, start=1)
    ]


def order(**keys: Any) -> DomainOrder:
    return DomainOrder(**{"settings": ["s"], "domains": DOMAINS, "faster": 0.0} | keys)


def test_domain_order_counts_each_seed_once_over_the_same_models() -> None:
    found = decide(order(), *certified_models())
    # DeepPoly - DeepZono: 10 and 20 points and as many more as the seed: 15, 16, 17. DeepZono - Box: 20 and 40.
    assert found.outcome == "holds"
    assert found.reason == (
        "verified test images: deeppoly - deepzono +16.00 points [+13.52, +18.48], deepzono - box +30.00 points "
        "[+30.00, +30.00], 3 seeds; claimed above 0: every interval lies within that"
    )
    assert found.estimates[0].label == "s: verified test images, deeppoly - deepzono"


def test_domain_order_fails_and_is_inconclusive() -> None:
    assert outcome(order(), *certified_models(zono=40)) == "fails"
    assert outcome(order(), *certified_models(zono=31)) == "inconclusive"
    assert outcome(order(), *certified_models(seeds=1)) == "inconclusive"


@pytest.mark.parametrize(("faster", "expected"), [(9.9, "holds"), (10.0, "inconclusive"), (10.1, "fails")])
def test_domain_order_by_seconds_if_asked(faster: float, expected: str) -> None:
    found = decide(order(faster=faster), *certified_models())
    assert found.outcome == expected
    assert "seconds an image, against box's: deeppoly 10.00 times [10.00, 10.00]" in found.reason
    assert [figures.unit for figures in found.estimates] == ["points", "points", "times", "times"]


def test_domain_order_leaves_out_seeds_without_all_methods() -> None:
    runs = certified_models()[:-1]
    assert "2 seeds" in decide(order(), *runs).reason
    with pytest.raises(NotRun, match="no seed has every method of s"):
        decide(order(), runs[0], runs[3])


def test_domains_that_did_not_certify_the_same_images_are_not_compared() -> None:
    with pytest.raises(NotRun, match="s-soft-seed0 certified no test images with deepzono, box"):
        decide(order(), a_run())
    run = certified_models(seeds=1)[0]
    first, *rest = run.result.certified
    fewer = (Certified(domain=first.domain, images=50, verified=1, seconds=1.0), *rest)
    with pytest.raises(NotRun, match="different numbers of images"):
        decide(order(), Run(Result(**vars(run.result) | {"certified": fewer}), run.metrics))


def test_domain_totals_are_a_check_of_these_models() -> None:
    rule = DomainTotals(settings=["s"], domains=DOMAINS)
    found = decide(rule, *certified_models(seeds=1))
    assert (found.outcome, found.estimates) == ("holds", ())
    assert "verified by the same 2 models: deeppoly 90, deepzono 60, box 0" in found.reason
    assert outcome(rule, *certified_models(zono=0)) == "fails"  # as many as Box


def measured(**changes: object) -> Measured:
    settings = {
        "setting": "s",
        "method": "soft",
        "figure": "natural_accuracy",
        "mean": 0.9,
        "deviation": 0.01,
        "seeds": 4,
        "sigmas": 4.0,
        "resolution": 0.001,
    }
    return Measured(**settings | changes)  # type: ignore[arg-type]


def test_measured_allows_what_the_spread_of_both_means_allows() -> None:
    # 4 * 0.01 * sqrt(1/4 + 1/1) = 0.0447
    assert outcome(measured(), a_run(natural=0.944)) == "holds"
    assert outcome(measured(), a_run(natural=0.946)) == "fails"
    # Four seeds now: 4 * 0.01 * sqrt(1/4 + 1/4) = 0.0283
    assert outcome(measured(), *(a_run(natural=0.93, seed=seed) for seed in range(4))) == "fails"


def test_measured_allows_the_resolution_where_there_is_no_spread() -> None:
    assert outcome(measured(deviation=0.0), a_run(natural=0.9009)) == "holds"
    assert outcome(measured(deviation=0.0), a_run(natural=0.9011)) == "fails"


def in_range(least: float, most: float, **keys: Any) -> MeasuredRange:
    return MeasuredRange(
        **{"setting": "s", "method": "soft", "figure": "verified_share", "least": least, "most": most} | keys
    )


def test_a_measured_range_of_a_share_needs_but_one_seed() -> None:
    assert outcome(in_range(10.0, 100.0), a_run(verified=10)) == "holds"
    assert outcome(in_range(10.0, 100.0), a_run(verified=9)) == "fails"
    found = decide(in_range(0.0, 9.0), a_run(verified=10))
    assert (found.outcome, found.reason) == ("fails", "verified share 10.00%, expected 0.00 to 9.00")


def test_a_measured_range_of_a_difference_is_of_the_mean_over_pairs() -> None:
    runs = soft_and_hard(ONE_TWO_THREE)
    for least, most, expected in ((2.0, 2.0, "holds"), (2.1, 9.0, "fails"), (-9.0, 1.9, "fails")):
        assert outcome(in_range(least, most, figure="natural_accuracy", over="adversarial"), *runs) == expected


def test_export_parity_asks_for_classes_and_for_outputs() -> None:
    rule = ExportParity(setting="s", tolerance=1e-5)
    assert outcome(rule, a_run()) == "holds"
    assert outcome(rule, a_run(parity=Parity(images=1, largest_difference=1e-4, classes_equal=True))) == "fails"
    assert outcome(rule, a_run(parity=Parity(images=1, largest_difference=0.0, classes_equal=False))) == "fails"


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (Gain, {"settings": []}, "settings: at least 1 needed, got 0"),
        (Gain, {"figure": "beauty"}, "figure: unknown 'beauty', expected one of natural_accuracy"),
        (Gain, {"over": "hard"}, "method: unknown 'hard', expected one of natural, adversarial, soft"),
        (Comparable, {"figures": []}, "figures: at least 1 needed"),
        (Comparable, {"beside": ["beauty"]}, "figure: unknown 'beauty'"),
        (VerifiedFalls, {"settings": ["s"]}, "settings: at least 2 needed, got 1"),
        (AdversarialFalls, {"methods": ["hard"]}, "methods: unknown 'hard'"),
        (GapFalls, {"methods": []}, "methods: at least 1 needed"),
        (DomainOrder, {"domains": ["box"]}, "domains: at least 2 needed"),
        (MeasuredRange, {"least": 2.0, "most": 1.0}, "least: must be at most `most`, got 2 and 1"),
        (Measured, {"seeds": 1}, "seeds: a spread needs at least 2, got 1"),
    ],
)
def test_a_rule_about_nothing_or_of_unknown_names_is_refused(
    kind: type[Rule], keys: dict[str, Any], message: str
) -> None:
    given = {
        Gain: {"settings": ["s"], "figure": "natural_accuracy", "method": "soft", "over": "natural", "above": 0.0},
        Comparable: {"settings": ["s"], "figures": ["natural_accuracy"], "margin": 1.0},
        VerifiedFalls: {},
        AdversarialFalls: {"settings": ["a", "b"]},
        GapFalls: {"settings": ["a", "b"]},
        DomainOrder: {"settings": ["s"], "faster": 0.0},
        MeasuredRange: {"setting": "s", "method": "soft", "figure": "verified_share"},
        Measured: vars(measured()),
    }
    with pytest.raises(SoftadvError, match=message):
        kind(**given[kind] | keys)  # type: ignore[index]


@pytest.mark.parametrize(
    "rule",
    [
        natural_gain("s", above=0.0),
        alike(1.0),
        VerifiedFalls(settings=["s", "s"]),
        VerifiedAtMost(settings=["s"], share=1.0),
        VerifiedAtLeast(settings=["s"], share=0.0),
        NothingVerified(settings=["s"], margin=1.0),
        GapFalls(settings=["s", "s"], methods=["soft"]),
        AdversarialFalls(settings=["s", "s"], methods=["soft"]),
        order(),
        DomainTotals(settings=["s"], domains=DOMAINS),
        measured(),
        in_range(0.0, 1.0),
        ExportParity(setting="s", tolerance=1.0),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_no_rule_decides_without_its_trials(rule: Rule) -> None:
    assert type(rule) in RULES.values()
    with pytest.raises(NotRun):
        rule.decide(Evidence([], {}))
    # A run that is not what the setting requires is as good as none, and the reason says so.
    required = {"s": Required(dataset="digits", eps=0.1, alpha=0.01, steps=5, epochs=50)}
    runs = [a_run(method=method) for method in ("natural", "adversarial", "soft")]
    with pytest.raises(NotRun, match="s was run with epochs 2 instead of 50"):
        rule.decide(Evidence(runs, required))
