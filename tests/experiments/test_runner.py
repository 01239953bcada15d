"""softadv.run: a grid from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import softadv
from softadv.experiments.grid import grid_command
from softadv.experiments.spec import parse_grid
from tests.experiments.test_grid import TINY


def test_the_command_that_is_recorded_runs_the_same_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my tiny.toml").write_text(TINY.replace('["natural", "adversarial", "soft"]', '["natural"]'))
    ran = softadv.run("my tiny.toml", out="runs/x", data="data", device="cpu", threads=1)
    assert ran.outcome.finished == ("digits-tiny-natural-seed0",)
    assert grid_command(ran.folder) == ("softadv reproduce 'my tiny.toml' --data data --out runs/x --threads 1")


def test_a_grid_that_is_in_no_file_has_no_command(tmp_path: Path) -> None:
    """One of the same name may be packaged, with other trials."""
    tiny = parse_grid(TINY, source="tiny")
    natural = replace(tiny, name="smoke", trials=tiny.trials[:1])
    assert grid_command(softadv.run(natural, out=tmp_path / "runs", device="cpu").folder) == ""
