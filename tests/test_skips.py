"""The list of tests that may be skipped: what is not on it fails the run, and is named."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest
def test_that_passes(): pass
def test_for_a_gpu(): pytest.skip("needs a GPU")
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.skipif(True, reason="needs Chromium")
def test_page(n): pass
@pytest.mark.xfail
def test_expected_to_fail(): assert False
"""
WHOLE = 'import pytest\npytest.skip("needs the moon", allow_module_level=True)\n'


def run(folder: Path, allowed: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_some.py").write_text(TESTS)
    (folder / "allowed").write_text(allowed)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider"]
    options = (f"--rootdir={folder}", "--allowed-skips", str(folder / "allowed"), *options, str(folder))
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("options", [["-n0"], ["-n2"]], ids=["one process", "two workers"])
def test_a_skip_that_is_not_on_the_list_fails_the_run_and_is_named(tmp_path: Path, options: list[str]) -> None:
    done = run(tmp_path, "# why\n\ntest_some.py::* | needs a GPU\ntest_other.py::* | needs Chromium\n", *options)
    assert done.returncode == 1, done.stdout
    _, named = done.stdout.split("skipped, and not on the list of what may be")
    assert "test_some.py::test_page[1]: needs Chromium" in named
    assert "test_some.py::test_page[2]: needs Chromium" in named
    assert "test_for_a_gpu" not in named
    assert "test_expected_to_fail" not in named
    assert "1 passed, 3 skipped, 1 xfailed" in done.stdout.splitlines()[-1]


def test_skips_on_the_list_are_no_failure(tmp_path: Path) -> None:
    done = run(tmp_path, "test_some.py::* | needs a GPU\ntest_some.py::test_page* | needs Chromium\n")
    assert done.returncode == 0, done.stdout
    assert "not on the list" not in done.stdout


def test_a_file_that_is_skipped_whole_counts(tmp_path: Path) -> None:
    (tmp_path / "test_whole.py").write_text(WHOLE)
    done = run(tmp_path, "test_some.py::* | needs\n")
    assert done.returncode == 1
    assert "test_whole.py: needs the moon" in done.stdout


def test_a_failure_stays_one(tmp_path: Path) -> None:
    (tmp_path / "test_bad.py").write_text("def test_bad(): assert 0")
    assert run(tmp_path, "* | needs\n").returncode == 1


@pytest.mark.parametrize(
    ("allowed", "message"), [("only a name\n", "line 1: expected TESTS | REASON, got 'only a name'")]
)
def test_what_is_no_list_is_one_line(tmp_path: Path, allowed: str, message: str) -> None:
    done = run(tmp_path, allowed)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr


def test_the_list_of_the_ci_can_be_read_and_names_tests_that_there_are() -> None:
    from tests.skips import read_allowed

    for allowed in read_allowed(ROOT / ".ci" / "allowed-skips"):
        file = allowed.tests.partition("::")[0]
        assert list(ROOT.glob(file)), allowed


def test_pytest_knows_every_option_that_the_ci_gives() -> None:
    *_, last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    options = shlex.split(last, comments=True)
    assert options[:2] == ["./reproduce.sh", "test"]
    command = [sys.executable, "-m", "pytest", *options[2:], "--collect-only", "--ignore-glob=*/test_*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stderr
