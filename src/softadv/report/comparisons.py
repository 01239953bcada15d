"""Soft training against the others, seed by seed, in every setting: what the page's answer rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from softadv.claims.stats import Estimate, estimate
from softadv.data import dataset_title
from softadv.experiments.runs import Entry
from softadv.experiments.spec import Method, Trial
from softadv.experiments.spec_text import Series, by_setting, choices, fraction

Accuracy = Literal["natural_accuracy", "adversarial_accuracy"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Settings that share dataset, eps, alpha and steps: the base, and what varies its assumptions.

    The base is the setting with the fewest assumptions that are not the default, as a rule none.
    """

    base: Trial  # one trial of each setting stands for it
    variations: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Soft training in one setting; each estimate is None where no seed has finished both sides."""

    trial: Trial
    title: str
    natural: Estimate | None  # natural accuracy, soft - adversarial
    adversarial: Estimate | None  # adversarial accuracy, soft - adversarial
    retained: Estimate | None  # natural accuracy, soft - natural training
    borrowed: bool  # whether the adversarial training is that of another setting


def families(trials: Sequence[Trial]) -> list[Family]:
    """The settings of these trials by what they share, in the order of the figures."""
    settings = [runs[0].trial for runs in by_setting([Series(trial=trial, epochs=()) for trial in trials]).values()]
    shared: dict[tuple[str, float, float, int], list[Trial]] = {}
    for trial in settings:
        shared.setdefault((trial.dataset, trial.eps, trial.alpha, trial.steps), []).append(trial)
    found = []
    for members in shared.values():
        base = min(members, key=lambda trial: len(choices(trial)))  # the first of equals
        found.append(Family(base=base, variations=tuple(trial for trial in members if trial != base)))
    return found


def compare(entries: Sequence[Entry], trial: Trial, *, base: Trial | None = None) -> Comparison:
    """What the finished trials of a setting say. base: whose adversarial training stands in where it has none."""
    own = {entry.trial.method for entry in entries if entry.trial and entry.trial.setting == trial.setting}
    partner = trial if base is None or "adversarial" in own else base
    return Comparison(
        trial=trial,
        title=place(trial),
        natural=_difference(entries, "natural_accuracy", trial, over="adversarial", of=partner),
        adversarial=_difference(entries, "adversarial_accuracy", trial, over="adversarial", of=partner),
        retained=_difference(entries, "natural_accuracy", trial, over="natural", of=trial),
        borrowed=partner != trial,
    )


def place(trial: Trial) -> str:
    """A setting in as few words as tell it from the paper's others."""
    return f"{dataset_title(trial.dataset)} at ε {fraction(trial.eps)}"


def _difference(
    entries: Sequence[Entry], figure: Accuracy, trial: Trial, *, over: Method, of: Trial
) -> Estimate | None:
    """Soft training's figure minus that of another method, in points, over the seeds that have both."""
    soft = _by_seed(entries, figure, trial, method="soft")
    other = _by_seed(entries, figure, of, method=over)
    # Rounded as in the claims, so that equal differences of fractions are equal numbers.
    values = [round(100 * (soft[seed] - other[seed]), 9) for seed in sorted(soft.keys() & other.keys())]
    if not values:
        return None
    return estimate(values, label=f"{place(trial)}: {figure.replace('_', ' ')}, soft - {over}", unit="points")


def _by_seed(entries: Sequence[Entry], figure: Accuracy, trial: Trial, *, method: Method) -> dict[int, float]:
    results = [entry.result for entry in entries if entry.result]
    return {
        result.trial.seed: float(getattr(result, figure))
        for result in results
        if result.trial.setting == trial.setting and result.trial.method == method
    }


def asks_for_soft(entries: Sequence[Entry], trial: Trial) -> bool:
    """Whether a setting has soft trials, so that there is something to compare."""
    return any(e.trial and e.trial.setting == trial.setting and e.trial.method == "soft" for e in entries)
