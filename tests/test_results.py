"""What the documents say of the reference is what the reference says."""

from pathlib import Path

import pytest
from benchmarks.reference_table import REFERENCE, table, verdicts

ROOT = Path(__file__).parents[1]
GRIDS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir()) if REFERENCE.is_dir() else []


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_the_tables_are_those_of_the_reference(document, grid):
    text = (ROOT / document).read_text()
    for row in table(grid).splitlines():
        assert row in text, f"{document} does not have the row {row!r}: python -m benchmarks.reference_table"


@pytest.mark.parametrize("grid", GRIDS)
def test_the_verdicts_are_those_of_the_reference(grid):
    text = (ROOT / "docs" / "results.md").read_text()
    for row in verdicts(grid).splitlines():
        assert row in text, f"docs/results.md does not have the row {row!r}: python -m benchmarks.reference_table"


def test_the_figures_of_the_results_are_there():
    text = (ROOT / "docs" / "results.md").read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    assert named
    for name in named:
        assert (ROOT / "docs" / name).exists(), name
