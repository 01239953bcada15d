"""The table of costs: seconds, attack steps and certified images of the finished trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from softadv.experiments.estimate import end_seconds
from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import Series, by_method, by_setting, setting_title
from softadv.report.words import method_label
from softadv.training.method_names import parse_method
from softadv.training.records import PARTS, EpochMetrics

# The methods that attack each image they choose once, with all steps. Of another the records do not tell the steps:
# survivors attacks every image once more to choose, fat stops early, and one of your own may do either.
_ATTACK_ONCE = ("natural", "adversarial", "soft", "random", "confident", "inverted", "trades")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One method of one setting, means over its finished trials; texts are ready to show."""

    title: str
    color: str
    trials: int
    seconds: tuple[str, ...]  # of PARTS, then what is measured after the last epoch, then all
    steps: str  # millions of attack steps on one image, in training
    splits: str
    certified: str  # correctly classified training images, at each split
    own_loss: bool  # updated by autograd, not by the compiled kernel


@dataclass(frozen=True, kw_only=True)
class CostGroup:
    """One setting in the table of costs."""

    title: str
    rows: tuple[Cost, ...]


def cost_groups(entries: Sequence[Entry]) -> list[CostGroup]:
    """The costs of all finished trials, by setting and method."""
    finished = [run for run in all_series(entries) if run.result]
    return [
        CostGroup(title=setting_title(runs[0]), rows=tuple(_cost(same) for same in by_method(runs).values()))
        for runs in by_setting(finished).values()
    ]


def own_losses(groups: Sequence[CostGroup]) -> list[str]:
    """The titles of methods with a loss that only autograd differentiates."""
    return list(dict.fromkeys(row.title for group in groups for row in group.rows if row.own_loss))


def _cost(runs: Sequence[Series]) -> Cost:
    results = [run.result for run in runs if run.result]
    trial, names = runs[0].trial, runs[0].names
    parts = [fmean(sum(getattr(epoch, f"{part}_seconds") for epoch in run.epochs) for run in runs) for part in PARTS]
    parts.append(fmean(end_seconds(result) for result in results))
    # Other attacks of Torchattacks need not take the spec's steps.
    counted = trial.attack in ("pgd", "torchattacks:PGD")
    steps = [
        count
        for run, result in zip(runs, results, strict=True)
        if (count := attack_steps(run.trial, run.epochs, train_images=result.trained_images)) is not None
    ]
    asked = [images for run in runs for images in certified_images(run.trial, run.epochs)]
    return Cost(
        title=method_label(trial.method, names),
        color=names.method_color,
        trials=len(runs),
        seconds=tuple(seconds_text(value) for value in (*parts, sum(parts))),
        steps=f"{fmean(steps) / 1e6:,.1f}" if counted and len(steps) == len(runs) else "\N{EN DASH}",
        splits=f"{len(asked) / len(runs):g}" if asked else "\N{EN DASH}",
        certified=f"{fmean(asked):,.0f}" if asked else "\N{EN DASH}",
        own_loss=any(result.own_loss for result in results),
    )


def attack_steps(trial: Trial, epochs: Sequence[EpochMetrics], *, train_images: int) -> int | None:
    """Steps of the attack in training, each on one image: the attacked images of every epoch, times the steps.

    None where an epoch does not say how many it attacked and its method does not tell, and for a method that is not
    known to attack each of these images once, with all steps.
    """
    if parse_method(trial.method)[0] not in _ATTACK_ONCE:
        return None
    counts = [_attacked(trial, epoch, train_images=train_images) for epoch in epochs]
    known = [count for count in counts if count is not None]
    return sum(known) * trial.steps if len(known) == len(counts) else None


def _attacked(trial: Trial, epoch: EpochMetrics, *, train_images: int) -> int | None:
    if epoch.attacked is not None:
        return epoch.attacked
    # Old records do not have it, and there were three methods then.
    if trial.method == "natural" or epoch.epoch <= trial.natural_epochs:
        return 0
    if trial.method == "adversarial":
        return train_images
    return train_images - epoch.verified if trial.method == "soft" and epoch.verified is not None else None


def certified_images(trial: Trial, epochs: Sequence[EpochMetrics]) -> list[int]:
    """For each split of the training set, the images classified correctly: those that can be verified."""
    return [
        (epoch.unverified or 0) + (epoch.verified or 0) if epoch.certified is None else epoch.certified
        for epoch in epochs
        if (trial.method == "soft" or epoch.certifier is not None)  # of old, soft epochs did not name it
        and epoch.epoch > trial.natural_epochs
        and (epoch.epoch - 1 - trial.natural_epochs) % trial.split_every == 0
    ]


def seconds_text(seconds: float) -> str:
    """Seconds with a decimal where it says something."""
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"
