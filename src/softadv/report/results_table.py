"""The report's table of results: a group for each setting, a row for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softadv._decimals import spread
from softadv.experiments.records import Result
from softadv.experiments.runs import Entry
from softadv.experiments.spec import Method
from softadv.experiments.spec_text import DOMAIN_TITLES, Series, by_method, by_setting, setting_title


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of one setting in the results table; texts are ready to show."""

    method: Method
    title: str
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
    rows: tuple[Row, ...]


def result_groups(entries: Sequence[Entry]) -> list[Group]:
    """The table of all finished trials; methods without one have a row that says so."""
    known = [Series(trial=entry.trial, epochs=entry.epochs) for entry in entries if entry.trial]
    groups = []
    for setting, runs in by_setting(known).items():
        its_entries = [entry for entry in entries if entry.trial and entry.trial.setting == setting]
        rows = tuple(_row(method, its_entries, certified_domains(entries)) for method in by_method(runs))
        results = [entry.result for entry in its_entries if entry.result]
        images = _images(results) if results else ""
        groups.append(Group(title=setting_title(runs[0].trial), images=images, rows=rows))
    return groups


def _row(method: Method, entries: Sequence[Entry], domains: Sequence[str]) -> Row:
    asked = [entry for entry in entries if entry.trial and entry.trial.method == method]
    done = [(entry.result, entry.epochs) for entry in asked if entry.result and entry.epochs]
    seeds = str(len(done)) if len(done) == len(asked) else f"{len(done)} of {len(asked)}"
    if not done:
        return Row(method=method, title=method.capitalize(), seeds=seeds)
    results = [result for result, _ in done]
    certified = [[c for result in results if (c := result.certified_by(domain))] for domain in domains]
    shares = [last.verified / result.train_images for result, (*_, last) in done if last.verified is not None]
    return Row(
        method=method,
        title=method.capitalize(),
        seeds=seeds,
        accuracies=(
            _percent([r.natural_accuracy for r in results]),
            _percent([r.adversarial_accuracy for r in results]),
        ),
        autoattack=_percent([r.autoattack.accuracy for r in results if r.autoattack]),
        certified=tuple(_percent([c.accuracy for c in found]) for found in certified),
        verified_share=_percent(shares),
    )


def _percent(values: Sequence[float]) -> str:
    return spread(values) if values else "\N{EN DASH}"


def _images(results: Sequence[Result]) -> str:
    first = results[0]
    text = f"{first.train_images:,} training and {first.test_images:,} test images"
    counts = sorted({c.images for r in results for c in r.certified} - {first.test_images})
    text += f", certified on the first {counts[0]:,} of these" if counts else ""
    attacked = sorted({r.autoattack.images for r in results if r.autoattack} - {first.test_images})
    return text + (f", AutoAttack on the first {attacked[0]:,}" if attacked else "")


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
