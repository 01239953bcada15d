"""Each rule decides as it says, at its edges, and never without its trials."""

from __future__ import annotations

import pytest

from softadv.evidence import Evidence, NotRun, Required, Run
from softadv.rules import (
    RULES,
    AdversarialFalls,
    Comparable,
    DomainOrder,
    ExportParity,
    Gain,
    GapFalls,
    Measured,
    NeuronCount,
    NothingVerified,
    Rule,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.runs import Certified, EpochMetrics, Parity, Result
from softadv.spec import Method, Trial


def a_run(
    *,
    setting: str = "s",
    method: Method = "soft",
    seed: int = 0,
    natural: float = 0.9,
    adversarial: float = 0.5,
    verified: int = 10,
    certified: dict[str, tuple[int, float]] | None = None,
    parity: Parity | None = None,
    epochs: int = 2,
) -> Run:
    """A finished run on 100 training and 100 test images."""
    trial = Trial(
        setting=setting,
        dataset="digits",
        method=method,
        seed=seed,
        eps=0.1,
        alpha=0.01,
        steps=5,
        epochs=epochs,
    )
    metrics = [
        EpochMetrics(
            epoch=epoch,
            loss=1.0,
            natural_accuracy=natural,
            adversarial_accuracy=adversarial,
            misclassified=0,
            unverified=100 - verified,
            verified=verified,
            attack_seconds=1.0,
            certification_seconds=1.0,
            update_seconds=1.0,
            evaluation_seconds=1.0,
        )
        for epoch in range(1, epochs + 1)
    ]
    result = Result(
        trial=trial,
        natural_accuracy=natural,
        adversarial_accuracy=adversarial,
        certified=tuple(
            Certified(domain=domain, images=100, verified=count, seconds=seconds)
            for domain, (count, seconds) in (certified or {"deeppoly": (30, 1.0)}).items()
        ),
        parity=parity or Parity(images=100, largest_difference=1e-6, classes_equal=True),
        neurons=3614,
        train_images=100,
        test_images=100,
        data_fingerprint="f",
        data_source="here",
        weights_sha256="w",
        environment={},
    )
    return Run(result, metrics)


def holds(rule: Rule, *runs: Run) -> bool:
    return rule.decide(Evidence(runs, {}))[0]


def natural_gain(*, settings: list[str], above: float, below: float | None = None) -> Gain:
    return Gain(
        settings=settings,
        figure="natural_accuracy",
        method="soft",
        over="adversarial",
        above=above,
        below=below,
    )


def two(soft: float, adversarial: float, *, setting: str = "s") -> list[Run]:
    return [
        a_run(method="soft", natural=soft, adversarial=soft, setting=setting),
        a_run(method="adversarial", natural=adversarial, adversarial=adversarial, setting=setting),
    ]


def test_the_papers_neuron_counts() -> None:
    assert holds(NeuronCount(mnist=3614, cifar10=4862))
    assert not holds(NeuronCount(mnist=3615, cifar10=4862))


@pytest.mark.parametrize(("soft", "expected"), [(0.904, True), (0.90, False), (0.89, False), (0.92, False)])
def test_natural_gain_lies_strictly_between_its_bounds(soft: float, expected: bool) -> None:
    assert holds(natural_gain(settings=["s"], above=0.0, below=1.5), *two(soft, 0.9)) is expected


def test_natural_gain_must_hold_in_every_setting() -> None:
    rule = natural_gain(settings=["a", "b"], above=1.0)
    assert holds(rule, *two(0.92, 0.9, setting="a"), *two(0.93, 0.9, setting="b"))
    assert not holds(rule, *two(0.92, 0.9, setting="a"), *two(0.90, 0.9, setting="b"))


def test_natural_gain_pairs_seed_by_seed() -> None:
    runs = [
        a_run(method="soft", seed=0, natural=0.9),
        a_run(method="adversarial", seed=0, natural=0.8),
        a_run(method="adversarial", seed=1, natural=1.0),  # has no partner, so it must not count
    ]
    assert holds(natural_gain(settings=["s"], above=9.9, below=10.1), *runs)


@pytest.mark.parametrize(("soft", "expected"), [(0.92, True), (0.88, True), (0.93, False), (0.87, False)])
def test_comparable_is_two_sided(soft: float, expected: bool) -> None:
    rule = Comparable(settings=["s"], figures=["adversarial_accuracy"], margin=2.001)
    assert holds(rule, *two(soft, 0.9)) is expected


def test_verified_falls_strictly() -> None:
    rule = VerifiedFalls(settings=["a", "b", "c"])
    shares = {"a": 30, "b": 20, "c": 10}
    assert holds(rule, *(a_run(setting=s, verified=v) for s, v in shares.items()))
    shares["c"] = 20
    assert not holds(rule, *(a_run(setting=s, verified=v) for s, v in shares.items()))


def test_verified_at_most_looks_at_every_epoch() -> None:
    run = a_run(verified=0)
    assert holds(VerifiedAtMost(settings=["s"], share=0.0), run)
    first = EpochMetrics(**vars(run.metrics[0]) | {"verified": 1})
    assert not holds(VerifiedAtMost(settings=["s"], share=0.0), Run(run.result, [first, run.metrics[1]]))


def test_verified_at_least_looks_at_the_last_epoch() -> None:
    assert holds(VerifiedAtLeast(settings=["s"], share=0.1), a_run(verified=10))
    assert not holds(VerifiedAtLeast(settings=["s"], share=0.1), a_run(verified=9))


def test_nothing_verified_also_asks_for_like_performance() -> None:
    rule = NothingVerified(settings=["s"], margin=2.0)
    hard = a_run(method="adversarial")
    assert holds(rule, a_run(verified=0), hard)
    assert not holds(rule, a_run(verified=1), hard)
    assert not holds(rule, a_run(verified=0, natural=0.95), hard)


def test_gap_falls_for_each_method() -> None:
    rule = GapFalls(settings=["large", "small"], methods=["soft"])
    assert holds(rule, a_run(setting="large", adversarial=0.3), a_run(setting="small", adversarial=0.6))
    assert not holds(rule, a_run(setting="large", adversarial=0.6), a_run(setting="small", adversarial=0.3))


def test_adversarial_falls_for_each_method() -> None:
    rule = AdversarialFalls(settings=["small", "large"], methods=["soft"])
    assert holds(rule, a_run(setting="small", adversarial=0.6), a_run(setting="large", adversarial=0.3))
    assert not holds(rule, a_run(setting="small", adversarial=0.3), a_run(setting="large", adversarial=0.6))


def test_domain_order_by_count_and_if_asked_by_seconds() -> None:
    run = a_run(certified={"deeppoly": (30, 1.0), "deepzono": (20, 2.0), "box": (0, 0.1)})
    domains = ["deeppoly", "deepzono", "box"]
    assert holds(DomainOrder(settings=["s"], domains=domains, faster=0.0), run)
    assert holds(DomainOrder(settings=["s"], domains=domains, faster=10.0), run)
    assert not holds(DomainOrder(settings=["s"], domains=domains, faster=10.1), run)
    with pytest.raises(NotRun, match="deepzono"):
        holds(DomainOrder(settings=["s"], domains=domains, faster=0.0), a_run())


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
    assert holds(measured(), a_run(natural=0.944))
    assert not holds(measured(), a_run(natural=0.946))
    # Four seeds now: 4 * 0.01 * sqrt(1/4 + 1/4) = 0.0283
    assert not holds(measured(), *(a_run(natural=0.93, seed=seed) for seed in range(4)))


def test_measured_allows_the_resolution_where_there_is_no_spread() -> None:
    assert holds(measured(deviation=0.0), a_run(natural=0.9009))
    assert not holds(measured(deviation=0.0), a_run(natural=0.9011))


def test_export_parity_asks_for_classes_and_for_outputs() -> None:
    rule = ExportParity(setting="s", tolerance=1e-5)
    assert holds(rule, a_run())
    assert not holds(rule, a_run(parity=Parity(images=1, largest_difference=1e-4, classes_equal=True)))
    assert not holds(rule, a_run(parity=Parity(images=1, largest_difference=0.0, classes_equal=False)))


@pytest.mark.parametrize(
    "rule",
    [
        natural_gain(settings=["s"], above=0.0),
        Comparable(settings=["s"], figures=["natural_accuracy"], margin=1.0),
        VerifiedFalls(settings=["s"]),
        VerifiedAtMost(settings=["s"], share=1.0),
        VerifiedAtLeast(settings=["s"], share=0.0),
        NothingVerified(settings=["s"], margin=1.0),
        GapFalls(settings=["s"], methods=["soft"]),
        AdversarialFalls(settings=["s"], methods=["soft"]),
        DomainOrder(settings=["s"], domains=["deeppoly"], faster=0.0),
        measured(),
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
