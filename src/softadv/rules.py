"""How each kind of claim is decided. A rule says whether it holds, and the figures that say so.

Differences between accuracies are in percentage points; accuracies in the files are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Protocol

from softadv.errors import SoftadvError
from softadv.evidence import Evidence, NotRun, Run, value_of
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons
from softadv.spec import METHODS

# Whether the claim holds, and the sentence that says why.
Decision = tuple[bool, str]


class Rule(Protocol):
    """Decides a claim from the runs; raises NotRun where they are missing."""

    def decide(self, evidence: Evidence) -> Decision: ...


@dataclass(frozen=True, kw_only=True)
class NeuronCount:
    """The networks have this many neurons, layer outputs counted."""

    mnist: int
    cifar10: int

    def decide(self, evidence: Evidence) -> Decision:
        found = {name: count_neurons(conv_small(name, seed=0), IMAGE_SHAPES[name]) for name in ("mnist", "cifar10")}
        holds = (found["mnist"], found["cifar10"]) == (self.mnist, self.cifar10)
        return holds, f"MNIST {found['mnist']:,} and CIFAR-10 {found['cifar10']:,} neurons"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """In every setting, a figure of one method exceeds that of another by `above` to `below` points."""

    settings: list[str]
    figure: str
    method: str
    over: str
    above: float
    below: float | None = None

    def decide(self, evidence: Evidence) -> Decision:
        gains = {
            setting: _difference(evidence, setting, self.figure, method=self.method, over=self.over)
            for setting in self.settings
        }
        holds = all(gain > self.above and (self.below is None or gain < self.below) for gain in gains.values())
        return holds, f"{_words(self.figure)}, {self.method} - {self.over}: {_listed(gains, '{:+.2f} points')}"


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """In every setting, soft and adversarial training differ by at most `margin` points in these figures."""

    settings: list[str]
    figures: list[str]
    margin: float

    def decide(self, evidence: Evidence) -> Decision:
        holds, parts = True, []
        for figure in self.figures:
            gaps = {s: _difference(evidence, s, figure, method="soft", over="adversarial") for s in self.settings}
            holds = holds and all(abs(gap) <= self.margin for gap in gaps.values())
            parts.append(f"{_words(figure)}, soft - adversarial: {_listed(gaps, '{:+.2f} points')}")
        return holds, "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class VerifiedFalls:
    """Soft training's verified share of the training set falls from each setting to the next."""

    settings: list[str]

    def decide(self, evidence: Evidence) -> Decision:
        shares = {setting: 100 * evidence.mean(setting, "soft", "verified_share") for setting in self.settings}
        return _falls(shares), "verified in the last epoch: " + _listed(shares, "{:.2f}%")


@dataclass(frozen=True, kw_only=True)
class VerifiedAtMost:
    """Soft training never verifies more than this share of the training set, in any epoch."""

    settings: list[str]
    share: float

    def decide(self, evidence: Evidence) -> Decision:
        most = {}
        for setting in self.settings:
            runs = evidence.of(setting, "soft").values()
            most[setting] = max(100 * (m.verified or 0) / run.result.train_images for run in runs for m in run.metrics)
        holds = all(value <= 100 * self.share for value in most.values())
        return holds, "most verified in any epoch: " + _listed(most, "{:.2f}%")


@dataclass(frozen=True, kw_only=True)
class VerifiedAtLeast:
    """Soft training verifies at least this share of the training set in its last epoch, on the mean over seeds."""

    settings: list[str]
    share: float

    def decide(self, evidence: Evidence) -> Decision:
        shares = {setting: 100 * evidence.mean(setting, "soft", "verified_share") for setting in self.settings}
        holds = all(value >= 100 * self.share for value in shares.values())
        return holds, f"verified in the last epoch: {_listed(shares, '{:.2f}%')}, at least {100 * self.share:.2f}%"


@dataclass(frozen=True, kw_only=True)
class NothingVerified:
    """No image is ever verified, and so soft and adversarial training perform alike, to within `margin` points."""

    settings: list[str]
    margin: float

    def decide(self, evidence: Evidence) -> Decision:
        none, share = VerifiedAtMost(settings=self.settings, share=0.0).decide(evidence)
        figures = ["natural_accuracy", "adversarial_accuracy"]
        alike, gaps = Comparable(settings=self.settings, figures=figures, margin=self.margin).decide(evidence)
        return none and alike, f"{share}; {gaps}"


@dataclass(frozen=True, kw_only=True)
class GapFalls:
    """Natural minus adversarial accuracy falls from each setting to the next, for these methods."""

    settings: list[str]
    methods: list[str]

    def decide(self, evidence: Evidence) -> Decision:
        holds, parts = True, []
        for method in self.methods:
            gaps = {
                setting: 100
                * (
                    evidence.mean(setting, method, "natural_accuracy")
                    - evidence.mean(setting, method, "adversarial_accuracy")
                )
                for setting in self.settings
            }
            holds = holds and _falls(gaps)
            parts.append(f"{method}: {_listed(gaps, '{:.1f} points')}")
        return holds, "natural - adversarial accuracy, " + "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class AdversarialFalls:
    """Adversarial accuracy falls from each setting to the next, for these methods."""

    settings: list[str]
    methods: list[str]

    def decide(self, evidence: Evidence) -> Decision:
        holds, parts = True, []
        for method in self.methods:
            values = {s: 100 * evidence.mean(s, method, "adversarial_accuracy") for s in self.settings}
            holds = holds and _falls(values)
            parts.append(f"{method}: {_listed(values, '{:.1f}%')}")
        return holds, "adversarial accuracy, " + "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class DomainOrder:
    """On the same models, each domain verifies more images than the next one.

    The last domain is also at least `faster` times as fast as each other; 0 does not compare seconds.
    """

    settings: list[str]
    domains: list[str]
    faster: float

    def decide(self, evidence: Evidence) -> Decision:
        runs = [run for setting in self.settings for run in _any_method(evidence, setting)]
        verified, seconds = {}, {}
        for domain in self.domains:
            found = [run.result.certified_by(domain) for run in runs]
            there = [c for c in found if c is not None]
            if len(there) < len(runs):
                raise NotRun(f"test images were not certified with {domain} in every run")
            verified[domain] = float(sum(c.verified for c in there))
            seconds[domain] = 1000 * sum(c.seconds for c in there) / sum(c.images for c in there)
        quickest = seconds[self.domains[-1]]
        scales = all(seconds[domain] >= self.faster * quickest for domain in self.domains[:-1])
        holds = _falls(verified) and scales
        return holds, f"verified: {_listed(verified, '{:.0f}')}; ms an image: {_listed(seconds, '{:.2f}')}"


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
        if self.seeds < 2:
            raise SoftadvError(f"seeds: a spread needs at least 2, got {self.seeds}")

    def decide(self, evidence: Evidence) -> Decision:
        values = [value_of(run, self.figure) for run in evidence.of(self.setting, self.method).values()]
        spread = self.sigmas * self.deviation * (1 / self.seeds + 1 / len(values)) ** 0.5
        tolerance = max(spread, self.resolution)
        found = fmean(values)
        holds = abs(found - self.mean) <= tolerance
        return holds, f"{100 * found:.2f}%, expected {100 * self.mean:.2f}% ± {100 * tolerance:.2f}"


@dataclass(frozen=True, kw_only=True)
class ExportParity:
    """The exported ONNX model gives the same classes, and outputs within `tolerance`, in onnxruntime."""

    setting: str
    tolerance: float

    def decide(self, evidence: Evidence) -> Decision:
        parities = [run.result.parity for run in _any_method(evidence, self.setting)]
        largest = max(parity.largest_difference for parity in parities)
        holds = largest <= self.tolerance and all(parity.classes_equal for parity in parities)
        return holds, f"largest difference {largest:.1e} over {len(parities)} models"


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
    "measured": Measured,
    "export-parity": ExportParity,
}


def _difference(evidence: Evidence, setting: str, figure: str, *, method: str, over: str) -> float:
    """A figure of one method minus that of another, in points, averaged over the seeds that have both."""
    pairs = evidence.pairs(setting, method, over)
    return 100 * fmean(value_of(one, figure) - value_of(other, figure) for one, other in pairs)


def _any_method(evidence: Evidence, setting: str) -> list[Run]:
    found = {run.result.trial.method for run in evidence.runs if run.result.trial.setting == setting}
    methods = [method for method in METHODS if method in found]
    if not methods:
        raise NotRun(f"no finished run of {setting}")
    return [run for method in methods for run in evidence.of(setting, method).values()]


def _falls(values: dict[str, float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(values.values()))


def _listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


def _words(figure: str) -> str:
    return figure.replace("_", " ")
