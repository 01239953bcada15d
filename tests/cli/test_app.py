"""The command line end to end, on a tiny grid, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from safetensors.torch import load_file, save_file

import softadv
from softadv.cli.app import app, main
from softadv.data import load_dataset
from softadv.experiments.load_model import load_saved
from softadv.models import conv_small, load_model
from tests.experiments.test_grid import TINY


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny grid's folder, with the grid's file beside it."""
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.toml").write_text(TINY)
    return Path(shutil.copytree(tiny, root / "runs"))


@pytest.fixture
def model(folder: Path) -> Path:
    return folder / "digits-tiny-soft-seed0"


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


def test_evaluate_certify_attack_and_export_take_a_run_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", str(model), "--limit", "16") == 0
    assert "certified accuracy (deeppoly)" in capsys.readouterr().out
    assert run("certify", str(model), "--limit", "16", "--domain", "box", "--eps", "1/255") == 0
    told = " ".join(capsys.readouterr().out.split())  # the title is broken where the path before it is long
    assert "16 test images of digits, box by native 0.1.0 (any summation order), eps 0.00392157" in told
    saved = tmp_path / "found.safetensors"
    assert run("attack", str(model), "--limit", "16", "--save", str(saved), "--eps", "0.05") == 0
    found = load_file(saved)
    assert found["attacked"].shape == (16, 1, 28, 28)
    assert (found["attacked"] - found["image"]).abs().max() <= 0.05 + 1e-6
    assert run("export", str(model), "--out", str(tmp_path / "m.onnx"), "--limit", "16") == 0
    assert (tmp_path / "m.onnx").exists()


def test_evaluate_at_several_radii_gives_the_librarys_curve(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", str(model), "--limit", "16", "--eps", "0,1/255, 8/255") == 0
    told = " ".join(capsys.readouterr().out.split())
    images = load_dataset("digits")
    network = load_saved(model, device=torch.device("cpu"))
    curve = softadv.certified_curve(network, images.test_x[:16], images.test_y[:16], eps=[0, 1 / 255, 8 / 255])
    for text, accuracy in zip(("0", "1/255", "8/255"), curve.values(), strict=True):
        assert f"certified accuracy (deeppoly), eps {text} {accuracy}" in told
    assert "adversarial" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "0,1/255", "--steps", "3"], "--steps: needs one radius; several, --eps 0,1/255, give a curve"),
        (["--eps", "0,"], "--eps: expected a number or a fraction such as 8/255, got ''"),
        (["--eps", "0,2"], "--eps: 2 is more than the width of the pixels' range"),
    ],
)
def test_several_radii_are_each_a_radius_and_have_no_attack(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("evaluate", str(model), *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_weights_file_of_softadv_needs_no_numbers(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", str(model / "weights.safetensors"), "--limit", "8") == 0
    assert "8 test images of digits, eps" in capsys.readouterr().out


def test_other_weights_need_theirs_and_all_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    save_file(conv_small("mnist", seed=0).state_dict(), "w.safetensors")
    assert run("evaluate", "w.safetensors") == 2
    assert "w.safetensors: --dataset, --eps, --alpha and --steps are needed" in capsys.readouterr().err
    assert run("certify", "w.safetensors", "--dataset", "mnist") == 2
    assert "w.safetensors: --eps is needed" in capsys.readouterr().err
    assert not Path("data").exists()  # said before any download
    numbers = ["--dataset", "digits", "--eps", "0.02", "--alpha", "0.01", "--steps", "2"]
    assert run("evaluate", "w.safetensors", "--limit", "8", *numbers) == 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_network_are_used_by_every_command_that_is_told_its_name(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_model("mlp", load_dataset("digits"), seed=0).state_dict()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        save_file(state, path)
    named = [str(path), "--dataset", "digits", "--limit", "8", "--model", "mlp"]
    eps, attack = ["--eps", "0.02"], ["--alpha", "0.01", "--steps", "2"]
    assert run("evaluate", *named, *eps, *attack) == 0
    assert run("attack", *named, *eps, *attack) == 0
    assert run("certify", *named, *eps) == 0
    assert run("export", *named, "--out", str(tmp_path / "mlp.onnx")) == 0
    capsys.readouterr()
    assert run("certify", *named[:-2], *eps) == 2  # the network is taken for the paper's
    assert "not the weights of conv_small" in capsys.readouterr().err


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


def test_an_interrupted_command_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softadv.cli.grid_commands.run_trial", interrupted)
    assert run("train", str(tmp_path / "x")) == 130
    assert "interrupted; given again" in capsys.readouterr().err


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


@pytest.mark.parametrize("command", ["evaluate", "attack", "export"])
def test_a_model_that_diverged_has_no_accuracy_and_makes_no_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = conv_small("digits", seed=0).state_dict()
    save_file(weights | {"0.weight": weights["0.weight"] * float("nan")}, "w.safetensors")
    numbers = [] if command == "export" else ["--eps", "0.1", "--alpha", "0.1", "--steps", "1"]
    files = {"attack": ["--save", "found"], "export": ["--out", "m.onnx"]}.get(command, [])
    assert run(command, "w.safetensors", "--dataset", "digits", "--limit", "4", *numbers, *files) == 2
    captured = capsys.readouterr()
    assert "the scores of image 0 are NaN or infinite" in captured.err
    assert "%" not in captured.out.replace("%)", "")  # of the progress
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


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
