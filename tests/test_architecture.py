"""What is written twice is kept equal. Which module may import which: import-linter, by pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import softadv
from softadv.certify import DOMAINS, Domain
from softadv.experiments import spec

SOURCE = Path(softadv.__file__).parent


def test_a_spec_knows_the_certifiers_domains() -> None:
    assert get_args(spec.Domain) == get_args(Domain) == DOMAINS


def test_the_documents_name_every_module_with_its_job() -> None:
    documents = SOURCE.parents[1] / "docs"
    pages = ("modules.md", "modules-core.md", "modules-ground.md")
    text = "\n".join((documents / name).read_text(encoding="utf-8") for name in pages)
    rows = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", text, re.MULTILINE))
    jobs = {}
    for path in SOURCE.rglob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
            jobs[path.relative_to(SOURCE).as_posix()] = " ".join(first.split())
    assert rows == jobs, "make the tables again: python -m benchmarks.documents"


def test_a_public_thing_has_one_name() -> None:
    for module in (softadv, softadv.data):
        things = [id(getattr(module, name)) for name in module.__all__]
        assert len(set(things)) == len(things), module


def test_every_package_says_what_it_is_for() -> None:
    for path in SOURCE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_a_module_is_at_most_350_lines_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert not {path.name: length for path, length in lengths.items() if length > 350}


def test_importing_softadv_brings_in_nothing_that_most_programs_do_not_need() -> None:
    code = "import sys, softadv; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    late = {
        "PIL",
        "onnx",
        "onnxruntime",
        "pandas",
        "pydantic",
        "scipy",
        "sklearn",
        "torchattacks",
        "torchvision",
    }
    assert not late & set(loaded)
