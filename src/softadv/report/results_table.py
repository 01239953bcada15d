"""The report's table of results: a group for each setting, a row for each method."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from softadv._decimals import spread
from softadv.experiments.records import Result
from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec_text import DOMAIN_TITLES, Series, by_method, by_setting, setting_title
from softadv.report.words import method_label


@dataclass(frozen=True, kw_only=True)
class MethodResults:
    """One method of one setting in the results table; texts are ready to show."""

    title: str
    color: str
    seeds: str
    accuracies: tuple[str, ...] = ()  # natural, adversarial by the attack of the training
    autoattack: str = ""
    certified: tuple[str, ...] = ()  # by each domain
    verified_share: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One setting in the results table."""

    title: str
    images: str
    rows: tuple[MethodResults, ...]


def result_groups(entries: Sequence[Entry]) -> list[Group]:
    """The table of all finished trials; methods without one have a row that says so."""
    groups = []
    for runs in by_setting(all_series(entries)).values():
        rows = tuple(_row(same, certified_domains(entries)) for same in by_method(runs).values())
        results = [run.result for run in runs if run.result]
        images = _images(results) if results else ""
        groups.append(Group(title=setting_title(runs[0]), images=images, rows=rows))
    return groups


def _row(asked: Sequence[Series], domains: Sequence[str]) -> MethodResults:
    title, color = method_label(asked[0].trial.method, asked[0].names), asked[0].names.method_color
    done = [(run.result, run.epochs) for run in asked if run.result and run.epochs]
    seeds = str(len(done)) if len(done) == len(asked) else f"{len(done)} of {len(asked)}"
    if not done:
        return MethodResults(title=title, color=color, seeds=seeds)
    results = [result for result, _ in done]
    certified = [[c for result in results if (c := result.certified_by(domain))] for domain in domains]
    shares = [last.verified / result.trained_images for result, (*_, last) in done if last.verified is not None]
    attacked = [r.autoattack for r in results if r.autoattack]
    return MethodResults(
        title=title,
        color=color,
        seeds=seeds,
        accuracies=(spread([r.natural_accuracy for r in results]), spread([r.adversarial_accuracy for r in results])),
        autoattack=_percent([found.accuracy for found in attacked], of=len(results)),
        certified=tuple(_percent([c.accuracy for c in found], of=len(results)) for found in certified),
        verified_share=_percent(shares, of=len(results)),
    )


def _percent(values: Sequence[float], *, of: int) -> str:
    """Mean and deviation; of how many seeds, where not all have a value."""
    if not values:
        return "\N{EN DASH}"
    return spread(values) + (f" ({len(values)} of {of})" if len(values) < of else "")


def _images(results: Sequence[Result]) -> str:
    first = results[0]
    text = f"{first.train_images:,} training and {first.test_images:,} test images"
    certified = {c.images for r in results for c in r.certified}
    attacked = {r.autoattack.images for r in results if r.autoattack}
    text += f", certified on the first {_counts(certified)} of these" if certified - {first.test_images} else ""
    return text + (f", AutoAttack on the first {_counts(attacked)}" if attacked - {first.test_images} else "")


def _counts(found: Set[int]) -> str:
    return " or ".join(f"{count:,}" for count in sorted(found))


def has_autoattack(entries: Sequence[Entry]) -> bool:
    """Whether any finished trial was attacked by AutoAttack."""
    return any(entry.result.autoattack is not None for entry in entries if entry.result)


def attack_title(entries: Sequence[Entry]) -> str:
    """What to call the attack of the training, which also measures adversarial accuracy."""
    return "PGD" if all(entry.trial.attack == "pgd" for entry in entries if entry.trial) else "Attacked"


def certified_domains(entries: Sequence[Entry]) -> list[str]:
    """The domains that certified any test images, from the most precise on."""
    used = {c.domain for entry in entries if entry.result for c in entry.result.certified}
    return sorted(used, key=lambda domain: [*DOMAIN_TITLES, domain].index(domain))
