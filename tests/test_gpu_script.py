"""The script for a GPU's few minutes: a piece that fails or takes too long is recorded, and the next goes on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from benchmarks.gpu import MOST_SECONDS, SHARES, run_piece, run_pieces
from benchmarks.gpu_pieces import PIECES


def test_every_piece_has_its_share_and_the_tests_two_minutes() -> None:
    assert list(SHARES) == list(PIECES) == ["tests", "attack", "certification", "epochs", "grid"]
    assert MOST_SECONDS == {"tests": 120.0}


def test_a_piece_that_fails_leaves_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "no data").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    outcome = run_piece("certification", seconds=3600, device="cpu", out=out, data=tmp_path / "no data")
    assert outcome.startswith("failed (exit status 1)")
    said = (out / "certification.txt").read_text()
    assert "Traceback" in said
    assert "SoftadvError: mnist" in said


def test_pieces_that_take_too_long_are_recorded_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = itertools.count(step=0.1)  # however long a busy machine takes to end a piece
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    run_pieces(["attack", "grid"], seconds=4, device="cpu", out=tmp_path, data=None)
    record = json.loads((tmp_path / "pieces.json").read_text())
    assert [piece["piece"] for piece in record] == ["attack", "grid"]
    assert [piece["outcome"] for piece in record] == ["out of time; what it had done is kept"] * 2
    assert record[0]["limit"] < record[1]["limit"]
    assert len(capsys.readouterr().out.splitlines()) == 2
