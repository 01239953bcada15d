"""The kinds of claims by name, and those that compare no two trainings: counts, domains, what was measured before.

Every rule answers holds, fails or inconclusive, with the figures that say so. Differences between accuracies are in
percentage points; accuracies in the files are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import fmean

from softadv.decisions import Decision, Finding, Rule, binary, conclude, for_each, joined, known, need
from softadv.errors import SoftadvError
from softadv.estimates import estimate, within
from softadv.evidence import FIGURES, Evidence, NotRun, Run, value_of
from softadv.method_rules import Comparable, Gain, differences
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons
from softadv.radius_rules import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.runs import Certified
from softadv.spec import METHODS


@dataclass(frozen=True, kw_only=True)
class NeuronCount:
    """The networks have this many neurons, layer outputs counted."""

    mnist: int
    cifar10: int

    def decide(self, evidence: Evidence) -> Decision:
        found = {name: count_neurons(conv_small(name, seed=0), IMAGE_SHAPES[name]) for name in ("mnist", "cifar10")}
        holds = (found["mnist"], found["cifar10"]) == (self.mnist, self.cifar10)
        return binary(holds, f"MNIST {found['mnist']:,} and CIFAR-10 {found['cifar10']:,} neurons")


@dataclass(frozen=True, kw_only=True)
class DomainOrder:
    """On the same models, each domain verifies more test images than the next one.

    Each domain but the last also takes more than `faster` times the last one's seconds; 0 does not compare seconds.
    Models of one seed are not independent, so each seed counts once, with the mean over its models: the methods
    of every setting.
    """

    settings: list[str]
    domains: list[str]
    faster: float

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")
        need(2, self.domains, key="domains")

    def decide(self, evidence: Evidence) -> Decision:
        seeds = _models(evidence, self.settings, self.domains)
        decisions = [conclude([self._more(seeds, a, b) for a, b in pairwise(self.domains)], claimed="claimed above 0")]
        if self.faster:
            slower = [self._slower(seeds, domain) for domain in self.domains[:-1]]
            decisions.append(conclude(slower, claimed=f"taken as above {self.faster:.2f}"))
        return joined(decisions)

    def _more(self, seeds: Sequence[Sequence[dict[str, Certified]]], domain: str, other: str) -> Finding:
        values = [fmean(100 * (m[domain].accuracy - m[other].accuracy) for m in models) for models in seeds]
        return self._finding(values, f"{domain} - {other}", "points", claimed=0.0, heading="verified test images")

    def _slower(self, seeds: Sequence[Sequence[dict[str, Certified]]], domain: str) -> Finding:
        last = self.domains[-1]
        values = [fmean(_seconds(m[domain]) / _seconds(m[last]) for m in models) for models in seeds]
        heading = f"seconds an image, against {last}'s"
        return self._finding(values, domain, "times", claimed=self.faster, heading=heading)

    def _finding(self, values: Sequence[float], name: str, unit: str, *, claimed: float, heading: str) -> Finding:
        label = f"{', '.join(self.settings)}: {heading}, {name}"
        found = estimate([round(v, 9) for v in values], label=label, unit=unit, claimed=(claimed, inf))
        return Finding(heading=heading, name=name, estimate=found, answer=within(found, ends_count=False))


@dataclass(frozen=True, kw_only=True)
class DomainTotals:
    """Over all models that were run, each domain verifies more test images than the next one: a check, no estimate."""

    settings: list[str]
    domains: list[str]

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")
        need(2, self.domains, key="domains")

    def decide(self, evidence: Evidence) -> Decision:
        models = [model for seed in _models(evidence, self.settings, self.domains) for model in seed]
        totals = {domain: sum(model[domain].verified for model in models) for domain in self.domains}
        holds = all(later < earlier for earlier, later in pairwise(totals.values()))
        shown = ", ".join(f"{domain} {count:,}" for domain, count in totals.items())
        return binary(holds, f"verified by the same {len(models)} models: {shown}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure's mean over seeds is what was measured before, within what its spread allows.

    The tolerance is `sigmas` standard errors of the difference between a mean over `seeds` seeds (the
    measurement) and one over as many as were run now, but at least `resolution`.
    """

    setting: str
    method: str
    figure: str
    mean: float
    deviation: float  # sample standard deviation over the seeds of the measurement
    seeds: int
    sigmas: float
    resolution: float

    def __post_init__(self) -> None:
        known(self.figure, list(FIGURES), key="figure")
        known(self.method, METHODS, key="method")
        if self.seeds < 2:
            raise SoftadvError(f"seeds: a spread needs at least 2, got {self.seeds}")

    def decide(self, evidence: Evidence) -> Decision:
        values = [value_of(run, self.figure) for run in evidence.of(self.setting, self.method).values()]
        spread = self.sigmas * self.deviation * (1 / self.seeds + 1 / len(values)) ** 0.5
        tolerance = max(spread, self.resolution)
        found = fmean(values)
        holds = abs(found - self.mean) <= tolerance
        return binary(holds, f"{100 * found:.2f}%, expected {100 * self.mean:.2f}% ± {100 * tolerance:.2f}")


@dataclass(frozen=True, kw_only=True)
class MeasuredRange:
    """The mean over seeds of a figure, less that of the method `over` where one is named, lies in a measured range.

    least, most: in points where two methods are compared, else in per cent; both ends count. A check of a rerun
    against what was measured over many seeds, so that it needs no interval, nor more than one seed.
    """

    setting: str
    method: str
    figure: str
    least: float
    most: float
    over: str | None = None

    def __post_init__(self) -> None:
        known(self.figure, list(FIGURES), key="figure")
        known(self.method, METHODS, key="method")
        if self.over is not None:
            known(self.over, METHODS, key="over")
        if not self.least <= self.most:
            raise SoftadvError(f"least: must be at most `most`, got {self.least:g} and {self.most:g}")

    def decide(self, evidence: Evidence) -> Decision:
        if self.over is None:
            runs = evidence.of(self.setting, self.method).values()
            mean = fmean(100 * value_of(run, self.figure) for run in runs)
            shown = f"{FIGURES[self.figure]} {mean:.2f}%"
        else:
            mean = fmean(differences(evidence.pairs(self.setting, self.method, self.over), self.figure))
            shown = f"{FIGURES[self.figure]}, {self.method} - {self.over}: {mean:+.2f} points"
        holds = self.least <= mean <= self.most
        return binary(holds, f"{shown}, expected {self.least:.2f} to {self.most:.2f}")


@dataclass(frozen=True, kw_only=True)
class ExportParity:
    """The exported ONNX model gives the same classes, and outputs within `tolerance`, in onnxruntime."""

    setting: str
    tolerance: float

    def decide(self, evidence: Evidence) -> Decision:
        parities = [run.result.parity for run in _any_method(evidence, self.setting)]
        largest = max(parity.largest_difference for parity in parities)
        holds = largest <= self.tolerance and all(parity.classes_equal for parity in parities)
        return binary(holds, f"largest difference {largest:.1e} over {len(parities)} models")


RULES: dict[str, type[Rule]] = {
    "neuron-count": NeuronCount,
    "gain": Gain,
    "comparable": Comparable,
    "verified-falls": VerifiedFalls,
    "verified-at-least": VerifiedAtLeast,
    "verified-at-most": VerifiedAtMost,
    "nothing-verified": NothingVerified,
    "gap-falls": GapFalls,
    "adversarial-falls": AdversarialFalls,
    "domain-order": DomainOrder,
    "domain-totals": DomainTotals,
    "measured": Measured,
    "measured-range": MeasuredRange,
    "export-parity": ExportParity,
}


def _any_method(evidence: Evidence, setting: str) -> list[Run]:
    found = {run.result.trial.method for run in evidence.runs if run.result.trial.setting == setting}
    methods = [method for method in METHODS if method in found]
    if not methods:
        raise NotRun(f"no finished run of {setting}")
    return [run for method in methods for run in evidence.of(setting, method).values()]


def _models(evidence: Evidence, settings: Sequence[str], domains: Sequence[str]) -> list[list[dict[str, Certified]]]:
    """For each seed that every method and setting has, what its models' domains verified."""
    runs = [run for found in for_each(settings, lambda setting: _any_method(evidence, setting)) for run in found]
    kinds = {(run.result.trial.setting, run.result.trial.method) for run in runs}
    seeds: dict[int, list[dict[str, Certified]]] = {}
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
    """Seconds an image; a clock that saw no time pass is taken at its resolution."""
    return max(certified.seconds, 1e-9) / certified.images
