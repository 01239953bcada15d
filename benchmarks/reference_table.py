"""The reference's accuracies and verdicts as tables of the documents, which a test keeps equal to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softadv._io import read_json
from softadv.closing import verdicts_on
from softadv.entries import read_entries

REFERENCE = Path(__file__).parents[1] / "expected_results" / "reference"
_COLUMNS = ("natural_accuracy", "adversarial_accuracy", "autoattack_accuracy", "certified_accuracy", "verified_share")


def main() -> None:
    """Print the tables of every grid."""
    for folder in sorted(path for path in REFERENCE.iterdir() if path.is_dir()):
        print(f"{folder.name}\n\n{table(folder.name)}\n\n{verdicts(folder.name)}\n")


def table(grid: str) -> str:
    """A row for each setting and method of a grid's reference: means over seeds, ± their sample deviation, in %."""
    rows = [
        "| setting | training | seeds | natural | PGD | AutoAttack | certified | verified |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in read_json(REFERENCE / grid / "summary.json")["results"]:
        cells = " | ".join(_cell(entry[column]) for column in _COLUMNS)
        rows.append(f"| {entry['setting']} | {entry['method']} | {len(entry['seeds'])} | {cells} |")
    return "\n".join(rows)


def verdicts(grid: str) -> str:
    """A row for each claim that the grid's reference decides, or would with more seeds."""
    folder = REFERENCE / grid
    rows = ["| claim | verdict |", "| --- | --- |"]
    for verdict in verdicts_on(folder, read_entries(folder), expected=REFERENCE.parent):
        if verdict.outcome != "not run":
            rows.append(f"| {verdict.claim.id}: {verdict.claim.title} | *{verdict.outcome}* |")
    return "\n".join(rows)


def _cell(spread: dict[str, Any] | None) -> str:
    if spread is None:
        return ""
    mean, deviation = spread["mean"], spread["deviation"]
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


if __name__ == "__main__":
    main()
