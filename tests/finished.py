"""Finished runs and rules, as the tests of claims need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softadv.certify.records import Certified, Parity
from softadv.claims.decision import Decision, Rule
from softadv.claims.rules.methods import Comparable, Gain
from softadv.claims.selection import Evidence
from softadv.experiments.records import Autoattacked, Result
from softadv.experiments.runs import Run
from softadv.experiments.spec import Trial
from softadv.training.records import EpochMetrics


def a_run(
    *,
    setting: str = "s",
    method: str = "soft",
    seed: int = 0,
    natural: float = 0.9,
    adversarial: float = 0.5,
    verified: int = 10,
    certified: dict[str, tuple[int, float]] | None = None,
    parity: Parity | None = None,
    epochs: int = 2,
    autoattack: float | None = None,
    **other: Any,
) -> Run:
    """A finished run on 100 training and 100 test images; other: further keys of the trial."""
    trial = Trial(
        setting=setting,
        dataset="digits",
        method=method,
        seed=seed,
        eps=0.1,
        alpha=0.01,
        steps=5,
        epochs=epochs,
        **other,
    )
    domains = certified or {"deeppoly": (30, 1.0)}
    return finished(
        trial,
        natural=natural,
        adversarial=adversarial,
        verified=verified,
        certified=domains,
        parity=parity,
        autoattack=autoattack,
    )


def finished(
    trial: Trial,
    *,
    natural: float,
    adversarial: float,
    verified: int,
    certified: dict[str, tuple[int, float]],
    parity: Parity | None = None,
    autoattack: float | None = None,
) -> Run:
    """A trial as if it had been run; certified: by domain, how many of 100 test images, in how many seconds."""
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
        for epoch in range(1, trial.epochs + 1)
    ]
    result = Result(
        trial=trial,
        natural_accuracy=natural,
        adversarial_accuracy=adversarial,
        certified=tuple(
            Certified(domain=domain, images=100, verified=count, seconds=seconds)
            for domain, (count, seconds) in certified.items()
        ),
        parity=parity or Parity(images=100, largest_difference=1e-6, classes_equal=True),
        neurons=3614,
        train_images=100,
        test_images=100,
        data_fingerprint="f",
        data_source="here",
        weights_sha256="w",
        environment={},
        autoattack=None
        if autoattack is None
        else Autoattacked(images=100, correct=round(100 * autoattack), seconds=1.0),
    )
    return Run(result, metrics)


def decide(rule: Rule, *runs: Run) -> Decision:
    return rule.decide(Evidence(runs, {}))


def outcome(rule: Rule, *runs: Run) -> str:
    return decide(rule, *runs).outcome


def each_seed(values: Sequence[float], *, method: str = "soft", setting: str = "s", first: int = 0) -> list[Run]:
    """A run for each value: its natural and its adversarial accuracy, and as many verified of 100 training images."""
    return [
        a_run(method=method, setting=setting, seed=seed, natural=value, adversarial=value, verified=round(100 * value))
        for seed, value in enumerate(values, start=first)
    ]


def soft_and_hard(soft: Sequence[float], hard: Sequence[float] = (0.5, 0.7, 0.6), *, setting: str = "s") -> list[Run]:
    return each_seed(soft, setting=setting) + each_seed(hard, method="adversarial", setting=setting)


def natural_gain(*settings: str, above: float, below: float | None = None) -> Gain:
    return Gain(
        settings=list(settings),
        figure="natural_accuracy",
        method="soft",
        over="adversarial",
        above=above,
        below=below,
    )


def alike(margin: float, **keys: Any) -> Comparable:
    return Comparable(**{"settings": ["s"], "figures": ["adversarial_accuracy"], "margin": margin} | keys)


# Over 0.5, 0.7 and 0.6: 1, 2 and 3 points. Mean 2, standard error 1 / sqrt(3); for three values the table's 97.5% and
# 95% points of Student's t are 4.302653 and 2.919986, so the 95% interval is 2 ± 2.48414, the 90% one 2 ± 1.68586.
ONE_TWO_THREE = (0.51, 0.72, 0.63)
