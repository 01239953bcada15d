"""The reference's accuracies and verdicts as tables of the documents (benchmarks.documents writes them)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks.answer import REFERENCE, difference
from benchmarks.differences import COMPARED, changes
from softadv._decimals import spread
from softadv.claims.judge import Verdict, load_expectations
from softadv.claims.stats import Estimate
from softadv.cli.finish import verdicts_on
from softadv.experiments.reference import read_summary
from softadv.experiments.runs import NotRun, Run, all_series, finished_runs, read_entries, value_of
from softadv.report.intervals import signed
from softadv.report.provenance import commit_remarks
from softadv.report.words import in_symbols, setting_words

# The smoke grid answers no question of the paper's.
GRIDS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir() and path.name != "smoke")
_COLUMNS = ("natural_accuracy", "adversarial_accuracy", "autoattack_accuracy", "certified_accuracy", "verified_share")


def claims() -> str:
    """Each claim of the paper with its source, and what the stored runs say of it."""
    said: dict[str, str] = {}
    for grid in GRIDS:
        for verdict in _verdicts(grid):
            if verdict.outcome != "not run":
                said.setdefault(verdict.claim.id, f"*{verdict.outcome}* (`{grid}`)")
    rows = [
        f"| {claim.id} | {in_symbols(claim.title)} | {claim.source} | {said.get(claim.id, 'not run')} |"
        for claim, _ in load_expectations(REFERENCE.parent / "paper.toml").claims
    ]
    return "\n".join(["| | claim | the paper's | the stored runs |", "| --- | --- | --- | --- |", *rows])


def results(grid: str) -> str:
    """All that docs/results.md shows of a grid: how much of it was run, its accuracies and its verdicts."""
    parts = read_summary(REFERENCE / grid).parts
    shared = f", {len(parts.elsewhere)} of them under another grid that shares them" if parts.elsewhere else ""
    trials = f"`{grid}`: {parts.finished} of the grid's {parts.trials} trials are stored{shared}."
    runs = finished_runs(read_entries(REFERENCE / grid))
    others = sorted({run.result.trial.method for run in runs} - {"natural", "adversarial", "soft"})
    compared = [("soft", "adversarial"), *((other, base) for other in others for base in ("soft", "adversarial"))]
    tables = [differences(grid, method, other) for method, other in compared]
    shown = (trials, table(grid), provenance(grid), verdicts(grid), *tables)
    return "\n\n".join(filter(None, shown))


def differences(grid: str, method: str, other: str) -> str:
    """What one method changes in each accuracy of another, paired by seed, a column a setting; "" without both."""
    entries = read_entries(REFERENCE / grid)
    words, found = setting_words(all_series(entries)), changes(entries, method, other)
    if not found:
        return ""
    rows = [
        f"| {title} | {' | '.join(_difference(of_setting.get(figure)) for of_setting in found.values())} |"
        for figure, title in COMPARED.items()
    ]
    kind = "" if other == "soft" else " training"
    columns = " | ".join(words[setting] for setting in found)
    return "\n".join([f"| {method} − {other}{kind} | {columns} |", "| --- " * (len(found) + 1) + "|", *rows])


def table(grid: str) -> str:
    """A row for each setting and method of a grid's reference: means over seeds, ± their sample deviation, in %."""
    rows = [
        "| setting | training | seeds | natural | PGD | AutoAttack | certified | verified |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    entries = read_entries(REFERENCE / grid)
    words = setting_words(all_series(entries))
    runs: dict[tuple[str, str], list[Run]] = {}
    for run in finished_runs(entries):
        runs.setdefault((run.result.trial.setting, run.result.trial.method), []).append(run)
    for (setting, method), same in runs.items():
        cells = " | ".join(_cell(same, column) for column in _COLUMNS)
        rows.append(f"| {words[setting]} | {method} | {len(same)} | {cells} |")
    return "\n".join(rows)


def provenance(grid: str) -> str:
    """What the records of a grid's reference do not tell of the code that made them, as a paragraph of its lines."""
    told = " ".join(commit_remarks(finished_runs(read_entries(REFERENCE / grid))))
    return textwrap.fill(f"{grid}: {told}", width=120, break_on_hyphens=False) if told else ""


def verdicts(grid: str) -> str:
    """A row for each claim that the grid's reference decides, or would with more seeds."""
    rows = ["| claim | verdict |", "| --- | --- |"]
    for verdict in _verdicts(grid):
        if verdict.outcome != "not run":
            rows.append(f"| {verdict.claim.id}: {in_symbols(verdict.claim.title)} | *{verdict.outcome}* |")
    return "\n".join(rows)


def _verdicts(grid: str) -> list[Verdict]:
    folder = REFERENCE / grid
    return verdicts_on(folder, read_entries(folder), expected=REFERENCE.parent)


def _difference(found: Estimate | None) -> str:
    """A difference with its interval; and, of few seeds, seed by seed."""
    text = difference(found)
    return text if found is None or found.seeds == 1 else f"{text}: {', '.join(map(signed, found.values))}"


def _cell(runs: Sequence[Run], column: str) -> str:
    if column == "verified_share" and runs[0].result.trial.method != "soft":
        return ""
    try:
        return spread([value_of(run, column) for run in runs])
    except NotRun:  # the grid does not ask for AutoAttack
        return "–"
