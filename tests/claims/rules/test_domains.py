"""Rules about a certifier's domains: precision and seconds on the same models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from softadv.certify.records import Certified
from softadv.claims.rules.domains import DomainOrder, DomainSeconds, DomainTotals
from softadv.experiments.records import Result
from softadv.experiments.runs import NotRun, Run
from tests.finished import a_run, decide, outcome

DOMAINS = ["deeppoly", "deepzono", "box"]


def certified_models(seeds: int = 3, *, methods: Sequence[str] = ("natural", "soft"), zono: int = 20) -> list[Run]:
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


def order() -> DomainOrder:
    return DomainOrder(settings=["s"], domains=DOMAINS)


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


@pytest.mark.parametrize("rule", [order(), DomainSeconds(settings=["s"], domains=DOMAINS, times=2.0, alike=[])])
def test_what_the_models_were_trained_with_is_said_and_is_the_same_for_all(rule: DomainOrder | DomainSeconds) -> None:
    certified = {"deeppoly": (30, 9.0), "deepzono": (20, 3.0), "box": (0, 1.0)}
    runs = [a_run(seed=seed, certified=certified, lr=0.1) for seed in range(2)]
    assert decide(rule, *runs).reason.endswith("; run with lr 0.1 instead of 0.001")


def seconds(times: float, *, alike: list[str]) -> DomainSeconds:
    return DomainSeconds(settings=["s"], domains=["deepzono", "deeppoly", "box"], times=times, alike=alike)


@pytest.mark.parametrize(("times", "expected"), [(1.9, "holds"), (2.0, "inconclusive"), (2.1, "fails")])
def test_domain_seconds_compares_neighbours(times: float, expected: str) -> None:
    # DeepZono takes 2 seconds, DeepPoly 1, Box 0.1.
    found = decide(seconds(times, alike=[]), *certified_models())
    assert found.outcome == expected
    assert "seconds an image: deepzono / deeppoly 2.00 times [2.00, 2.00], deeppoly / box 10.00 times" in found.reason
    assert [figures.unit for figures in found.estimates] == ["times", "times"]


@pytest.mark.parametrize(("times", "expected"), [(1.9, "inconclusive"), (9.9, "inconclusive"), (10.1, "fails")])
def test_domains_computed_alike_leave_the_claim_open(times: float, expected: str) -> None:
    found = decide(seconds(times, alike=["deepzono", "deeppoly"]), *certified_models())
    assert found.outcome == expected
    assert "beside it, seconds an image: deepzono / deeppoly 2.00 times" in found.reason
    assert found.reason.endswith(
        "deepzono and deeppoly are computed by the same passes here: their order, and with it the claim, stays open"
    )


def test_seconds_of_different_programs_are_not_compared() -> None:
    (run, *rest) = certified_models()
    first, *others = run.result.certified
    by_gpu = Result(**vars(run.result) | {"certified": (replace(first, certifier="gpupoly 1"), *others)})
    with pytest.raises(NotRun, match="certified by different programs, one unnamed and gpupoly 1"):
        decide(seconds(1.9, alike=[]), Run(by_gpu, run.metrics), *rest)


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
