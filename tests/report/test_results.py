"""What the documents say of the reference is what the reference says; tests/test_documents.py holds their tables."""

from pathlib import Path

import pytest

from benchmarks.documents import makers, parts
from benchmarks.reference_table import (
    GRIDS,
    REFERENCE,
    answer,
    claims,
    differences,
    provenance,
    results,
    table,
    verdicts,
)
from softadv.claims.judge import load_expectations
from softadv.experiments.runs import read_entries
from softadv.report.results_table import result_groups

ROOT = Path(__file__).parents[2]
PAGE_OF = {name.removeprefix("results "): page for page, name in makers() if name.startswith("results ")}


@pytest.mark.parametrize("grid", GRIDS)
def test_the_page_of_a_grid_has_its_tables_and_what_its_records_do_not_tell_of_their_code(grid):
    shown = parts(PAGE_OF[grid])[f"results {grid}"]
    for made in (table(grid), provenance(grid), verdicts(grid), differences(grid)):
        assert made in shown, f"{PAGE_OF[grid]}: make it again: python -m benchmarks.documents"
    assert shown == results(grid)
    assert not provenance(grid) or "commit" in provenance(grid)


def test_the_answer_is_of_the_same_figures_as_the_results():
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in answer().splitlines()[2:]]
    settings = "\n".join(table(grid) for grid in GRIDS)
    changes = "\n".join(differences(grid) for grid in GRIDS)
    for _, _, seeds, *means, natural, adversarial in rows:
        assert "not run" not in means[:2]
        assert all(f"| {seeds} | {mean}" in settings for mean in means if mean != "not run")
        assert all(change in changes for change in (natural, adversarial) if change != "not run")
    assert len(rows) >= 4


def test_every_claim_of_the_paper_is_in_the_list_for_reviewers():
    ids = [claim.id for claim, _ in load_expectations(REFERENCE.parent / "paper.toml").claims]
    rows = claims().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [f"C{name}" for name in ids]
    assert any("*holds*" in row for row in rows)
    assert any("not run" in row for row in rows)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_report_shows_the_figures_of_the_documents(grid):
    groups = result_groups(read_entries(REFERENCE / grid))
    shown = [text for group in groups for row in group.rows for text in (*row.accuracies, row.autoattack)]
    assert all(text in table(grid) for text in shown)
    seeds = {row.seeds for group in groups for row in group.rows}
    assert any("±" in text for text in shown) or seeds == {"1"}


@pytest.mark.parametrize("page", sorted(set(PAGE_OF.values())))
def test_the_figures_of_the_results_are_there(page):
    text = (ROOT / page).read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    assert named
    for name in named:
        assert (ROOT / "docs" / name).exists(), name
