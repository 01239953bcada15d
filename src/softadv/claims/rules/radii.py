"""Rules about the verified share, and about changes from one radius to the next, seed by seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import inf
from statistics import fmean
from typing import ClassVar

from softadv.claims.decision import Decision, Finding, decision_from, figure, for_each, joint_decision, need
from softadv.claims.rules.methods import Comparable, check_counts
from softadv.claims.selection import Evidence
from softadv.claims.stats import estimate, within
from softadv.experiments.runs import Run


class _Falls(ABC):
    """A value of every run falls from each setting to the next, by the differences of the seeds that both have.

    what: it is, in words. figures: those of a run that it is made of, as FIGURES names them. unit: of the value, "%" or
    "points"; a change is in points.
    floor: whether it cannot fall below 0. A step between two settings that are 0 in every seed then decides nothing.
    """

    what: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    floor: ClassVar[bool]
    settings: list[str]
    methods: list[str]

    @abstractmethod
    def value(self, run: Run) -> float:
        """What is to fall, in the unit."""

    def decide(self, evidence: Evidence) -> Decision:
        found = [finding for method in self.methods for finding in self._steps(evidence, method)]
        return decision_from(found, claimed="claimed each below 0", note=evidence.assumptions(self.settings))

    def _steps(self, evidence: Evidence, method: str) -> Iterator[Finding]:
        runs = for_each(self.settings, partial(evidence.of, method=method))
        means = [fmean(map(self.value, of_setting.values())) for of_setting in runs]
        unit = "%" * (self.unit == "%")
        levels = [f"{s} {figure(mean, unit='%')}{unit}" for s, mean in zip(self.settings, means, strict=True)]
        for place, (earlier, later) in enumerate(pairwise(self.settings)):
            pairs = evidence.steps(earlier, later, method)
            for name in self.figures:
                check_counts(pairs, name)
            changes = [round(self.value(after) - self.value(before), 9) for before, after in pairs]
            name = f"{earlier} to {later}"
            found = estimate(changes, label=f"{name}: {self.what}, {method}", unit="points", claimed=(-inf, 0.0))
            spent = self.floor and all(self.value(run) == 0 for pair in pairs for run in pair)
            yield Finding(
                heading=f"{self.what}, {method}",
                name=name,
                shown=", ".join(levels[0 if place == 0 else place + 1 : place + 2]),
                estimate=found,
                answer=None if spent else within(found, ends_count=False),
                remark="nothing left to fall" if spent else "",
            )


@dataclass(frozen=True, kw_only=True)
class VerifiedFalls(_Falls):
    """Soft training's verified share of the training set falls from each setting to the next, in the last epoch."""

    what, unit, floor = "verified in the last epoch", "%", True
    figures = ("verified_share",)
    settings: list[str]
    methods = ["soft"]  # noqa: RUF012 (not a key of the rule)

    def __post_init__(self) -> None:
        need(2, self.settings, key="settings")

    def value(self, run: Run) -> float:
        return 100 * run.verified_share


@dataclass(frozen=True, kw_only=True)
class GapFalls(_Falls):
    """Natural minus adversarial accuracy falls from each setting to the next, for these methods."""

    what, unit, floor = "natural - adversarial accuracy", "points", False
    figures = ("natural_accuracy", "adversarial_accuracy")
    settings: list[str]
    methods: list[str]

    def __post_init__(self) -> None:
        _check(self.settings, self.methods)

    def value(self, run: Run) -> float:
        return 100 * (run.result.natural_accuracy - run.result.adversarial_accuracy)


@dataclass(frozen=True, kw_only=True)
class AdversarialFalls(_Falls):
    """Adversarial accuracy falls from each setting to the next, for these methods."""

    what, unit, floor = "adversarial accuracy", "%", True
    figures = ("adversarial_accuracy",)
    settings: list[str]
    methods: list[str]

    def __post_init__(self) -> None:
        _check(self.settings, self.methods)

    def value(self, run: Run) -> float:
        return 100 * run.result.adversarial_accuracy


@dataclass(frozen=True, kw_only=True)
class _VerifiedShare(ABC):
    """Soft training's verified share of the training set lies on one side of `share`, in every setting.

    epoch: the one that counts, in words.
    """

    epoch: ClassVar[str]
    settings: list[str]
    share: float

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")

    @property
    @abstractmethod
    def side(self) -> tuple[str, float, float]:
        """What is claimed of the share: the words before it, and the bounds in percent."""

    @abstractmethod
    def value(self, run: Run) -> float:
        """A run's share, in percent."""

    def decide(self, evidence: Evidence) -> Decision:
        found = for_each(self.settings, partial(self._look, evidence))
        claimed = f"{self.side[0]} {100 * self.share:.2f}%"
        return decision_from(found, claimed=claimed, note=evidence.assumptions(self.settings))

    def _look(self, evidence: Evidence, setting: str) -> Finding:
        shares = [round(self.value(run), 9) for run in evidence.of(setting, "soft").values()]
        found = estimate(shares, label=f"{setting}: {self.epoch}", unit="%", claimed=self.side[1:])
        return Finding(heading=self.epoch, name=setting, estimate=found, answer=within(found, ends_count=True))


@dataclass(frozen=True, kw_only=True)
class VerifiedAtMost(_VerifiedShare):
    """Soft training verifies at most this share of the training set, in the epoch in which it verifies most."""

    epoch = "most verified in any epoch"

    @property
    def side(self) -> tuple[str, float, float]:
        return "taken as at most" if self.share else "claimed", -inf, 100 * self.share

    def value(self, run: Run) -> float:
        return max((100 * (m.verified or 0) / run.result.trained_images for m in run.metrics), default=0)


@dataclass(frozen=True, kw_only=True)
class VerifiedAtLeast(_VerifiedShare):
    """Soft training verifies at least this share of the training set in its last epoch."""

    epoch = "verified in the last epoch"

    @property
    def side(self) -> tuple[str, float, float]:
        return "taken as at least", 100 * self.share, inf

    def value(self, run: Run) -> float:
        return 100 * run.verified_share


@dataclass(frozen=True, kw_only=True)
class NothingVerified:
    """No image is ever verified, and so soft and adversarial training perform alike, to within `margin` points."""

    settings: list[str]
    margin: float

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")

    def decide(self, evidence: Evidence) -> Decision:
        figures = ["natural_accuracy", "adversarial_accuracy"]
        none = VerifiedAtMost(settings=self.settings, share=0.0)
        alike = Comparable(settings=self.settings, figures=figures, margin=self.margin)
        return joint_decision([none.decide(evidence), alike.decide(evidence)])


def _check(settings: Sequence[str], methods: Sequence[str]) -> None:
    need(2, settings, key="settings")
    need(1, methods, key="methods")
