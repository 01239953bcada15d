"""Rules about a certifier's domains on the same models: which verifies more, and which takes longer.

Models of one seed are not independent, so each seed counts once, with the mean over its models: the methods of every
setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from statistics import fmean

from softadv.certify.records import Certified
from softadv.claims.decision import Decision, Finding, binary, decision_from, for_each, need
from softadv.claims.selection import Evidence
from softadv.claims.stats import estimate, within
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun

CertifiedByDomain = dict[str, Certified]  # what each domain verified of one model


@dataclass(frozen=True, kw_only=True)
class _OfDomains:
    """A rule about the models of these settings, and about each domain and the next one."""

    settings: list[str]
    domains: list[str]

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")
        need(2, self.domains, key="domains")


@dataclass(frozen=True, kw_only=True)
class DomainOrder(_OfDomains):
    """On the same models, each domain verifies more test images than the next one."""

    def decide(self, evidence: Evidence) -> Decision:
        seeds = _models(evidence, self.settings, self.domains)
        found = [self._more(seeds, a, b) for a, b in pairwise(self.domains)]
        return decision_from(found, claimed="claimed above 0", note=evidence.assumptions(self.settings))

    def _more(self, seeds: Sequence[Sequence[CertifiedByDomain]], domain: str, other: str) -> Finding:
        values = _by_seed(seeds, lambda model: 100 * (model[domain].accuracy - model[other].accuracy))
        label = f"{', '.join(self.settings)}: verified test images, {domain} - {other}"
        found = estimate(values, label=label, unit="points", claimed=(0.0, inf))
        return Finding(
            heading="verified test images",
            name=f"{domain} - {other}",
            estimate=found,
            answer=within(found, ends_count=False),
        )


@dataclass(frozen=True, kw_only=True)
class DomainSeconds(_OfDomains):
    """On the same models, each domain takes more than `times` the seconds of the next one.

    alike: two neighbouring domains that the native certifier computes by the same passes, if any. Their ratio says
    nothing about the domains and decides nothing; since the claim includes it, the claim can then fail but not hold.
    """

    times: float
    alike: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        others = [list(pair) for pair in pairwise(self.domains) if list(pair) != self.alike]
        if self.alike and len(others) == len(self.domains) - 1:
            raise SoftadvError(f"alike: expected two neighbours of domains, got {', '.join(self.alike)}")
        need(1, others, key="domains that are not alike")

    def decide(self, evidence: Evidence) -> Decision:
        seeds = _models(evidence, self.settings, self.domains)
        _refuse_other_programs(seeds)
        found = [self._slower(seeds, a, b) for a, b in pairwise(self.domains)]
        notes = [evidence.assumptions(self.settings)]
        if self.alike:
            alike = " and ".join(self.alike)
            notes += [f"{alike} are computed by the same passes here: their order, and with it the claim, stays open"]
        note = "; ".join(filter(None, notes))
        decided = decision_from(found, claimed=f"taken as above {self.times:.2f}", note=note)
        return replace(decided, outcome="inconclusive") if self.alike and decided.outcome == "holds" else decided

    def _slower(self, seeds: Sequence[Sequence[CertifiedByDomain]], domain: str, other: str) -> Finding:
        values = _by_seed(seeds, lambda model: _seconds(model[domain]) / _seconds(model[other]))
        decides = [domain, other] != self.alike
        heading = "seconds an image"
        found = estimate(
            values,
            label=f"{', '.join(self.settings)}: {heading}, {domain} / {other}",
            unit="times",
            claimed=(self.times, inf) if decides else None,
        )
        answer = within(found, ends_count=False) if decides else None
        return Finding(heading=heading, name=f"{domain} / {other}", estimate=found, answer=answer)


@dataclass(frozen=True, kw_only=True)
class DomainTotals(_OfDomains):
    """Over the models of all seeds that have every method, each domain verifies more test images than the next one.

    A check of these models, no estimate.
    """

    def decide(self, evidence: Evidence) -> Decision:
        models = [model for seed in _models(evidence, self.settings, self.domains) for model in seed]
        totals = {domain: sum(model[domain].verified for model in models) for domain in self.domains}
        holds = all(later < earlier for earlier, later in pairwise(totals.values()))
        shown = ", ".join(f"{domain} {count:,}" for domain, count in totals.items())
        return binary(holds, f"verified by the same {len(models)} models: {shown}")


def _refuse_other_programs(seeds: Sequence[Sequence[CertifiedByDomain]]) -> None:
    """Raise NotRun unless one program certified all domains of a model: else the seconds compare programs."""
    for model in (model for models in seeds for model in models):
        programs = dict.fromkeys(certified.certifier or "one unnamed" for certified in model.values())
        if len(programs) > 1:
            raise NotRun(f"the domains were certified by different programs, {' and '.join(programs)}")


def _by_seed(seeds: Sequence[Sequence[CertifiedByDomain]], value: Callable[[CertifiedByDomain], float]) -> list[float]:
    """Rounded, so that equal differences of fractions are equal numbers."""
    return [round(fmean(value(model) for model in models), 9) for models in seeds]


def _models(evidence: Evidence, settings: Sequence[str], domains: Sequence[str]) -> list[list[CertifiedByDomain]]:
    """For each seed that every method and setting has, what its models' domains verified."""
    runs = [run for found in for_each(settings, evidence.of_any_method) for run in found]
    kinds = {(run.result.trial.setting, run.result.trial.method) for run in runs}
    seeds: dict[int, list[CertifiedByDomain]] = {}
    for run in runs:
        found = {domain: run.result.certified_by(domain) for domain in domains}
        there = {domain: certified for domain, certified in found.items() if certified is not None}
        lacking = [domain for domain in domains if domain not in there]
        if lacking:
            raise NotRun(f"{run.result.trial.name} certified no test images with {', '.join(lacking)}")
        if len({certified.images for certified in there.values()}) > 1:
            raise NotRun(f"{run.result.trial.name} certified different numbers of images with each domain")
        seeds.setdefault(run.result.trial.seed, []).append(there)
    whole = [models for models in seeds.values() if len(models) == len(kinds)]
    if not whole:
        raise NotRun(f"no seed has every method of {', '.join(settings)}")
    return whole


def _seconds(certified: Certified) -> float:
    """Seconds per image; zero is replaced by the clock's resolution."""
    return max(certified.seconds, 1e-9) / certified.images
