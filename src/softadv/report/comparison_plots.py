"""Method against method on the page: two plots for each setting, and the same numbers for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softadv.claims.stats import Estimate
from softadv.report.comparisons import MethodComparison
from softadv.report.intervals import interval_plot, shared_scale

_FIGURES = (("Natural accuracy", "natural"), ("Adversarial accuracy", "adversarial"))


@dataclass(frozen=True, kw_only=True)
class ComparisonGroup:
    """The comparisons of one setting. plots: as SVG; natural training, so much less robust, has its own scale."""

    title: str
    plots: tuple[str, ...]
    rows: tuple[MethodComparison, ...]


def comparison_groups(compared: Sequence[MethodComparison], words: Mapping[str, str]) -> list[ComparisonGroup]:
    """The comparisons by setting, drawn on scales that all settings share; without settings that compare nothing yet.

    words: what the settings are called.
    """
    drawn = [c for c in compared if c.natural is not None and c.adversarial is not None]
    limits = {
        apart: shared_scale([e for c in drawn if _with_natural(c) == apart for e in (c.natural, c.adversarial) if e])
        for apart in (False, True)
    }
    settings: dict[str, list[MethodComparison]] = {}
    for comparison in compared:
        settings.setdefault(comparison.trial.setting, []).append(comparison)
    groups = []
    for setting, rows in settings.items():
        plots = []
        for apart in (False, True):
            shown = [row for row in rows if row in drawn and _with_natural(row) == apart]
            for title, key in _FIGURES if shown else ():
                estimates: list[Estimate] = [getattr(row, key) for row in shown]
                names = [row.title for row in shown]
                plots.append(interval_plot(estimates, limits=limits[apart], words=words, names=names, title=title))
        if plots:
            groups.append(ComparisonGroup(title=words.get(setting, setting), plots=tuple(plots), rows=tuple(rows)))
    return groups


def _with_natural(comparison: MethodComparison) -> bool:
    return "natural" in (comparison.method, comparison.over)
