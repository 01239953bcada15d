"""The sensitivity table: whether a verdict hangs on a choice that the paper does not state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from softadv.claims import Claim
from softadv.comparisons import Comparison, compare, families
from softadv.decisions import Rule
from softadv.entries import Entry
from softadv.estimates import Answer, Estimate
from softadv.intervals import Bar, bars, in_range
from softadv.method_rules import Comparable, Gain
from softadv.series import ASSUMPTIONS, setting_title, spec_value
from softadv.spec import Trial

Asked = tuple[Claim, Gain | Comparable]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A difference, soft - adversarial in points, and what it says of the claim that its column asks about."""

    bar: Bar
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

    @property
    def hangs(self) -> tuple[str, ...]:
        """The variations in which a verdict is not what it is for the base, by their keys."""
        base = self.rows[0]
        return tuple(row.changes for row in self.rows[1:] if _differs(base, row))


def sensitivities(entries: Sequence[Entry], claims: Sequence[tuple[Claim, Rule]] = ()) -> list[Sensitivity]:
    """A table for each base setting that has variations; claims: what is asked of each setting by itself."""
    found = []
    for family in families([entry.trial for entry in entries if entry.trial]):
        if family.variations:
            members = (family.base, *family.variations)
            compared = [compare(entries, trial, base=family.base) for trial in members]
            asked = [_asked(claims, family.base, figure) for figure in ("natural_accuracy", "adversarial_accuracy")]
            found.append(
                Sensitivity(
                    title=setting_title(family.base),
                    asked=(_in_words(asked[0]), _in_words(asked[1])),
                    rows=_rows(compared, family.base, asked),
                )
            )
    return found


def _asked(claims: Sequence[tuple[Claim, Rule]], base: Trial, figure: str) -> Asked | None:
    """The first claim about the difference of soft and adversarial training in this figure and this setting."""
    for claim, rule in claims:
        match rule:
            case Gain(method="soft", over="adversarial") if rule.figure == figure and base.setting in rule.settings:
                return claim, rule
            case Comparable(method="soft", over="adversarial") if (
                figure in rule.figures and base.setting in rule.settings
            ):
                return claim, rule
    return None


def _in_words(asked: Asked | None) -> str:
    if asked is None:
        return ""
    claim, rule = asked
    return f"as in claim {claim.id}, of each setting by itself: {in_range(rule.claimed, unit='points')} points"


def _rows(compared: Sequence[Comparison], base: Trial, asked: Sequence[Asked | None]) -> tuple[Variation, ...]:
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


def _judged(column: Sequence[Estimate | None], asked: Asked | None) -> list[Judged | None]:
    rule = None if asked is None else asked[1]
    claimed = None if rule is None else rule.claimed
    # One scale for each column, so that its bars can be compared.
    drawn = bars([found and replace(found, claimed=claimed) for found in column])
    answers = [None if rule is None or found is None else rule.answer(found) for found in column]
    return [Judged(bar=bar, answer=answer) if bar else None for bar, answer in zip(drawn, answers, strict=True)]


def _differs(base: Variation, row: Variation) -> bool:
    pairs = ((base.natural, row.natural), (base.adversarial, row.adversarial))
    return any(one and other and one.answer != other.answer for one, other in pairs)


def changes(trial: Trial, base: Trial) -> list[str]:
    """The keys in which a setting differs from its base, such as "update: two-pass"."""
    keys = ("epochs", *ASSUMPTIONS)
    return [f"{key}: {spec_value(trial, key)}" for key in keys if getattr(trial, key) != getattr(base, key)]
