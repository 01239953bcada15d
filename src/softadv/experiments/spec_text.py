"""Runs grouped and averaged for the report, and the words for them; no drawing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields

from softadv.data import KNOWN
from softadv.experiments.names import Names, method_rank, names_of
from softadv.experiments.records import Result
from softadv.experiments.spec import Trial
from softadv.training.records import EpochMetrics

# The keys that the paper leaves open, without those that only affect measurements.
ASSUMPTIONS = tuple(
    field.name
    for field in fields(Trial)
    if field.default is not MISSING
    and field.name
    not in ("evaluate_every", "test_images", "certified_images", "certified_domains", "autoattack_images")
)
DOMAIN_TITLES = {"deeppoly": "DeepPoly", "deepzono": "DeepZono", "box": "Box"}

_ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One trial, its finished epochs and, once it has finished, its result; most figures need an epoch.

    named: what the page calls the method and the data set; None leaves that to the spec.
    """

    trial: Trial
    epochs: tuple[EpochMetrics, ...] = ()
    result: Result | None = None
    named: Names | None = None

    @property
    def names(self) -> Names:
        """What the method and the data set are called."""
        return names_of(self.trial, self.named)

    @property
    def accuracies(self) -> tuple[float, float] | None:
        """Natural and adversarial accuracy of the result, else after the last epoch that was evaluated."""
        if self.result is not None:
            return self.result.natural_accuracy, self.result.adversarial_accuracy
        for epoch in reversed(self.epochs):
            ends: tuple[float | None, ...] = (epoch.natural_accuracy, epoch.adversarial_accuracy)
            if ends[0] is not None and ends[1] is not None:
                return ends[0], ends[1]
        return None


def by_setting(runs: Sequence[Series]) -> dict[str, list[Series]]:
    """The runs of each setting: by dataset, then eps, as the paper orders its figures; datasets of one's own last."""
    known = list(KNOWN)
    ordered = sorted(
        runs,
        key=lambda run: (
            known.index(run.trial.dataset) if run.trial.dataset in known else len(known),
            run.trial.dataset,
            run.trial.eps,
            run.trial.setting,
            run.trial.seed,
        ),
    )
    return {setting: [r for r in ordered if r.trial.setting == setting] for setting in _unique(ordered)}


def by_method(runs: Sequence[Series]) -> dict[str, list[Series]]:
    """The runs of each method that has any, in the order natural, adversarial, soft, then the others by name."""
    methods = sorted({run.trial.method for run in runs}, key=method_rank)
    return {method: [run for run in runs if run.trial.method == method] for method in methods}


def fraction(value: float) -> str:
    """A number of the spec as the paper writes it: 0.1 as it is, 0.0313... as 8/255."""
    short = f"{value:.4g}"
    numerator = round(value * 255)
    if float(short) != value and numerator and abs(value * 255 - numerator) < 1e-6:
        return f"{numerator}/255"
    return short


def spec_value(trial: Trial, key: str) -> str:
    """The value of a key of the spec, for people."""
    value = getattr(trial, key)
    if value is None:
        return "all" if key.endswith("_images") else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return fraction(value) if key in ("eps", "alpha") else str(value)


def choices(trial: Trial) -> list[str]:
    """The assumptions of a trial that are not the default, such as "update: two-pass"."""
    defaults = {field.name: field.default for field in fields(Trial)}
    told = [key for key in ASSUMPTIONS if getattr(trial, key) != defaults[key]]
    return [f"{key.replace('_', ' ')}: {spec_value(trial, key)}" for key in told]


def setting_title(run: Series) -> str:
    """What a setting is, in the words of the captions of the paper's figures 5 and 6; then what is not the default.

    run: any of the setting.
    """
    trial = run.trial
    numbers = (
        f"Epochs: {trial.epochs}",
        f"ε: {fraction(trial.eps)}",
        f"Steps: {trial.steps}",
        f"{_ALPHA}: {fraction(trial.alpha)}",
    )
    return "   ".join((run.names.dataset_title, *numbers, *choices(trial)))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation where there are two values or more."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def per_epoch(
    runs: Sequence[Series], value: Callable[[EpochMetrics], float | None]
) -> dict[int, tuple[float, float | None]]:
    """Mean and deviation over the runs, by epoch: those that all have finished and in which all have the value."""
    found = {}
    for same in zip(*(run.epochs for run in runs), strict=False):
        values = [number for epoch in same if (number := value(epoch)) is not None]
        if len(values) == len(runs):
            found[same[0].epoch] = mean_and_deviation(values)
    return found


def _unique(runs: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(run.trial.setting for run in runs))
