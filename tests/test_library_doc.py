"""docs/library.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softadv import data, models
from softadv.training.methods import methods

DOCUMENT = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("registries")
def test_every_block_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(blocks) >= 7
    exec(compile("\n".join(blocks), "library.md", "exec"), {"__name__": "library"})


@pytest.mark.parametrize(
    ("kind", "names"),
    [("data sets", data.names()), ("models", models.names()), ("methods", methods.names())],
)
def test_the_table_names_what_is_registered(kind: str, names: tuple[str, ...]) -> None:
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {kind} |"))
    assert set(re.findall(r"`([^`]+)`", row)) == set(names)
