"""A rule that selects one of several methods on validation images, and then compares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from softadv.claims.decision import Decision, Finding, decision_from, figure, for_each, known, need
from softadv.claims.rules.methods import differences
from softadv.claims.selection import Evidence
from softadv.claims.stats import estimate, within
from softadv.experiments.runs import FIGURES, NotRun, Run
from softadv.training.early_stopping import final_epoch


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The candidate that matches a method's natural accuracy exceeds it by more than `above` points in every figure.

    The candidate is the one whose mean natural accuracy on the validation images, with the final weights, is nearest
    to the method's, over the seeds that both have. Test images take no part in the choice.
    """

    setting: str
    method: str
    candidates: list[str]
    figures: list[str]
    above: float

    def __post_init__(self) -> None:
        need(2, self.candidates, key="candidates")
        need(1, self.figures, key="figures")
        for name in self.figures:
            known(name, list(FIGURES), key="figure")

    def decide(self, evidence: Evidence) -> Decision:
        """Raises NotRun unless every candidate was run: the best of some is another claim."""
        found = for_each(self.candidates, lambda candidate: self._pairs(evidence, candidate))
        gaps = [_gap(pairs) for pairs in found]
        nearest = min(range(len(gaps)), key=lambda index: abs(gaps[index]))
        chosen, pairs = self.candidates[nearest], found[nearest]
        claimed = (self.above, inf)
        findings = []
        for name in self.figures:
            heading = f"{FIGURES[name]}, {chosen} - {self.method}"
            label = f"{self.setting}: {heading}"
            values = estimate(differences(pairs, name), label=label, unit="points", claimed=claimed)
            answer = within(values, ends_count=False)
            findings.append(Finding(heading=heading, name=self.setting, estimate=values, answer=answer))
        gap = figure(gaps[nearest], unit="points")
        choice = f"chosen on the validation images: {chosen}, with {gap} points natural accuracy there"
        notes = [choice, evidence.assumptions([self.setting])]
        return decision_from(findings, claimed=f"claimed above {self.above:.2f}", note="; ".join(filter(None, notes)))

    def _pairs(self, evidence: Evidence, candidate: str) -> list[tuple[Run, Run]]:
        return evidence.pairs(self.setting, candidate, self.method)


def _gap(pairs: Sequence[tuple[Run, Run]]) -> float:
    """The mean difference in natural accuracy on the validation images, in points."""
    return 100 * fmean(_validated(one) - _validated(other) for one, other in pairs)


def _validated(run: Run) -> float:
    trial = run.result.trial
    accuracy = None
    if trial.validation_images:
        accuracy = final_epoch(run.metrics, patience=trial.patience).validation_natural_accuracy
    if accuracy is None:
        raise NotRun(f"{trial.name} has no validation images to choose by")
    return accuracy
