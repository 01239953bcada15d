"""The house: arrows point down, and what is written twice is kept equal."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

from softadv.certify import DOMAINS, Domain
from softadv.experiments import spec

SOURCE = Path(spec.__file__).parents[1]


def imports(path: Path) -> set[str]:
    """The modules of softadv that a file imports, by their file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "softadv":
            inside = (node.module or "").split(".")[1:]
            for name in node.names:
                target = SOURCE.joinpath(*inside, name.name)
                folder = SOURCE.joinpath(*inside)
                found.add(str(target if target.with_suffix(".py").exists() else folder))
    return found


def test_no_two_files_import_each_other_even_in_a_circle() -> None:
    # A folder stands for its __init__.py, as it does where it is imported from.
    files = {path.parent if path.stem == "__init__" else path.with_suffix(""): path for path in SOURCE.rglob("*.py")}
    graph = {str(name): imports(path) for name, path in files.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    names = [Path(name).name for name in order]
    assert names.index("errors") < names.index("api") < names.index("trial") < names.index("cli")


def test_a_spec_knows_the_certifiers_domains() -> None:
    assert get_args(spec.Domain) == get_args(Domain) == DOMAINS
