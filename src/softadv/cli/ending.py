"""The output at the end of a grid's command: answer, accuracies, the paper's claims, checks, the report's path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from softadv.claims.judge import Outcome, Verdict
from softadv.cli.output import OUTCOME_STYLES, console, say
from softadv.report.results_table import Group
from softadv.report.words import in_symbols

Detail = Literal["quiet", "usual", "verbose", "json"]

_LOG_WIDTH = 80
_MOST_GROUPS = 8  # so many settings are a small table
_WIDEST = 2 + max(map(len, get_args(Outcome)))
_HEADINGS = {
    "paper": "The paper's claims",
    "short": "The paper's claims, asked after fewer epochs",
    "own": "softadv's claims",
}
_CHECKS = "softadv's checks"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The results that a grid's command prints.

    answer: a sentence. groups: the accuracies. attack: what to call the attack of the training. needed: the grids that
    have the trials of the paper's claims that were not run. report: the page, if there is one. code: of the exit.
    """

    grid: str
    folder: Path
    answer: str
    groups: Sequence[Group]
    attack: str
    verdicts: Sequence[Verdict]
    needed: Sequence[str]
    report: Path | None
    code: int


def show_ending(ending: Ending, *, detail: Detail = "usual") -> None:
    """Print it: as one JSON object, or for people in lines of at most 80 columns where there is no terminal."""
    if detail == "json":
        say(_json(ending))
        return
    screen = console(log_width=_LOG_WIDTH)
    screen.print(escape(ending.answer))
    if detail == "quiet":
        _show_claims(screen, [verdict for verdict in ending.verdicts if verdict.outcome == "fails"], reasons=False)
    else:
        _show_accuracies(screen, ending)
        for kind, heading in _HEADINGS.items():
            _show_kind(screen, heading, [v for v in ending.verdicts if v.claim.kind == kind], ending, detail=detail)
        _show_checks(screen, [v for v in ending.verdicts if v.claim.kind == "check"], detail=detail)
        if not ending.verdicts:
            screen.print("\nNo claim is about these trials; the report compares their methods.")
    if ending.report is not None:
        screen.print(f"{'' if detail == 'quiet' else chr(10)}Report: {escape(str(ending.report))}", soft_wrap=True)


def _show_accuracies(screen: Console, ending: Ending) -> None:
    """Method by accuracy, a table a setting."""
    for group in ending.groups[:_MOST_GROUPS]:
        columns = ["training", "seeds", "natural", ending.attack]
        autoattack = any(row.autoattack.strip("–") for row in group.rows)
        certified = any(row.certified for row in group.rows)
        columns += ["AutoAttack"] * autoattack + ["certified"] * certified
        table = _table(screen, columns)
        for row in group.rows:
            cells = [row.title, row.seeds, *(row.accuracies or ("–", "–"))]
            cells += [row.autoattack or "–"] * autoattack + [(row.certified or ("–",))[0]] * certified
            table.add_row(*map(escape, cells))
        screen.print(f"\n[bold]{escape(group.title)}[/]")
        screen.print(table)
    if len(ending.groups) > _MOST_GROUPS:
        screen.print(f"\n{len(ending.groups) - _MOST_GROUPS} more settings are in the report.")


def _show_kind(screen: Console, heading: str, verdicts: Sequence[Verdict], ending: Ending, *, detail: Detail) -> None:
    """Claims of one kind: a line each, but one for all that were not run."""
    if not verdicts:
        return
    screen.print(f"\n[bold]{heading}[/]")
    verbose = detail == "verbose"
    _show_claims(screen, [v for v in verdicts if verbose or v.outcome != "not run"], reasons=verbose)
    missing = sum(verdict.outcome == "not run" for verdict in verdicts)
    if missing and not verbose:
        paper = verdicts[0].claim.kind == "paper" and ending.needed
        need = f": {'it needs' if missing == 1 else 'they need'} {_listed(ending.needed)}" if paper else ""
        screen.print(f"{missing} not run{escape(need)}", soft_wrap=True)


def _show_checks(screen: Console, verdicts: Sequence[Verdict], *, detail: Detail) -> None:
    """softadv's own checks: one line, unless one is red."""
    if not verdicts:
        return
    counts = Counter(verdict.outcome for verdict in verdicts)
    told = [f"{counts[outcome]} {word}" for outcome, word in _counted(counts)]
    screen.print(f"\n[bold]{_CHECKS}[/]: {', '.join(told)}")
    verbose = detail == "verbose"
    _show_claims(screen, [v for v in verdicts if verbose or v.outcome == "fails"], reasons=True)


def _counted(counts: Counter[Outcome]) -> Iterable[tuple[Outcome, str]]:
    for outcome in get_args(Outcome):
        if counts[outcome]:
            plural = outcome.removesuffix("s") if outcome in ("holds", "fails") else outcome
            yield outcome, outcome if counts[outcome] == 1 else plural


def _show_claims(screen: Console, verdicts: Sequence[Verdict], *, reasons: bool) -> None:
    """A line for each, cut at the screen's width; or, with reasons, as many lines as it takes."""
    longest = max((len(verdict.claim.id) for verdict in verdicts), default=0)
    for verdict in verdicts:
        mark, name = OUTCOME_STYLES[verdict.outcome], escape(verdict.claim.id)
        title, reason = (escape(in_symbols(text)) for text in (verdict.claim.title, verdict.reason))
        if reasons:
            screen.print(f"{mark}  {name}: {title}")
            screen.print(Padding(reason, (0, 0, 0, 4), expand=False))
        else:
            gap = " " * (_WIDEST - len(verdict.outcome))
            line = f"{mark}{gap}{name}{' ' * (longest - len(verdict.claim.id) + 2)}{title}"
            screen.print(line, no_wrap=True, overflow="ellipsis")


def _table(screen: Console, columns: Sequence[str]) -> Table:
    """Without frames where there is no terminal; numbers to the right."""
    frame = box.SIMPLE_HEAD if screen.is_terminal else None
    table = Table(box=frame, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for place, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _listed(grids: Sequence[str]) -> str:
    quoted = [f"`{grid}`" for grid in grids]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _json(ending: Ending) -> str:
    return json.dumps(
        {
            "grid": ending.grid,
            "folder": str(ending.folder),
            "answer": ending.answer,
            "verdicts": [
                {
                    "id": verdict.claim.id,
                    "kind": verdict.claim.kind,
                    "title": verdict.claim.title,
                    "outcome": verdict.outcome,
                    "reason": verdict.reason,
                }
                for verdict in ending.verdicts
            ],
            "report": None if ending.report is None else str(ending.report),
            "exit_code": ending.code,
        },
        indent=2,
        ensure_ascii=False,
    )
