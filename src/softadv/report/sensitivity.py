"""The sensitivity table: whether a verdict depends on a choice that the paper does not state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from softadv.claims.judge import Claim, Expectations
from softadv.claims.rules.methods import Comparable, Gain
from softadv.claims.stats import Answer, Estimate
from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import ASSUMPTIONS, setting_title, spec_value
from softadv.report.comparisons import MethodComparison, compare_methods, families
from softadv.report.intervals import in_range, interval_plot, shared_scale

JudgedClaim = tuple[Claim, Gain | Comparable]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A difference, soft - adversarial in points, and what it says of the claim that its column asks about."""

    estimate: Estimate
    answer: Answer | None  # None where no claim speaks of the base setting


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A setting that differs from its base in some assumptions; natural and adversarial accuracy."""

    setting: str
    changes: str  # the keys that differ from the base, with their values; empty for the base itself
    borrowed: bool
    natural: Judged | None
    adversarial: Judged | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The variations of one base setting, itself first."""

    title: str
    asked: tuple[str, str]  # what claim each of the two columns asks about; "" for none
    rows: tuple[Variation, ...]
    plots: tuple[str, ...]  # the same as SVG, a plot for each figure that any row has

    @property
    def told(self) -> str:
        """What the table says of the choices, in a sentence or two; "" where no claim is asked about."""
        if not any(self.asked):
            return ""
        base, *others = self.rows
        if not _decided(base, base):
            return "The first row is not decided, so that nothing is told of the choices."
        named: dict[str, list[str]] = {}
        for row in others:
            named.setdefault(_against(base, row), []).append(row.changes)
        return " ".join(f"{said} {'; '.join(named[said])}." for said in _SAID if said in named)


_SAID = ("A verdict changes with", "No verdict changes with", "Not decided:")


def sensitivities(
    entries: Sequence[Entry], expected: Sequence[Expectations] = (), words: Mapping[str, str] | None = None
) -> list[Sensitivity]:
    """A table for each base setting of soft training that has variations of it.

    expected: whose claims are asked of each by itself. words: what the settings are called.
    """
    found = []
    soft = {entry.trial.setting for entry in entries if entry.trial and entry.trial.method == "soft"}
    for family in families(all_series(entries)):
        members = [run for run in (family.base, *family.variations) if run.trial.setting in soft]
        if family.base in members and len(members) > 1:
            base = family.base.trial
            compared = [compare_methods(entries, run, base=family.base) for run in members]
            asked = [_asked(expected, base, figure) for figure in ("natural_accuracy", "adversarial_accuracy")]
            rows = _rows(compared, base, asked)
            found.append(
                Sensitivity(
                    title=setting_title(family.base),
                    asked=(_in_words(asked[0]), _in_words(asked[1])),
                    rows=rows,
                    plots=tuple(_plots(rows, words or {})),
                )
            )
    return found


def _asked(expected: Sequence[Expectations], base: Trial, figure: str) -> JudgedClaim | None:
    """The first claim about the difference of soft and adversarial training in this figure and this setting.

    None where the setting was not run as the claim requires. Variations depart from that on purpose.
    """
    for found in expected:
        required = found.required.get(base.setting)
        if required is not None and required.shortfall(base) is not None:
            continue
        for claim, rule in found.claims:
            match rule:
                case Gain(method="soft", over="adversarial") if rule.figure == figure and base.setting in rule.settings:
                    return claim, rule
                case Comparable(method="soft", over="adversarial") if (
                    figure in rule.figures and base.setting in rule.settings
                ):
                    return claim, rule
    return None


def _in_words(asked: JudgedClaim | None) -> str:
    if asked is None:
        return ""
    claim, rule = asked
    return f"as in claim {claim.id}, each setting by itself: {in_range(rule.claimed, unit='points')} points"


def _rows(
    compared: Sequence[MethodComparison], base: Trial, asked: Sequence[JudgedClaim | None]
) -> tuple[Variation, ...]:
    natural = _judged([comparison.natural for comparison in compared], asked[0])
    adversarial = _judged([comparison.adversarial for comparison in compared], asked[1])
    return tuple(
        Variation(
            setting=comparison.trial.setting,
            changes=", ".join(changes(comparison.trial, base)),
            borrowed=comparison.borrowed,
            natural=one,
            adversarial=other,
        )
        for comparison, one, other in zip(compared, natural, adversarial, strict=True)
    )


def _judged(column: Sequence[Estimate | None], asked: JudgedClaim | None) -> list[Judged | None]:
    rule = None if asked is None else asked[1]
    claimed = None if rule is None else rule.claimed
    return [
        Judged(estimate=replace(found, claimed=claimed), answer=None if rule is None else rule.answer(found))
        if found is not None
        else None
        for found in column
    ]


def _plots(rows: Sequence[Variation], words: Mapping[str, str]) -> Iterator[str]:
    for title in ("Natural accuracy", "Adversarial accuracy"):
        there = [
            (row, judged)
            for row in rows
            if (judged := row.natural if title.startswith("Natural") else row.adversarial) is not None
        ]
        if there:
            shown = [judged.estimate for _, judged in there]
            names = [row.changes or "base setting" for row, _ in there]
            yield interval_plot(shown, limits=shared_scale(shown), words=words, names=names, title=title)


def _decided(base: Variation, row: Variation) -> list[tuple[Answer, Answer]]:
    """The answers of both in the columns in which both have one that settles something."""
    pairs = [
        (one.answer, other.answer)
        for one, other in ((base.natural, row.natural), (base.adversarial, row.adversarial))
        if one is not None and other is not None and one.answer is not None and other.answer is not None
    ]
    return [pair for pair in pairs if "inconclusive" not in pair]


def _against(base: Variation, row: Variation) -> str:
    decided = _decided(base, row)
    if any(one != other for one, other in decided):
        return _SAID[0]
    return _SAID[1] if len(decided) == len(_decided(base, base)) else _SAID[2]


def changes(trial: Trial, base: Trial) -> list[str]:
    """The keys in which a setting differs from its base, such as "update: two-pass"."""
    keys = ("epochs", *ASSUMPTIONS)
    return [
        f"{key.replace('_', ' ')}: {spec_value(trial, key)}"
        for key in keys
        if getattr(trial, key) != getattr(base, key)
    ]
