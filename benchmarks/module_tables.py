"""Each module of softadv with its job, as tables of docs/modules.md, modules-core.md and modules-ground.md there."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import softadv

SOURCE = Path(softadv.__file__).parent
UPPER = ("cli", "report", "claims", "experiments")  # packages, as the layers stand
LOWER = ("training", "attacks", "certify", "kernels")
GROUND = ("_onnx", "_data", "")  # "": the modules beside the packages


def modules(packages: Sequence[str]) -> str:
    """A section for each package: what it is for, and a row for each of its modules."""
    return "\n\n".join(_section(package) for package in packages)


def _section(package: str) -> str:
    folder = SOURCE / package
    files = sorted(folder.rglob("*.py") if package else folder.glob("*.py"))
    rows = [
        f"| `{path.relative_to(SOURCE).as_posix()}` | {_first(path)} |"
        for path in files
        if path.stem not in ("__init__", "__main__")
    ]
    title = f"## {package}\n\n{_first(folder / '__init__.py')}" if package else "## Beside the packages"
    return "\n".join([title, "", "| file | its job |", "| --- | --- |", *rows])


def _first(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(paragraph.split())
