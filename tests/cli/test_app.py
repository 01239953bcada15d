"""The command line end to end, on a tiny grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from softadv.cli.app import app, main
from tests.cli.command import run
from tests.experiments.test_grid import TINY


def test_reproduce_ends_with_the_claims_and_the_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = folder.parent / "tiny.toml"
    assert run("reproduce", str(grid), "--out", str(folder)) == 0
    last = capsys.readouterr().out.rstrip().splitlines()
    assert last[-1] == f"Report: {folder / 'report' / 'index.html'}"
    assert last[-3] == "No claim is about these trials; the report compares their methods."
    assert (folder / "report" / "index.html").stat().st_size > 10_000


def test_reproduce_runs_the_methods_seeds_and_epochs_asked_for(folder: Path, tmp_path: Path) -> None:
    grid = folder.parent / "tiny.toml"
    arguments = ["--methods", "natural", "--seeds", "2", "--epochs", "2", "--out", str(tmp_path / "r")]
    assert run("reproduce", str(grid), *arguments) == 0
    runs = sorted(path.name for path in (tmp_path / "r").glob("digits*"))
    assert runs == ["digits-tiny-natural-seed0", "digits-tiny-natural-seed1"]
    assert '"epochs": 2' in (tmp_path / "r" / runs[0] / "spec.json").read_text()


def expect_neurons(folder: Path, *, mnist: int) -> None:
    """Write a folder of expected results in which the grid "tiny" has one claim, which needs no trial."""
    (folder / "paper.toml").write_text("")
    (folder / "tiny.toml").write_text(
        f'[[claim]]\nid = "1"\ntitle = "t"\nsource = "s"\nrule = "neuron-count"\nmnist = {mnist}\ncifar10 = 4862\n'
    )


def test_a_failing_expectation_is_exit_code_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_neurons(tmp_path, mnist=1)
    assert run("compare", str(folder), "--expected", str(tmp_path)) == 1
    assert "✗ fails         1  t\n" in capsys.readouterr().out


def test_compare_and_report_work_from_the_folder_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "report" / "index.html"
    page.unlink()
    assert run("report", str(folder)) == 0
    assert page.exists()
    assert run("compare", str(folder)) == 0
    assert "No claim is about these trials" in capsys.readouterr().out


def test_json_is_all_that_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["compare", str(folder)], ["reproduce", str(folder.parent / "tiny.toml"), "--out", str(folder)]):
        assert run(*command, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert Path(told["report"]).is_file()
        assert (told["grid"], told["folder"], told["exit_code"]) == ("tiny", str(folder), 0)


def test_quiet_leaves_out_the_progress_and_verbose_gives_reasons(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_neurons(tmp_path, mnist=3614)
    command = ["reproduce", str(folder.parent / "tiny.toml"), "--out", str(folder), "--expected", str(tmp_path)]
    assert run(*command, "--quiet") == 0
    told = capsys.readouterr().out
    assert "tiny-soft" not in told
    assert told.endswith(f"\nReport: {folder / 'report' / 'index.html'}\n")
    assert run(*command, "--verbose") == 0
    assert "✓ holds  1: t\n    MNIST 3,614 and CIFAR-10 4,862 neurons\n" in capsys.readouterr().out


def test_train_makes_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--set", "train_images=64", "--set", "test_images=32", "--set", "optimizer=sgd"]
    arguments = ["--method", "adversarial", "--epochs", "1", "--steps", "2", "--eps", "8/255", *sizes]
    assert run("train", str(tmp_path / "mine"), *arguments) == 0
    assert (tmp_path / "mine" / "weights.safetensors").exists()
    assert "adversarial accuracy" in capsys.readouterr().out


def test_doctor_gives_advice_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    monkeypatch.setenv("SOFTADV_ERAN", str(tmp_path / "nowhere"))
    assert run("doctor") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "mnist, cifar10 not found in data → name their folder with --data or SOFTADV_DATA" in told
    assert "correct SOFTADV_ERAN" in told


def test_an_interrupted_command_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softadv.cli.grid_commands.run_trial", interrupted)
    assert run("train", str(tmp_path / "x")) == 130
    assert "interrupted; given again" in capsys.readouterr().err


GREEDY = """
import torch

def cpu(model, x, y, *, eps, generator):
    return torch.empty(1 << 50)

def kernel(model, x, y, *, eps, generator):
    raise MemoryError("the compiled kernel ran out of memory")

def gpu(model, x, y, *, eps, generator):
    raise torch.OutOfMemoryError("CUDA out of memory.")

def driver(model, x, y, *, eps, generator):
    raise RuntimeError("CUDA error: out of memory\\nCUDA kernel errors might be asynchronously reported")
"""


@pytest.mark.parametrize("where", ["cpu", "kernel", "gpu", "driver"])
def test_no_memory_is_one_line_and_exit_code_2(
    where: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    assert run("attack", str(model), "--limit", "4", "--attack", f"greedy:{where}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("softadv: ")]
    assert line.startswith("softadv: out of memory: ")


def test_another_fault_of_your_own_code_is_no_lack_of_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text("def attack(model, x, y, *, eps, generator):\n    raise RuntimeError('mine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=r"^mine$"):
        main(["attack", str(model), "--limit", "4", "--attack", "faulty:attack"])


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_grid_in_utf_8_is_read_in_an_ascii_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    (tmp_path / "g.toml").write_text(
        TINY.replace('name = "tiny"', 'name = "tiny"\ndescription = "ε"'), encoding="utf-8"
    )
    code = (
        "import sys; from softadv.experiments.spec import load_grid; "
        "sys.exit(load_grid(sys.argv[1]).description != chr(949))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "g.toml")],
        env=os.environ | locale,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("softadv 0.")


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)  # type: ignore[attr-defined]
def test_a_help_fits_a_screen_and_has_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(command, "--help") == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert f"\n  Example: softadv {command}" in told
    (found,) = (its for name, its in typer.main.get_command(app).commands.items() if name == command)
    hidden = {option for parameter in found.params if parameter.hidden for option in parameter.opts}
    _, _, rare = told.partition("Rarely needed (docs/commands.md): ")
    assert hidden == set(rare.replace(",", " ").split())  # what is not explained is named


@pytest.mark.parametrize("command", ["reproduce", "train", "certify"])
def test_a_flag_takes_no_value(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    told = capsys.readouterr().out
    assert "--fresh  " in told
    assert "bool" not in told


def test_a_full_disk_under_standard_output_ends_the_command_but_fails_no_trial(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run("reproduce", str(folder.parent / "tiny.toml"), "--out", str(tmp_path / "r"), "--epochs", "1") == 2
    assert capsys.readouterr().err == "softadv: standard output: No space left on device\n"
    assert (tmp_path / "r" / "grid.json").exists()  # it had begun
    assert not list((tmp_path / "r").glob("*/traceback.txt"))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]], ids=" ".join)
def test_a_closed_pipe_is_one_line_and_the_exit_code_of_one(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run(*arguments) == 141
    assert capsys.readouterr().err == "softadv: standard output: Broken pipe\n"


def test_an_ascii_terminal_is_shown_what_it_can_show(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_neurons(tmp_path, mnist=3614)
    with open(tmp_path / "log", "w", encoding="ascii") as log:
        monkeypatch.setattr(sys, "stdout", log)
        assert run("compare", str(folder), "--expected", str(tmp_path)) == 0
    assert "? holds" in (tmp_path / "log").read_text(encoding="ascii")
