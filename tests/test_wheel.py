"""The wheel: what it holds, and that it needs no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from softadv._versions import package_version

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "expected_results")

# What an installed softadv must find by itself; PLACE is where it was unpacked.
LOOK = """
import sys
from pathlib import Path
sys.path.insert(0, PLACE)
import softadv
from softadv.claims.judge import judge
from softadv.experiments.expected import checkout_expected, expected_folder
from softadv.cli.app import main
from softadv.experiments.reference import REFERENCE, read_reference
from softadv.experiments.spec import packaged_grids

assert Path(softadv.__file__).is_relative_to(PLACE), softadv.__file__
folder = expected_folder()
assert folder == Path(PLACE, "softadv", "expected_results"), folder
assert checkout_expected() is None
assert all(judge([], grid=grid, settings=(), expected=folder) for grid in packaged_grids())
records = read_reference(folder / REFERENCE, grid="paper-short")
assert any(record.path.parent.name == "paper-short" and record.weights.is_file() for record in records)
main(["keep", "runs"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that nothing is left in the checkout, and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, sources)
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, sources], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_a_wheel_holds_all_that_the_package_has_and_the_expected_results(unpacked: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "src", "expected_results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a Git checkout")
    there = {path for path in tracked.stdout.splitlines() if (ROOT / path).is_file()}
    wanted = {f"softadv/{path.removeprefix('src/softadv/')}" for path in there}
    held = {str(path.relative_to(unpacked)) for path in (unpacked / "softadv").rglob("*") if path.is_file()}
    assert wanted <= held


def test_an_unpacked_wheel_says_its_version(unpacked: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "softadv", "--version"], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(unpacked)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"softadv {package_version('softadv')}, commit {os.environ.get('SOFTADV_COMMIT', 'unknown')}\n"
    )


def test_an_unpacked_wheel_reproduces_a_grid_without_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    """By PyTorch alone: to compile the kernels once more takes longer than all the rest."""
    arguments = ["reproduce", "smoke", "--methods", "natural", "--seeds", "1", "--epochs", "1", "--out", "runs"]
    done = subprocess.run(
        [sys.executable, "-m", "softadv", *arguments, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(unpacked), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("softadv: plain PyTorch computes, since no C++ compiler found")
    assert done.stdout.splitlines()[-1] == "Report: runs/report/index.html"
    assert (tmp_path / "runs" / "report" / "index.html").is_file()


def test_an_unpacked_wheel_knows_its_claims_and_its_reference_without_a_checkout(
    unpacked: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOOK.replace("PLACE", repr(str(unpacked)))], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    # Nothing is stored in an installed package.
    assert done.stderr == "softadv: --reference is needed where softadv does not run from a checkout\n"
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())
