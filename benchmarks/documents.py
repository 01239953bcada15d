"""What the documents show of the code and of the reference, written into them: python -m benchmarks.documents

A document has a line `<!-- made: NAME -->` where a part begins that is made here, and `<!-- end -->` below it. A test
holds every such part to the code and the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks import command_tables, module_tables, reference_table
from softadv.cli.listing import schema_text

ROOT = Path(__file__).parents[1]
_PAGES = {"paper-short": "results-short"}  # of the grids that docs/results.md has no room for
_PART = re.compile(r"<!-- made: (.+?) -->\n+(.*?)\n*<!-- end -->", re.DOTALL)


def makers() -> Mapping[tuple[str, str], Callable[[], str]]:
    """What makes each part, by its document and its name."""
    results = {
        (f"docs/{_PAGES.get(grid, 'results')}.md", f"results {grid}"): partial(reference_table.results, grid)
        for grid in reference_table.GRIDS
    }
    return {
        ("README.md", "answer"): reference_table.answer,
        **results,
        ("docs/reviewers.md", "claims"): reference_table.claims,
        ("docs/commands.md", "commands"): command_tables.commands,
        ("docs/commands.md", "options"): command_tables.options,
        ("docs/modules.md", "modules"): partial(module_tables.modules, module_tables.UPPER),
        ("docs/modules-core.md", "modules"): partial(module_tables.modules, module_tables.LOWER),
    }


def parts(document: str) -> dict[str, str]:
    """The made parts of a document, as they stand in it, by name."""
    return dict(_PART.findall((ROOT / document).read_text(encoding="utf-8")))


def main() -> None:
    """Write every part anew, and the schema of grid files."""
    for document in sorted({document for document, _ in makers()}):
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        for name in parts(document):
            made = makers()[document, name]()
            begin = f"<!-- made: {name} -->\n"
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n{made}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
        path.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "grid.schema.json").write_text(f"{schema_text()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
