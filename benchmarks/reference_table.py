"""The reference's accuracies and verdicts as tables of the documents, which a test keeps equal to it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from softadv._decimals import spread
from softadv.cli.finish import verdicts_on
from softadv.experiments.runs import Run, finished_runs, read_entries, value_of
from softadv.report.provenance import commit_remarks

REFERENCE = Path(__file__).parents[1] / "expected_results" / "reference"
# The smoke grid answers no question of the paper's.
GRIDS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir() and path.name != "smoke")
_COLUMNS = ("natural_accuracy", "adversarial_accuracy", "autoattack_accuracy", "certified_accuracy", "verified_share")


def main() -> None:
    """Print the tables of every grid."""
    for grid in GRIDS:
        print(f"{grid}\n\n{table(grid)}\n\n{provenance(grid)}\n\n{verdicts(grid)}\n")


def table(grid: str) -> str:
    """A row for each setting and method of a grid's reference: means over seeds, ± their sample deviation, in %."""
    rows = [
        "| setting | training | seeds | natural | PGD | AutoAttack | certified | verified |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs: dict[tuple[str, str], list[Run]] = {}
    for run in finished_runs(read_entries(REFERENCE / grid)):
        runs.setdefault((run.result.trial.setting, run.result.trial.method), []).append(run)
    for (setting, method), same in runs.items():
        cells = " | ".join(_cell(same, column) for column in _COLUMNS)
        rows.append(f"| {setting} | {method} | {len(same)} | {cells} |")
    return "\n".join(rows)


def provenance(grid: str) -> str:
    """What the records of a grid's reference do not tell of the code that made them, as a paragraph of its lines."""
    told = " ".join(commit_remarks(finished_runs(read_entries(REFERENCE / grid))))
    return textwrap.fill(f"{grid}: {told}", width=120, break_on_hyphens=False) if told else ""


def verdicts(grid: str) -> str:
    """A row for each claim that the grid's reference decides, or would with more seeds."""
    folder = REFERENCE / grid
    rows = ["| claim | verdict |", "| --- | --- |"]
    for verdict in verdicts_on(folder, read_entries(folder), expected=REFERENCE.parent):
        if verdict.outcome != "not run":
            rows.append(f"| {verdict.claim.id}: {verdict.claim.title} | *{verdict.outcome}* |")
    return "\n".join(rows)


def _cell(runs: Sequence[Run], column: str) -> str:
    if column == "verified_share" and runs[0].result.trial.method != "soft":
        return ""
    return spread([value_of(run, column) for run in runs])


if __name__ == "__main__":
    main()
