"""softadv doctor: what was asked for and is not there is an exit code, and every trouble is one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from softadv.cli import doctor
from tests.cli.test_app import run

NOBODY = 65534


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not look into, for the time of the test."""
    folder = tmp_path / "locked"
    (folder / "MNIST").mkdir(parents=True)
    folder.chmod(0)
    if os.geteuid():
        yield folder
    else:
        os.seteuid(NOBODY)
        yield folder
        os.seteuid(0)
    folder.chmod(0o700)


def test_a_data_folder_that_is_not_there_is_exit_code_1(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("doctor", "--data", "nowhere") == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "! data folder nowhere: cannot be read (No such file or directory)" in told


def test_a_data_folder_that_is_there_is_not(tmp_path) -> None:
    assert run("doctor", "--data", str(tmp_path)) == 0


def test_a_data_folder_that_cannot_be_read_is_a_line(locked) -> None:
    (finding,) = doctor._data_folder(locked)
    assert finding.failed
    assert finding.found == f"{locked}: cannot be read (Permission denied)"
    for name in ("mnist", "cifar10"):
        finding = doctor._dataset(name, locked)
        assert "Permission denied" in finding.found
        assert finding.advice


def test_what_is_alike_and_lacks_nothing_is_one_line() -> None:
    kept = "compiled, kept in a folder"
    findings = [doctor.Check("a", kept), doctor.Check("b", "plain", "get a compiler"), doctor.Check("c", kept)]
    assert doctor._together("kernels", findings) == [
        doctor.Check("kernels", "a, c compiled, kept in a folder"),
        doctor.Check("kernels: b", "plain", "get a compiler"),
    ]


def test_what_works_takes_ten_lines_at_most() -> None:
    subjects = [finding.subject for finding in doctor.examine(None) if finding.advice is None]
    assert len(subjects) <= 10
    assert subjects[:4] == ["softadv", "Python", "packages", "processor"]
