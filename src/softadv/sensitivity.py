"""The sensitivity table: whether the answer hangs on a choice that the paper does not state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softadv.comparisons import Comparison, compare, families
from softadv.entries import Entry
from softadv.intervals import Bar, bars
from softadv.series import ASSUMPTIONS, setting_title, spec_value
from softadv.spec import Trial


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A setting that differs from its base in some assumptions; natural, adversarial: soft - adversarial, in points."""

    setting: str
    changes: str  # the keys that differ from the base, with their values; empty for the base itself
    borrowed: bool
    natural: Bar | None
    adversarial: Bar | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The variations of one base setting, itself first."""

    title: str
    rows: tuple[Variation, ...]


def sensitivities(entries: Sequence[Entry]) -> list[Sensitivity]:
    """A table for each base setting that has variations."""
    found = []
    for family in families([entry.trial for entry in entries if entry.trial]):
        if family.variations:
            members = (family.base, *family.variations)
            compared = [compare(entries, trial, base=family.base) for trial in members]
            found.append(Sensitivity(title=setting_title(family.base), rows=_rows(compared, family.base)))
    return found


def _rows(compared: Sequence[Comparison], base: Trial) -> tuple[Variation, ...]:
    # One scale for each column, so that its bars can be compared.
    natural = bars([comparison.natural for comparison in compared])
    adversarial = bars([comparison.adversarial for comparison in compared])
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


def changes(trial: Trial, base: Trial) -> list[str]:
    """The keys in which a setting differs from its base, such as "update: two-pass"."""
    keys = ("epochs", *ASSUMPTIONS)
    return [f"{key}: {spec_value(trial, key)}" for key in keys if getattr(trial, key) != getattr(base, key)]
