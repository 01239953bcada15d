"""Comparisons of methods, seed by seed, in every setting; the page's answer is based on them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from softadv.claims.selection import mixed, other_images
from softadv.claims.stats import Estimate, estimate
from softadv.experiments.names import method_rank, within_sentence
from softadv.experiments.records import Result
from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import Series, by_setting, choices, fraction
from softadv.report.words import method_label

AccuracyKind = Literal["natural_accuracy", "adversarial_accuracy"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Settings that share dataset, eps, alpha and steps: the base, and what varies its assumptions.

    One run stands for each. The base is the setting with the fewest assumptions that are not the default, as a rule
    none.
    """

    base: Series
    variations: tuple[Series, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of all, the base first."""
        return tuple(run.trial.setting for run in (self.base, *self.variations))


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """One method minus another in one setting; an estimate is None where no seed has finished both alike."""

    trial: Trial
    place: str  # the setting, in a few words
    method: str
    over: str
    title: str  # such as "Soft − adversarial"
    natural: Estimate | None  # difference of natural accuracies
    adversarial: Estimate | None  # and of adversarial ones
    borrowed: bool = False  # whether the other method's trials are those of another setting


def families(runs: Sequence[Series]) -> list[Family]:
    """The settings of these runs by what they share, in the order of the figures."""
    shared: dict[tuple[str, float, float, int], list[Series]] = {}
    for same in by_setting(runs).values():
        trial = same[0].trial
        shared.setdefault((trial.dataset, trial.eps, trial.alpha, trial.steps), []).append(same[0])
    found = []
    for members in shared.values():
        base = min(members, key=lambda run: len(choices(run.trial)))  # the first of equals
        found.append(Family(base=base, variations=tuple(run for run in members if run is not base)))
    return found


def comparisons(entries: Sequence[Entry]) -> list[MethodComparison]:
    """Each method against adversarial training, then soft training against each other method; setting by setting.

    The settings are those of the paper's sort, without the variations that the sensitivity table has: a variation
    is among them where it has other methods than the paper's three, or no soft training.
    """
    found = []
    runs = all_series(entries)
    for family in families(runs):
        for run in (family.base, *family.variations):
            methods = _methods(runs, run.trial.setting)
            others = [method for method in methods if method not in ("natural", "adversarial", "soft")]
            if run is family.base or others or "soft" not in methods:
                found += [compare_methods(entries, run, method, over) for method, over in _pairs(methods)]
    return found


def _pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    first = ["soft"] if "soft" in methods else []
    rest = [method for method in methods if method not in ("soft", "adversarial")]
    pairs = [(method, "adversarial") for method in (*first, *rest) if "adversarial" in methods]
    return pairs + [("soft", method) for method in rest if first]


def compare_methods(
    entries: Sequence[Entry],
    run: Series,
    method: str = "soft",
    over: str = "adversarial",
    *,
    base: Series | None = None,
) -> MethodComparison:
    """One method minus another, over the finished trials of a setting; nothing where these are no comparison.

    run: any of the setting. base: of the setting whose trials of the other method stand in where this one has none.
    """
    runs = all_series(entries)
    partner = run if base is None or over in _methods(runs, run.trial.setting) else base
    titles: dict[str, str] = {it.trial.method: method_label(it.trial.method, it.names) for it in runs}
    one, other = titles.get(method, method.capitalize()), within_sentence(titles.get(over, over))
    natural, adversarial = (
        _difference(runs, figure, run, partner, method=method, over=over)
        for figure in ("natural_accuracy", "adversarial_accuracy")
    )
    return MethodComparison(
        trial=run.trial,
        place=place(run),
        method=method,
        over=over,
        title=f"{one} − {other}",
        natural=natural,
        adversarial=adversarial,
        borrowed=partner is not run,
    )


def mixed_remarks(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each setting whose finished trials are no comparison, and why."""
    runs = all_series(entries)
    settings = {setting: _mixed(runs, setting) for setting in by_setting(runs)}
    return [f"{setting}: its methods are not compared, {why}." for setting, why in settings.items() if why]


def place(run: Series) -> str:
    """A setting in as few words as tell it from the paper's others. run: any of it."""
    return f"{run.names.dataset_title} at ε {fraction(run.trial.eps)}"


def _mixed(runs: Sequence[Series], setting: str) -> str | None:
    return mixed(_results(runs, {setting}))


def _results(runs: Sequence[Series], settings: Set[str]) -> list[Result]:
    return [run.result for run in runs if run.result and run.trial.setting in settings]


def _methods(runs: Sequence[Series], setting: str) -> list[str]:
    return sorted({run.trial.method for run in runs if run.trial.setting == setting}, key=method_rank)


def _difference(
    runs: Sequence[Series], figure: AccuracyKind, run: Series, partner: Series, *, method: str, over: str
) -> Estimate | None:
    """The figure of one method minus that of another, in points, over the seeds that have both."""
    one = _by_seed(runs, figure, run.trial.setting, method)
    other = _by_seed(runs, figure, partner.trial.setting, over)
    settings = {run.trial.setting, partner.trial.setting}
    if any(_mixed(runs, setting) for setting in settings) or other_images(_results(runs, settings)):
        return None
    # Rounded as in the claims, so that equal differences of fractions are equal numbers.
    values = [round(100 * (one[seed] - other[seed]), 9) for seed in sorted(one.keys() & other.keys())]
    if not values:
        return None
    label = f"{place(run)}: {figure.replace('_', ' ')}, {method} - {over}"
    return estimate(values, label=label, unit="points")


def _by_seed(runs: Sequence[Series], figure: AccuracyKind, setting: str, method: str) -> dict[int, float]:
    return {
        run.trial.seed: float(getattr(run.result, figure))
        for run in runs
        if run.result and run.trial.setting == setting and run.trial.method == method
    }
