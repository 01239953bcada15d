"""The kinds of claims by name, and those that compare no two trainings: counts, what was measured before.

Every rule answers holds, fails or inconclusive, with the figures that say so. Differences between accuracies are in
percentage points; accuracies in the files are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from softadv._decimals import decimal, percent
from softadv.claims.decision import Decision, Rule, binary, known
from softadv.claims.rules.domains import DomainOrder, DomainSeconds, DomainTotals
from softadv.claims.rules.methods import Comparable, Gain, differences
from softadv.claims.rules.radii import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.claims.selection import Evidence
from softadv.errors import SoftadvError
from softadv.experiments.runs import FIGURES, NotRun, value_of
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons


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
        if self.seeds < 2:
            raise SoftadvError(f"seeds: a spread needs at least 2, got {self.seeds}")

    def decide(self, evidence: Evidence) -> Decision:
        values = [value_of(run, self.figure) for run in evidence.of(self.setting, self.method).values()]
        spread = self.sigmas * self.deviation * (1 / self.seeds + 1 / len(values)) ** 0.5
        tolerance = max(spread, self.resolution)
        found = fmean(values)
        holds = abs(found - self.mean) <= tolerance
        return binary(holds, f"{percent(found)}, expected {percent(self.mean)} ± {decimal(100 * tolerance)}")


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
        if not self.least <= self.most:
            raise SoftadvError(f"least: must be at most `most`, got {self.least:g} and {self.most:g}")

    def decide(self, evidence: Evidence) -> Decision:
        if self.over is None:
            runs = evidence.of(self.setting, self.method).values()
            mean = fmean(100 * value_of(run, self.figure) for run in runs)
            shown = f"{FIGURES[self.figure]} {decimal(mean)}%"
        else:
            mean = fmean(differences(evidence.pairs(self.setting, self.method, self.over), self.figure))
            shown = f"{FIGURES[self.figure]}, {self.method} - {self.over}: {decimal(mean, sign=True)} points"
        holds = self.least <= mean <= self.most
        return binary(holds, f"{shown}, expected {decimal(self.least)} to {decimal(self.most)}")


@dataclass(frozen=True, kw_only=True)
class ExportParity:
    """The exported ONNX model gives the same classes, and outputs within `tolerance`, in onnxruntime."""

    setting: str
    tolerance: float

    def decide(self, evidence: Evidence) -> Decision:
        parities = [run.result.parity for run in evidence.of_any_method(self.setting) if run.result.parity is not None]
        if not parities:
            raise NotRun(f"no model of {self.setting} was exported")
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
    "domain-seconds": DomainSeconds,
    "domain-totals": DomainTotals,
    "measured": Measured,
    "measured-range": MeasuredRange,
    "export-parity": ExportParity,
}
