"""reproduce.sh, as far as it sets up .venv: which Python will do, and that nothing of the user's is deleted."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.shell import run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (
            "echo 'not installed' >&2; echo 'see the versions' >&2; exit 127",
            "does not run: install Python 3.11",
        ),
        ("echo 3.9", "is Python 3.9: softadv needs 3.11 or newer"),
        ("echo 2.7", "is Python 2.7: softadv needs 3.11 or newer"),
    ],
)
def test_an_interpreter_that_will_not_do_is_one_line(tmp_path: Path, does: str, told: str) -> None:
    python = tmp_path / "python3.9"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    done = run([ROOT / "reproduce.sh", "--help"], env={"PATH": os.environ["PATH"], "PYTHON": str(python)})
    assert done.returncode == 2
    assert done.stderr.startswith(f"reproduce.sh: '{python}' {told}")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """reproduce.sh alone, with a lock file whose package cannot be installed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "reproduce.sh", folder)
    (folder / "requirements.lock").write_text(f"nothing==1 --hash=sha256:{'0' * 64}\n")
    (folder / "pyproject.toml").touch()
    return folder


def set_up(checkout: Path, python: Path | str = sys.executable, **environment: str) -> str:
    """What reproduce.sh says on standard error, without a network; it must fail."""
    asked = os.environ | {"PYTHON": str(python), "PIP_NO_INDEX": "1", **environment}
    done = run([checkout / "reproduce.sh", "--help"], env=asked)
    assert done.returncode == 2
    return done.stderr


def test_an_environment_of_the_users_own_is_left_alone(checkout: Path) -> None:
    mine = checkout / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    told = set_up(checkout)
    assert told.startswith(f"reproduce.sh: {checkout}/.venv is there, but was not made by reproduce.sh: ")
    assert told.count("\n") == 1
    assert list(mine.parent.iterdir()) == [mine]


def test_an_environment_is_kept_where_no_new_one_can_be_made(checkout: Path, tmp_path: Path) -> None:
    old = checkout / ".venv" / "packages"
    old.parent.mkdir()
    old.write_text("of another lock file")
    (tmp_path / "ensurepip.py").write_text("raise ImportError('as on Debian without python3-venv')")
    told = set_up(checkout, PYTHONPATH=str(tmp_path))
    assert told.startswith(
        f"reproduce.sh: '{sys.executable}' cannot make virtual environments: install the venv module"
    )
    assert told.count("\n") == 1
    assert old.read_text() == "of another lock file"


def test_a_set_up_that_was_cut_off_is_begun_again_also_by_its_own_python(checkout: Path) -> None:
    cut_off = "reproduce.sh: the packages of requirements.lock could not be installed"
    assert cut_off in set_up(checkout)
    half_made = checkout / ".venv" / "half-made"
    half_made.touch()
    assert cut_off in set_up(checkout, checkout / ".venv" / "bin" / "python3")
    assert not half_made.exists()
    assert (checkout / ".venv" / "packages").read_text() == ""
