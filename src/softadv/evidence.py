"""The finished runs that a claim may rest on, looked up by setting and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from softadv.entries import Entry
from softadv.runs import EpochMetrics, Result
from softadv.spec import Trial


class NotRun(Exception):
    """A claim's trials were not run; the message says which."""


@dataclass(frozen=True)
class Run:
    """One finished trial."""

    result: Result
    metrics: Sequence[EpochMetrics]

    @property
    def verified_share(self) -> float:
        """The verified fraction of the training images in the last epoch of soft training."""
        return (self.metrics[-1].verified or 0) / self.result.train_images


@dataclass(frozen=True, kw_only=True)
class Required:
    """What a trial must be like to count as a setting of a claim; the rest are assumptions that may vary."""

    dataset: str
    eps: float
    alpha: float
    steps: int
    epochs: int
    domain: str = "deeppoly"
    attack: str = "pgd"

    def shortfall(self, trial: Trial) -> str | None:
        """Why a trial does not count, or None when it does."""
        for key, wanted in vars(self).items():
            found = getattr(trial, key)
            if found != wanted:
                return f"{key} {_short(found)} instead of {_short(wanted)}"
        if trial.train_images is not None or trial.test_images is not None:
            return f"a part of the {trial.dataset} images"
        return None


@dataclass(frozen=True)
class Evidence:
    """Finished runs, and what the settings that claims speak of require of them."""

    runs: Sequence[Run]
    required: Mapping[str, Required]

    def of(self, setting: str, method: str) -> dict[int, Run]:
        """The runs of a method in a setting, by seed. Raises NotRun when there are none."""
        found = [r for r in self.runs if (r.result.trial.setting, r.result.trial.method) == (setting, method)]
        if not found:
            raise NotRun(f"no finished {method} run of {setting}")
        if setting in self.required:
            for run in found:
                shortfall = self.required[setting].shortfall(run.result.trial)
                if shortfall is not None:
                    raise NotRun(f"{setting} was run with {shortfall}")
        return {run.result.trial.seed: run for run in found}

    def pairs(self, setting: str, first: str, second: str) -> list[tuple[Run, Run]]:
        """The runs of two methods in a setting, seed by seed. Raises NotRun when no seed has both."""
        one, other = self.of(setting, first), self.of(setting, second)
        seeds = sorted(one.keys() & other.keys())
        if not seeds:
            raise NotRun(f"no seed of {setting} was run with both {first} and {second}")
        return [(one[seed], other[seed]) for seed in seeds]

    def mean(self, setting: str, method: str, what: str) -> float:
        """The mean over seeds of "natural_accuracy", "adversarial_accuracy" or "verified_share"."""
        return fmean(value_of(run, what) for run in self.of(setting, method).values())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def finished_runs(entries: Sequence[Entry]) -> list[Run]:
    """The finished trials of a grid's folder."""
    return [Run(entry.result, entry.epochs) for entry in entries if entry.result is not None]


def value_of(run: Run, what: str) -> float:
    """A figure of a run by name; "certified_accuracy" is by the domain of the trial's own certifier."""
    match what:
        case "natural_accuracy" | "adversarial_accuracy":
            return float(getattr(run.result, what))
        case "verified_share":
            return run.verified_share
        case "certified_accuracy":
            certified = run.result.certified_by(run.result.trial.domain)
            if certified is None:
                raise NotRun(f"{run.result.trial.name} certified no test images with {run.result.trial.domain}")
            return certified.accuracy
        case _:
            raise NotRun(f"no figure is named {what!r}")
