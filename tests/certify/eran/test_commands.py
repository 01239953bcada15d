"""The commands that ask an engine, with a stand-in for it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from softadv.cli.doctor import examine
from tests.cli.command import run
from tests.cli.conftest import folder, model  # noqa: F401 (fixtures)


def test_certify_asks_the_engine_and_records_it(use, model: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    use()
    out = tmp_path / "verdicts.csv"
    arguments = ["certify", str(model), "--limit", "8", "--eps", "0.01", "--out", str(out)]
    assert run(*arguments, "--certifier", "eran-deeppoly") == 0
    assert "deeppoly by eran-deeppoly stand-in 1 (as PyTorch)" in " ".join(capsys.readouterr().out.split())
    question = json.loads(out.with_name("verdicts.csv.json").read_text())["question"]
    assert question["certifier"] == "eran-deeppoly stand-in 1 (as PyTorch)"
    assert run(*arguments) == 2  # the file holds another certifier's verdicts
    assert "holds verdicts with certifier eran-deeppoly" in capsys.readouterr().err


def test_parity_passes_or_shows_the_counterexample(use, model: Path, capsys) -> None:  # noqa: F811
    use("--offer", "eran-deeppoly")
    assert run("parity", str(model), "--images", "6", "--eps", "0.01") == 0
    told = capsys.readouterr().out
    assert "eran-deeppoly (stand-in 1; as PyTorch) against softadv's deeppoly" in told
    assert "by softadv alone" in told
    use("--offer", "gpupoly")  # which says yes to everything
    assert run("parity", str(model), "--images", "20", "--eps", "0.5") == 1
    assert "verified by gpupoly" in " ".join(capsys.readouterr().out.split())


def test_a_grid_is_certified_by_the_engine_it_is_given(use, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    use()
    grid = str(folder.parent / "tiny.toml")
    arguments = ["--methods", "soft", "--out", str(tmp_path / "r"), "--certifier", "eran-deeppoly"]
    assert run("reproduce", grid, *arguments) == 0
    (trial,) = (tmp_path / "r").glob("digits*")
    metrics = json.loads((trial / "metrics.json").read_text())["epochs"]
    assert {epoch["certifier"] for epoch in metrics} == {"eran-deeppoly stand-in 1 (as PyTorch)"}
    certified = json.loads((trial / "result.json").read_text())["certified"]
    assert [entry["certifier"] for entry in certified] == ["eran-deeppoly stand-in 1 (as PyTorch)"]


@pytest.mark.parametrize("command", [["certify"], ["evaluate"]])
def test_without_an_engine_nothing_begins(monkeypatch, model: Path, capsys, command) -> None:  # noqa: F811
    monkeypatch.delenv("SOFTADV_ERAN", raising=False)
    assert run(*command, str(model), "--limit", "4", "--certifier", "gpupoly") == 2
    assert "SOFTADV_ERAN" in capsys.readouterr().err


def test_parity_without_any_engine_is_one_line(monkeypatch, model: Path, capsys) -> None:  # noqa: F811
    monkeypatch.delenv("SOFTADV_ERAN", raising=False)
    assert run("parity", str(model), "--images", "4") == 2
    assert "SOFTADV_ERAN" in capsys.readouterr().err


def test_doctor_says_that_gpupoly_lacks_a_gpu(monkeypatch, driver) -> None:
    """The real worker, which loads no engine here, and a CUDA driver that finds no device."""
    for name, value in driver(100, 0).items():
        monkeypatch.setenv(name, value)
    worker = Path(__file__).parents[3] / "docker" / "eran" / "worker.py"
    monkeypatch.setenv("SOFTADV_ERAN", shlex.join([sys.executable, str(worker)]))
    (found,) = [finding for finding in examine(None) if finding.subject == "ERAN"]
    assert re.search(r"gpupoly not available \(.*CUDA's driver finds no device \(error 100\)", found.found)
    assert "eran-deeppoly, eran-deepzono not available" in found.found
    assert str(found.advice).startswith("it needs a GPU")
    assert "correct SOFTADV_ERAN" in str(found.advice)
