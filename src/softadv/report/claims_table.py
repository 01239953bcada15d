"""The claims on the page: the paper's, separate from softadv's own checks, each with a plot of its estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from softadv.claims.judge import ClaimKind, Outcome, Verdict
from softadv.claims.stats import Estimate
from softadv.report.intervals import interval_plot, kind_of, shared_scale
from softadv.report.words import capital, in_words, sentences

TITLES: dict[ClaimKind, str] = {
    "paper": "The paper's claims",
    "short": "The paper's claims, asked of shorter runs",
    "own": "Claims of softadv's own",
    "check": "softadv's own checks",
}


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One claim; texts are ready to show. plots: as SVG, one for each kind of estimate, as a rule one."""

    id: str
    title: str
    source: str
    outcome: Outcome
    reason: str
    assumption: str
    plots: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClaimGroup:
    """The claims of one kind: those that were decided, and those whose trials were not run."""

    title: str
    counts: str  # "3 hold, 1 fails, 11 not run"
    decided: tuple[ClaimRow, ...]
    not_run: tuple[ClaimRow, ...]


def claim_groups(verdicts: Sequence[Verdict], words: Mapping[str, str]) -> list[ClaimGroup]:
    """The verdicts by kind, in their order. words: what the settings are called."""
    scales: dict[tuple[str, str], list[Estimate]] = {}
    for verdict in verdicts:
        for estimate in verdict.estimates:
            scales.setdefault(kind_of(estimate), []).append(estimate)
    limits = {kind: shared_scale(estimates) for kind, estimates in scales.items()}
    groups = []
    for kind, title in TITLES.items():
        rows = [_row(verdict, words, limits) for verdict in verdicts if verdict.claim.kind == kind]
        if rows:
            decided = tuple(row for row in rows if row.outcome != "not run")
            not_run = tuple(row for row in rows if row.outcome == "not run")
            groups.append(ClaimGroup(title=title, counts=count_text(rows), decided=decided, not_run=not_run))
    return groups


def count_text(rows: Sequence[ClaimRow] | Sequence[Verdict]) -> str:
    """How many hold, fail and so on: "3 hold, 1 fails, 11 not run"."""
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in get_args(Outcome)}
    verbs = {"holds": "hold", "fails": "fail"}
    return ", ".join(
        f"{count} {outcome if count == 1 else verbs.get(outcome, outcome)}"
        for outcome, count in counts.items()
        if count
    )


def _row(verdict: Verdict, words: Mapping[str, str], limits: Mapping[tuple[str, str], tuple[float, float]]) -> ClaimRow:
    kinds: dict[tuple[str, str], list[Estimate]] = {}
    for estimate in verdict.estimates:
        kinds.setdefault(kind_of(estimate), []).append(estimate)
    claim = verdict.claim
    return ClaimRow(
        id=claim.id,
        title=capital(in_words(claim.title, words)),
        source=in_words(claim.source, words),
        outcome=verdict.outcome,
        reason=sentences(in_words(verdict.reason, words)),
        assumption=in_words(claim.assumption, words) if verdict.outcome != "not run" else "",
        plots=tuple(interval_plot(shown, limits=limits[kind], words=words) for kind, shown in kinds.items()),
    )
