"""What the documents show of the code and of the reference, written into them.

python -m benchmarks.documents            their tables, and the schema of grid files
python -m benchmarks.documents figures    the pictures in docs/figures, from the reference, too

A document has a line `<!-- made: NAME -->` where a part begins that is made here, and `<!-- end -->` below it. A test
holds every such part to the code and the reference.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import (
    answer,
    command_tables,
    experiment_tables,
    module_tables,
    operator_tables,
    reference_table,
    trial_times,
)
from softadv.cli.finish import verdicts_on, write_grid_page
from softadv.cli.listing import schema_text
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE
from softadv.experiments.runs import read_entries

ROOT = Path(__file__).parents[1]
# Of the grids that docs/results.md leaves to pages of their own.
_PAGES = {
    "controls": "results-controls",
    "mnist": "results-mnist",
    "mnist-certified": "results-certified",
    "paper-short": "results-short",
    "rolling": "results-rolling",
}
# The pictures in docs/figures: of which grid's report each is, and what it is called there.
FIGURES = {
    "accuracy-mnist-eps0.1.svg": ("mnist", "accuracy-mnist-eps0.1"),
    "verified-mnist.svg": ("mnist", "verified-mnist"),
    "accuracy-cifar10-eps4-short.svg": ("paper-short", "accuracy-cifar10-eps4-short"),
    "accuracy-cifar10-eps8-short.svg": ("paper-short", "accuracy-cifar10-eps8-short"),
    "verified-cifar10.svg": ("paper-short", "verified-cifar10"),
    "trade-off-paper-short.svg": ("paper-short", "trade-off"),
}
_PART = re.compile(r"<!-- made: (.+?) -->\n+(.*?)\n*<!-- end -->", re.DOTALL)


def makers() -> Mapping[tuple[str, str], Callable[[], str]]:
    """What makes each part, by its document and its name."""
    results = {
        (f"docs/{_PAGES.get(grid, 'results')}.md", f"results {grid}"): partial(reference_table.results, grid)
        for grid in reference_table.GRIDS
    }
    return {
        ("README.md", "answer"): lambda: "\n".join(filter(None, (answer.words(answer.answers()), answer.at_random()))),
        ("README.md", "answer in numbers"): lambda: answer.table(answer.answers()),
        **results,
        ("docs/reviewers.md", "claims"): reference_table.claims,
        ("README.md", "experiments"): experiment_tables.in_readme,
        ("docs/reviewers.md", "experiments"): experiment_tables.experiments,
        ("docs/reviewers.md", "times"): trial_times.table,
        ("docs/commands.md", "commands"): command_tables.commands,
        ("docs/commands.md", "options"): command_tables.options,
        ("docs/networks.md", "layers"): operator_tables.layers,
        ("docs/networks.md", "operators"): operator_tables.operators,
        ("docs/onnx.md", "onnx"): operator_tables.onnx,
        ("docs/modules.md", "modules"): partial(module_tables.modules, module_tables.UPPER),
        ("docs/modules-core.md", "modules"): partial(module_tables.modules, module_tables.LOWER),
        ("docs/modules-ground.md", "modules"): partial(module_tables.modules, module_tables.GROUND),
    }


def figures() -> None:
    """Draw the pictures of docs/figures, as the reports on the reference have them."""
    expected = expected_folder()
    for grid in sorted({grid for grid, _ in FIGURES.values()}):
        folder = expected / REFERENCE / grid
        entries = read_entries(folder)
        with TemporaryDirectory() as place:
            verdicts = verdicts_on(folder, entries, expected=expected)
            write_grid_page(folder, entries, verdicts, expected=expected, out=Path(place), silent=True)
            for name, (its_grid, stem) in FIGURES.items():
                if its_grid == grid:
                    shutil.copy(Path(place, f"{stem}.svg"), ROOT / "docs" / "figures" / name)


def parts(document: str) -> dict[str, str]:
    """The made parts of a document, as they stand in it, by name."""
    return dict(_PART.findall((ROOT / document).read_text(encoding="utf-8")))


def main(what: str = "") -> None:
    """Write every part anew, and the schema of grid files. what: "figures" draws those, too."""
    if what == "figures":
        figures()
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
    main(*sys.argv[1:])
