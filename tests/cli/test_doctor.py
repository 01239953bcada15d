"""softadv doctor: what was asked for and is not there is an exit code, and every trouble is one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from softadv.cli import doctor
from tests.cli.command import run

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


def test_what_is_alike_is_said_once() -> None:
    lacking = [doctor.Check(name, "not found in data", "name their folder") for name in ("b", "d")]
    findings = [doctor.Check("a", "bundled"), lacking[0], doctor.Check("c", "bundled"), lacking[1]]
    found = "a, c bundled; b, d not found in data"
    assert doctor._together("data sets", findings) == doctor.Check("data sets", found, "name their folder")
    assert doctor._together("data sets", findings[::2]) == doctor.Check("data sets", "a, c bundled")


def test_it_takes_ten_lines_at_most_even_where_data_sets_are_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    assert run("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10, lines
    assert [line.split()[1] for line in lines[:4]] == ["softadv", "Python", "packages", "processor"]
    assert "mnist, cifar10 not found in data → name their folder" in " ".join(" ".join(lines).split())
