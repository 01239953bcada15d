"""Neurons and exported models; and of all rules: none decides without its trials."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from softadv.certify.records import Parity
from softadv.claims.decision import Rule
from softadv.claims.rules.domains import DomainOrder, DomainSeconds, DomainTotals
from softadv.claims.rules.kinds import RULES, ExportParity, NeuronCount
from softadv.claims.rules.methods import Comparable, Gain
from softadv.claims.rules.radii import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.claims.selection import Evidence, Required
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun
from tests.finished import a_run, alike, decide, natural_gain, outcome


def test_the_papers_neuron_counts() -> None:
    assert outcome(NeuronCount(mnist=3614, cifar10=4862)) == "holds"
    assert outcome(NeuronCount(mnist=3615, cifar10=4862)) == "fails"


def test_export_parity_asks_for_classes_and_for_outputs() -> None:
    rule = ExportParity(setting="s", tolerance=1e-5)
    assert outcome(rule, a_run()) == "holds"
    assert outcome(rule, a_run(parity=Parity(images=1, largest_difference=1e-4, classes_equal=True))) == "fails"
    assert outcome(rule, a_run(parity=Parity(images=1, largest_difference=0.0, classes_equal=False))) == "fails"


def test_claims_speak_of_any_method() -> None:
    rule = natural_gain("s", above=0.0)
    for method, over in (("trades(beta=6)", "adversarial"), ("soft", "my.nets:Mine")):
        runs = [a_run(method=name, seed=seed, natural=0.9 - place / 10) for place, name in enumerate((method, over))
                for seed in (0, 1)]  # fmt: skip
        assert outcome(replace(rule, method=method, over=over), *runs) == "holds"
    with pytest.raises(NotRun, match="no finished mine run of s"):
        decide(replace(rule, method="mine"), a_run())


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (Gain, {"settings": []}, "settings: at least 1 needed, got 0"),
        (Gain, {"figure": "beauty"}, "figure: unknown 'beauty', expected one of natural_accuracy"),
        (Comparable, {"figures": []}, "figures: at least 1 needed"),
        (Comparable, {"beside": ["beauty"]}, "figure: unknown 'beauty'"),
        (VerifiedFalls, {"settings": ["s"]}, "settings: at least 2 needed, got 1"),
        (AdversarialFalls, {"methods": []}, "methods: at least 1 needed"),
        (GapFalls, {"methods": []}, "methods: at least 1 needed"),
        (DomainOrder, {"domains": ["box"]}, "domains: at least 2 needed"),
        (DomainSeconds, {"domains": ["box"]}, "domains: at least 2 needed"),
        (DomainSeconds, {"alike": ["box", "deeppoly"]}, "alike: expected two neighbours of domains, got box, deeppoly"),
        (DomainSeconds, {"alike": ["deeppoly", "box"]}, "domains that are not alike: at least 1 needed, got 0"),
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
        DomainOrder: {"settings": ["s"]},
        DomainSeconds: {"settings": ["s"], "domains": ["deeppoly", "box"], "times": 2.0, "alike": []},
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
        DomainOrder(settings=["s"], domains=["deeppoly", "box"]),
        DomainSeconds(settings=["s"], domains=["deeppoly", "box"], times=2.0, alike=[]),
        DomainTotals(settings=["s"], domains=["deeppoly", "box"]),
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
