"""Bad input is one clear line with exit code 2, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command import run


def test_a_message_does_not_repeat_thousands_of_letters(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["export", str(model), "--limit", "8", "--out", "9" * 5_000],
        ["reproduce", "g" * 5_000],
        ["certify", str(model), "--split", "s" * 5_000],
        ["certify", str(model), "--limit", "8", "--out", str(tmp_path / ("v" * 5_000))],
        ["train", "t" * 5_000],
        ["evaluate", str(model), "--dataset", "npz:" + "d" * 5_000],
    ):
        assert run(*command) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("softadv: ")
        assert len(told) < 2_000
        assert "…" in told  # so that nobody takes it for the whole


@pytest.mark.parametrize("command", ["certify", "attack", "evaluate", "parity"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--eps", "8"), "--eps: 8 is more than the width of the pixels' range [0, 1]; did you mean 8/255?"),
        (("--eps", "-0.1"), "--eps: must be 0 or more"),
        (("--eps", "nan"), "--eps: expected a number or a fraction"),
        (("--eps", "1e999999999"), "--eps: expected a number or a fraction"),
        (("--eps", "9" * 5000), "--eps: expected a number or a fraction"),
        (("--steps", "4294967296"), "--steps: must be at most 1000000"),
        (("--seed", f"1{'0' * 400}"), "--seed: must be at most"),
        (("--limit", "4294967296"), "--limit: must be at most"),
    ],
    ids=["8", "negative", "nan", "1e999999999", "5,000 digits", "steps", "seed", "limit"],
)
def test_a_number_that_means_something_else_is_refused_by_every_command(
    model: Path, capsys: pytest.CaptureFixture[str], command: str, given: tuple[str, str], said: str
) -> None:
    assert run(command, str(model), "=".join(given)) == 2
    found = capsys.readouterr().err
    assert said in found or "No such option" in found
    assert ("No such option" in found) == ((command, given[0]) in NOT_THERE)


NOT_THERE = {
    ("certify", "--steps"), ("parity", "--steps"), ("certify", "--seed"), ("parity", "--limit"),
}  # fmt: skip

WRONG = {
    "verdicts of a part": (["reproduce", "smoke", "--json", "--shard", "1/2"], "--dry-run and --shard have none"),
    "two ways of saying": (["compare", ".", "--quiet", "--json"], "--quiet, --verbose and --json: give one of them"),
    "an unknown grid": (["reproduce", "nope"], "no grid is named 'nope'"),
    "a missing grid file": (["reproduce", "nope.toml"], "nope.toml: cannot be read (No such file or directory)"),
    "an unknown method": (["reproduce", "smoke", "--methods", "softly"], "unknown method 'softly'"),
    "no method": (["reproduce", "smoke", "--methods", ""], "unknown method ''"),
    "no seeds": (["reproduce", "smoke", "--seeds", "0"], "seeds: must be at least 1, got 0"),
    "more seeds than anyone has time for": (["reproduce", "smoke", "--seeds", "4294967296"], "seeds: must be at most"),
    "more epochs than anyone has time for": (
        ["reproduce", "smoke", "--epochs", "4294967296"],
        "epochs: must be at most",
    ),
    "steps that wrap": (["train", "x", "--steps", "4294967296"], "steps: must be at most 1,000,000"),
    "a setting of many digits": (["train", "x", "--set", f"lr={'9' * 5000}"], "lr: expected"),
    "no epochs": (["reproduce", "smoke", "--epochs", "0"], "epochs: must be at least 1, got 0"),
    "seeds that are no number": (
        ["reproduce", "smoke", "--seeds", "two"],
        "--seeds: expected a whole number (see --help)",
    ),
    "an unknown device": (["reproduce", "smoke", "--device", "tpu"], "unknown name 'tpu'"),
    "an unknown option": (["reproduce", "smoke", "--epoch", "1"], "No such option: --epoch"),
    "an unknown command": (["reprodce"], "No such command 'reprodce'"),
    "a data folder that is not there": (["reproduce", "mnist", "--data", "nowhere"], "data folder nowhere: no such"),
    "an unwritable folder": (["reproduce", "smoke", "--out", "file/below"], "file/below"),
    "an eps that is no number": (["train", "x", "--eps", "a/b"], "eps: expected a number or a fraction"),
    "an eps out of range": (["train", "x", "--eps", "2"], "did you mean 2/255?"),
    "an unknown key": (["train", "x", "--set", "bach_size=3"], "unknown key 'bach_size'"),
    "an unknown attack": (["train", "x", "--set", "attack=torchattacks:Nope"], "has no attack 'Nope'"),
    "a setting without a value": (["train", "x", "--set", "lr"], "expected KEY=VALUE, got 'lr'"),
    "a model that is not there": (["certify", "nowhere"], "nowhere: no such file"),
    "a folder that is no run": (["evaluate", "."], ".: not a run folder (no spec.json in it)"),
    "a file that is no model": (["certify", "file"], "file: not a state_dict of tensors alone, or damaged"),
    "an unknown domain": (
        ["certify", "file", "--domain", "ball"],
        "--domain: 'ball' is not one of 'box', 'deepzono', 'deeppoly' (see --help)",
    ),
    "an unknown rounding": (["certify", "file", "--rounding", "up"], "--rounding: 'up' is not one of 'sound', 'none'"),
    "an unknown split": (["certify", "file", "--split", "all"], "--split: 'all' is not one of 'train', 'test'"),
    "rows in an unknown format": (
        ["certify", "file", "--out", "r.txt"],
        "expected a name that ends in .csv or .parquet",
    ),
    "rows in no folder": (["certify", "file", "--out", "no/r.csv"], "--out no/r.csv: no is not a folder"),
    "a folder that is no grid": (["compare", "."], "holds no runs"),
    "a folder with nothing to keep": (["keep", "."], ".: not the folder of a grid (no grid.json in it)"),
    "a folder that is not there to keep": (["keep", "nowhere"], "nowhere: not the folder of a grid"),
    "AutoAttack by weights, but training": (
        ["reproduce", "smoke", "--autoattack"],
        "--autoattack, --other-images: only with --from-weights",
    ),
    "expected results that are not there": (["compare", ".", "--expected", "/nowhere"], "--expected /nowhere: no such"),
    "an attack into a folder": (["attack", "file", "--save", "."], "--save .: is a folder, name a file"),
    "a model exported into no folder": (
        ["export", "file", "--out", "no/m.onnx"],
        "--out no/m.onnx: no is not a folder",
    ),
    "a fresh start of nothing": (["certify", "file", "--fresh"], "--fresh: needs --out"),
    "expected results of two folders": (
        ["report", "a", "b", "--expected", "."],
        "--expected .: two folders are compared with each other alone",
    ),
    "a trial to estimate that the grid does not have": (
        ["reproduce", "smoke", "--dry-run", "--redo", "nope"],
        "redo: smoke has no trial 'nope'",
    ),
    "weights that nobody stored": (
        ["reproduce", "smoke", "--epochs", "1", "--from-weights"],
        "of smoke with this spec; train them instead "
        "(there are weights for cifar10, controls, mnist",  # and for more, as they are stored
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    (tmp_path / "file").write_text("not a model")
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]  # nothing half-written


PATHS = [
    ["reproduce", "--out"], ["reproduce", "--data"], ["reproduce", "--expected"], ["train"],
    ["train", "x", "--data"],
    ["evaluate"], ["certify"], ["certify", "file", "--out"], ["parity"], ["attack"], ["attack", "file", "--save"],
    ["export"], ["export", "file", "--out"], ["compare"], ["compare", ".", "--out"], ["report"],
    ["report", ".", "--out"],
    ["keep"], ["keep", ".", "--reference"], ["doctor", "--data"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", PATHS, ids=" ".join)
def test_an_empty_path_is_not_the_working_directory_and_none_holds_a_zero_byte(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "") == 2
    assert "a path is needed, this is empty" in capsys.readouterr().err
    assert run(*arguments, "a\0b") == 2
    assert "the path holds a zero byte" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_no_text_is_refused_before_it_goes_into_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", os.fsdecode(b"bad\xff")) == 2
    assert "the path is not valid UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nested_brackets_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep.toml").write_text(f"name = {'[' * 5000}")
    assert run("reproduce", str(tmp_path / "deep.toml")) == 2
    assert "deep.toml: not valid TOML" in capsys.readouterr().err
    assert run("train", str(tmp_path / "x"), "--set", f"lr={'[' * 5000}") == 2
    assert capsys.readouterr().err.count("\n") == 1
