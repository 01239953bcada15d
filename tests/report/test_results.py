"""What the documents say of the reference is what the reference says."""

from pathlib import Path

import pytest
from benchmarks.reference_table import GRIDS, REFERENCE, provenance, table, verdicts

from softadv.experiments.runs import read_entries
from softadv.report.results_table import result_groups

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_the_tables_are_those_of_the_reference(document, grid):
    found = blocks(document, "| setting | training | seeds |")
    assert table(grid) in found, f"{document}: not as in {grid}: python -m benchmarks.reference_table"
    assert len(found) == len(GRIDS)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_a_table_says_what_its_records_do_not_tell_of_their_code(document, grid):
    text = (ROOT / document).read_text()
    told = provenance(grid)
    assert not told or "commit" in told
    shown = "\n\n".join(filter(None, (table(grid), told)))
    assert f"{shown}\n" in text, f"{document}: not as in {grid}: python -m benchmarks.reference_table"


@pytest.mark.parametrize("grid", GRIDS)
def test_the_report_shows_the_figures_of_the_documents(grid):
    groups = result_groups(read_entries(REFERENCE / grid))
    shown = [text for group in groups for row in group.rows for text in (*row.accuracies, row.autoattack)]
    assert all(text in table(grid) for text in shown)
    seeds = {row.seeds for group in groups for row in group.rows}
    assert any("±" in text for text in shown) or seeds == {"1"}


@pytest.mark.parametrize("grid", GRIDS)
def test_the_verdicts_are_those_of_the_reference(grid):
    found = blocks("docs/results.md", "| claim | verdict |")
    assert verdicts(grid) in found, f"docs/results.md: not as in {grid}: python -m benchmarks.reference_table"
    assert len(found) == len(GRIDS)


def blocks(document, beginning):
    """The paragraphs of a document that begin so: its tables of one kind."""
    return [part for part in (ROOT / document).read_text().split("\n\n") if part.startswith(beginning)]


def test_the_figures_of_the_results_are_there():
    text = (ROOT / "docs" / "results.md").read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    assert named
    for name in named:
        assert (ROOT / "docs" / name).exists(), name
