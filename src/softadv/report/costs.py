"""What the finished trials cost: seconds, steps of the attack, images certified; a table for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from softadv.experiments.records import Result
from softadv.experiments.runs import Entry
from softadv.experiments.spec import Method, Trial
from softadv.experiments.spec_text import Series, by_method, by_setting, setting_title
from softadv.training.records import EpochMetrics

PARTS = ("attack", "certification", "update", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One method of one setting, means over its finished trials; texts are ready to show."""

    method: Method
    title: str
    trials: int
    seconds: tuple[str, ...]  # of PARTS, then what is measured after the last epoch, then all
    steps: str  # millions of attack steps on one image, in training
    splits: str
    certified: str  # training images that the certifier was asked about, at each split


@dataclass(frozen=True, kw_only=True)
class CostGroup:
    """One setting in the table of costs."""

    title: str
    rows: tuple[Cost, ...]


def cost_groups(entries: Sequence[Entry]) -> list[CostGroup]:
    """The costs of all finished trials, by setting and method."""
    finished = [Series(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.result]
    results = {entry.trial: entry.result for entry in entries if entry.trial and entry.result}
    groups = []
    for runs in by_setting(finished).values():
        rows = tuple(
            _cost(method, same, [results[run.trial] for run in same]) for method, same in by_method(runs).items()
        )
        groups.append(CostGroup(title=setting_title(runs[0].trial), rows=rows))
    return groups


def _cost(method: Method, runs: Sequence[Series], results: Sequence[Result]) -> Cost:
    parts = [fmean(sum(getattr(epoch, f"{part}_seconds") for epoch in run.epochs) for run in runs) for part in PARTS]
    parts.append(fmean(_afterwards(result) for result in results))
    # Other attacks of Torchattacks need not take the spec's steps.
    counted = runs[0].trial.attack in ("pgd", "torchattacks:PGD")
    steps = [
        attack_steps(run.trial, run.epochs, train_images=result.train_images)
        for run, result in zip(runs, results, strict=True)
    ]
    asked = [images for run in runs for images in certified_images(run.trial, run.epochs)]
    return Cost(
        method=method,
        title=method.capitalize(),
        trials=len(runs),
        seconds=tuple(seconds_text(value) for value in (*parts, sum(parts))),
        steps=f"{fmean(steps) / 1e6:,.1f}" if counted else "\N{EN DASH}",
        splits=f"{len(asked) / len(runs):g}" if asked else "\N{EN DASH}",
        certified=f"{fmean(asked):,.0f}" if asked else "\N{EN DASH}",
    )


def attack_steps(trial: Trial, epochs: Sequence[EpochMetrics], *, train_images: int) -> int:
    """Steps of the attack in training, each on one image: the attacked images of every epoch, times the steps."""
    attacked = 0
    for epoch in epochs:
        if trial.method == "natural" or epoch.epoch <= trial.natural_epochs:
            continue
        attacked += train_images - (epoch.verified or 0)  # adversarial training verifies none
    return attacked * trial.steps


def certified_images(trial: Trial, epochs: Sequence[EpochMetrics]) -> list[int]:
    """For each split of the training set, the images that the certifier was asked about: those classified correctly."""
    return [
        (epoch.unverified or 0) + (epoch.verified or 0)
        for epoch in epochs
        if trial.method == "soft"
        and epoch.epoch > trial.natural_epochs
        and (epoch.epoch - 1 - trial.natural_epochs) % trial.split_every == 0
    ]


def seconds_text(seconds: float) -> str:
    """Seconds with a decimal where it says something."""
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _afterwards(result: Result) -> float:
    """Seconds of certifying and attacking test images with the final weights."""
    attacked = result.autoattack.seconds if result.autoattack else 0.0
    return sum(certified.seconds for certified in result.certified) + attacked
