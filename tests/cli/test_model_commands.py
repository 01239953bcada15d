"""Commands about a model: a run folder, softadv's weights, and those of others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import softadv
from softadv.data import load_dataset
from softadv.experiments.load_model import load_saved
from softadv.models import conv_small, load_model
from tests.cli.command import run


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


def theirs(path: Path, model: Path) -> bytes:
    """Write the network of a run as another program would have exported it; returns the file's bytes."""
    proto = onnx.load(model / "model.onnx")
    proto.producer_name = "another"
    path.write_bytes(proto.SerializeToString())
    return path.read_bytes()


def test_export_overwrites_what_softadv_exported_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network, other = theirs(Path("model.onnx"), model), theirs(Path("other.onnx"), model)
    save_file(conv_small("digits", seed=0).state_dict(), "w.safetensors")
    Path("link.onnx").symlink_to("nowhere.onnx")
    Path("text.onnx").write_text("notes")
    digits, few = ["--dataset", "digits"], ["--limit", "4"]
    rival = model.with_name("digits-tiny-adversarial-seed0")
    before = {path: path.read_bytes() for folder in (model, rival) for path in folder.iterdir()}
    for arguments, message in (
        (["model.onnx", *digits], "model.onnx: --out is needed"),
        (["other.onnx", *digits], "other.onnx: --out is needed"),
        (["other.onnx", *digits, "--out", "model.onnx"], "--out model.onnx: is there already, and softadv did not"),
        (["other.onnx", *digits, "--out", "other.onnx"], "--out other.onnx: is the model itself"),
        (["w.safetensors", *digits], "--out model.onnx: is there already, and softadv did not"),
        (["w.safetensors", *digits, "--out", "w.safetensors"], "--out w.safetensors: is the model itself"),
        ([str(model), "--out", "link.onnx"], "--out link.onnx: is there already"),
        ([str(model), "--out", "text.onnx"], "--out text.onnx: is there already"),
        ([str(model), "--out", str(rival / "model.onnx")], f"is a file of the trial in {rival}"),
        ([str(model), "--out", str(model / "weights.safetensors")], f"is a file of the trial in {model}"),
    ):
        assert run("export", *arguments, *few) == 2, arguments
        assert message in capsys.readouterr().err
    for own in ([str(model)], [str(model / "weights.safetensors")], [str(model), "--out", "new.onnx"]):
        assert run("export", *own, *few) == run("export", *own, *few) == 0
    assert run("export", str(model), "--out", str((model / "model.onnx").resolve()), *few) == 0
    assert Path("model.onnx").read_bytes() == network
    assert Path("other.onnx").read_bytes() == other
    assert not Path("nowhere.onnx").exists()
    assert {path: path.read_bytes() for path in before} == before


def test_attack_overwrites_its_own_images_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"image": torch.zeros(1), "attacked": torch.zeros(1), "label": torch.zeros(1)}, "foreign.safetensors")
    Path("text").write_text("notes")
    os.mkfifo("pipe")
    before = {path: path.read_bytes() for path in (*model.iterdir(), *tmp_path.iterdir()) if path.is_file()}
    for target in ("foreign.safetensors", "text", "pipe", *(path for path in before if path.parent == model)):
        assert run("attack", str(model), "--limit", "4", "--save", str(target)) == 2
        assert f"--save {target}: is " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert Path("pipe").is_fifo()
    for _ in range(2):
        assert run("attack", str(model), "--limit", "4", "--save", "found.safetensors") == 0


OWN = """
def none(model, x, y, *, eps, generator):
    return x

class Any:
    def __init__(self, **settings):
        assert settings["steps"] == 7

    def __call__(self, model, x, y, *, eps, generator):
        return x
"""


@pytest.mark.parametrize("command", ["evaluate", "attack"])
def test_a_setting_that_the_attack_does_not_take_is_refused_and_not_needed(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_without.py").write_text(OWN)
    for attack, setting in (
        ("torchattacks:FGSM", "--steps=100"),
        ("torchattacks:FGSM", "--alpha=0.3"),
        ("torchattacks:AutoAttack", "--steps=5"),
        ("own_without:none", "--alpha=0.1"),
    ):
        assert run(command, str(model), "--limit", "4", "--attack", attack, setting) == 2
        option, _, value = setting.partition("=")
        assert f"{option} {value}: the attack '{attack}' has no such setting" in capsys.readouterr().err
    assert run(command, str(model), "--limit", "4", "--attack", "own_without:Any", "--steps", "7") == 0
    assert run(command, str(model), "--limit", "4", "--attack", "torchattacks:PGD", "--steps", "7") == 0
    save_file(conv_small("digits", seed=0).state_dict(), "w.safetensors")
    foreign = ["w.safetensors", "--dataset", "digits", "--eps", "0.02", "--limit", "4"]
    assert run(command, *foreign, "--attack", "torchattacks:FGSM") == 0
    capsys.readouterr()
    assert run(command, *foreign, "--attack", "torchattacks:FFGSM") == 2
    assert "w.safetensors: --alpha is needed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "certify", "attack"])
def test_an_onnx_file_takes_no_name_of_a_network(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.onnx"
    shutil.copy(model / "model.onnx", net)
    given = [str(net), "--dataset", "digits", "--eps", "0.1", "--limit", "4"]
    given += [] if command == "certify" else ["--alpha", "0.1", "--steps", "1"]
    assert run(command, *given, "--model", "conv_small") == 2
    assert f"{net}: says itself what its network is; leave out --model" in capsys.readouterr().err
    assert run(command, *given) == 0


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
