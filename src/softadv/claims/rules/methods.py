"""Rules that compare two methods, or a method in two settings, by their differences seed by seed, in points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

from softadv.claims.decision import Decision, Finding, decision_from, for_each, joint_decision, known, need
from softadv.claims.selection import Evidence
from softadv.claims.stats import Answer, Estimate, equivalent, estimate, within
from softadv.errors import SoftadvError
from softadv.experiments.runs import FIGURES, NotRun, Run, images_of, value_of


@dataclass(frozen=True, kw_only=True)
class Gain:
    """In every setting, a figure of one method exceeds that of another by `above` to `below` points."""

    settings: list[str]
    figure: str
    method: str
    over: str
    above: float
    below: float | None = None

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")
        known(self.figure, list(FIGURES), key="figure")

    @property
    def claimed(self) -> tuple[float, float]:
        """The range in which the claim holds, in points."""
        return self.above, inf if self.below is None else self.below

    def answer(self, found: Estimate) -> Answer:
        """The answer of a difference to the claim in one setting."""
        return within(replace(found, claimed=self.claimed), ends_count=False)

    def decide(self, evidence: Evidence) -> Decision:
        found = for_each(self.settings, partial(self._look, evidence))
        above = f"{self.above:.2f}"
        claimed = f"claimed above {above}" if self.below is None else f"taken as {above} to {self.below:.2f}"
        return decision_from(found, claimed=claimed, note=evidence.assumptions(self.settings))

    def _look(self, evidence: Evidence, setting: str) -> Finding:
        values = differences(evidence.pairs(setting, self.method, self.over), self.figure)
        heading = f"{FIGURES[self.figure]}, {self.method} - {self.over}"
        found = estimate(values, label=f"{setting}: {heading}", unit="points", claimed=self.claimed)
        return Finding(heading=heading, name=setting, estimate=found, answer=self.answer(found))


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """In every setting, two methods differ by at most `margin` points in these figures: an equivalence test.

    beside: figures whose differences are only reported, where they were measured, and decide nothing.
    """

    settings: list[str]
    figures: list[str]
    margin: float
    method: str = "soft"
    over: str = "adversarial"
    beside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        need(1, self.settings, key="settings")
        need(1, self.figures, key="figures")
        for figure in (*self.figures, *self.beside):
            known(figure, list(FIGURES), key="figure")

    @property
    def claimed(self) -> tuple[float, float]:
        """The range in which the claim holds, in points."""
        return -self.margin, self.margin

    def answer(self, found: Estimate) -> Answer:
        """The answer of a difference to the claim in one setting."""
        return equivalent(found, margin=self.margin)

    def decide(self, evidence: Evidence) -> Decision:
        found = for_each(self.settings, partial(self._look, evidence))
        # Figure by figure, so that each is named once.
        deciding = [finding for of_figure in zip(*found, strict=True) for finding in of_figure]
        claimed, note = f"taken as within ±{self.margin:.2f}", evidence.assumptions(self.settings)
        return decision_from([*deciding, *self._beside(evidence)], claimed=claimed, note=note, equivalence=True)

    def _look(self, evidence: Evidence, setting: str) -> list[Finding]:
        return [self._difference(evidence, setting, figure, decides=True) for figure in self.figures]

    def _beside(self, evidence: Evidence) -> list[Finding]:
        found = []
        for figure in self.beside:
            for setting in self.settings:
                try:
                    found.append(self._difference(evidence, setting, figure, decides=False))
                except NotRun:
                    continue
        return found

    def _difference(self, evidence: Evidence, setting: str, figure: str, *, decides: bool) -> Finding:
        values = differences(evidence.pairs(setting, self.method, self.over), figure)
        heading = f"{FIGURES[figure]}, {self.method} - {self.over}"
        label = f"{setting}: {heading}"
        found = estimate(values, label=label, unit="points", claimed=self.claimed if decides else None)
        return Finding(heading=heading, name=setting, estimate=found, answer=self.answer(found) if decides else None)


@dataclass(frozen=True, kw_only=True)
class SettingsAlike:
    """A method's runs in the second setting of every pair differ from those in the first by at most a margin.

    pairs: of settings. margins: by figure, in points. Each is an equivalence test of the differences seed by seed.
    """

    pairs: list[list[str]]
    margins: dict[str, float]
    method: str = "soft"

    def __post_init__(self) -> None:
        need(1, self.pairs, key="pairs")
        need(1, list(self.margins), key="margins")
        if any(len(pair) != 2 for pair in self.pairs):
            raise SoftadvError("pairs: expected two settings in each")
        for figure in self.margins:
            known(figure, list(FIGURES), key="margins")

    def decide(self, evidence: Evidence) -> Decision:
        decisions = [self._of_figure(evidence, figure, margin) for figure, margin in self.margins.items()]
        return joint_decision(decisions)

    def _of_figure(self, evidence: Evidence, figure: str, margin: float) -> Decision:
        laters = {later: earlier for earlier, later in self.pairs}

        def look(later: str) -> Finding:
            pairs = [(run, before) for before, run in evidence.steps(laters[later], later, self.method)]
            values = differences(pairs, figure)
            heading = f"{FIGURES[figure]}, {self.method} training"
            name = f"{later} - {laters[later]}"
            found = estimate(values, label=f"{name}: {heading}", unit="points", claimed=(-margin, margin))
            return Finding(heading=heading, name=name, estimate=found, answer=equivalent(found, margin=margin))

        return decision_from(for_each(list(laters), look), claimed=f"taken as within ±{margin:.2f}", equivalence=True)


def differences(pairs: Sequence[tuple[Run, Run]], figure: str) -> list[float]:
    """A figure of the first run of each pair minus that of the second, in points.

    Raises NotRun as check_counts does.
    """
    check_counts(pairs, figure)
    # Rounded, so that equal differences of fractions are equal numbers.
    return [round(100 * (value_of(one, figure) - value_of(other, figure)), 9) for one, other in pairs]


def check_counts(pairs: Sequence[tuple[Run, Run]], figure: str) -> None:
    """Raise NotRun where a run lacks a figure, and where a pair was measured on different numbers of images."""
    for one, other in pairs:
        counts = images_of(one, figure), images_of(other, figure)
        if counts[0] != counts[1]:
            names = one.result.trial.name, other.result.trial.name
            raise NotRun(f"{FIGURES[figure]} of {names[0]} is on {counts[0]:,} images, of {names[1]} on {counts[1]:,}")
