"""The tiny grid's folder, and a trial's folder in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.experiments.test_grid import TINY


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny grid's folder, with the grid's file beside it."""
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.toml").write_text(TINY)
    return Path(shutil.copytree(tiny, root / "runs"))


@pytest.fixture
def model(folder: Path) -> Path:
    return folder / "digits-tiny-soft-seed0"
