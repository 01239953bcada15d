"""Evaluating from the reference's weights: the same figures, without training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.bits import bits
from softadv._io import read_json, write_json, write_tensors
from softadv.experiments import from_weights
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.runs import read_entries
from softadv.experiments.store_reference import keep
from tests.cli.command import run
from tests.experiments.test_grid import TINY

NAMES = [f"digits-tiny-{method}-seed0" for method in ("natural", "adversarial", "soft")]
SOFT = NAMES[2]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny grid's file, its runs and the expected results with its reference. Shared: tests change copies."""
    root = tmp_path_factory.mktemp("weights")
    (root / "tiny.toml").write_text(TINY)
    assert run("reproduce", str(root / "tiny.toml"), "--out", str(root / "runs"), "--device", "cpu") == 0
    (root / "expected").mkdir()
    shutil.copy(expected_folder() / "paper.toml", root / "expected")
    keep(root / "runs", reference=root / "expected" / REFERENCE, allow_dirty=True)
    return root


@pytest.fixture
def root(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(kept, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def reproduce(*options: str) -> int:
    return run("reproduce", "tiny.toml", "--from-weights", "--expected", "expected", "--device", "cpu", *options)


def test_the_same_machine_gets_the_same_figures_without_training(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def training(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr("softadv.training.trainer.train_epoch", training)
    assert reproduce() == 0
    assert "softadv's checks: 3 hold\n" in capsys.readouterr().out  # the reference of each method
    folder = root / "runs" / "tiny-from-weights"
    for name in NAMES:
        found, before = RunFolder(folder / name), RunFolder(root / "runs" / name)
        one, other = found.result(), before.result()
        for figure in ("natural_accuracy", "adversarial_accuracy", "weights_sha256", "data_fingerprint"):
            assert getattr(one, figure) == getattr(other, figure), figure
        assert [c.verified for c in one.certified] == [c.verified for c in other.certified]
        assert found.metrics() == before.metrics()  # the reference's curves


def test_workers_evaluate_as_this_process_does(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--threads", "1") == 0
    assert reproduce("--jobs", "2", "--threads", "1", "--out", "runs/jobs") == 0
    assert bits(root / "runs" / "jobs") == bits(root / "runs" / "tiny-from-weights")
    capsys.readouterr()
    write_tensors(root / "expected/reference/tiny/weights" / f"{SOFT}.safetensors", {"0.weight": torch.zeros(1)})
    assert reproduce("--jobs", "2", "--fresh", "--out", "runs/jobs") == 2
    assert f"{SOFT}.safetensors: not the weights that {SOFT}.json records" in capsys.readouterr().err


def test_ray_evaluates_as_this_process_does(root: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    assert reproduce("--threads", "1") == 0
    words = ["reproduce", "tiny.toml", "--from-weights", "--expected", "expected", "--device", "cpu", "--threads", "1"]
    words += ["--ray", "local", "--out", "runs/ray"]
    done = subprocess.run([sys.executable, "-m", "softadv", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bits(root / "runs" / "ray") == bits(root / "runs" / "tiny-from-weights")


def test_the_folder_and_the_report_say_that_nothing_was_trained(root: Path) -> None:
    assert reproduce() == 0
    folder = root / "runs" / "tiny-from-weights"
    about = read_json(folder / "grid.json")
    assert about["name"] == "tiny-from-weights"
    assert about["description"] == "Evaluated from stored weights: nothing was trained."
    assert about["command"].startswith("./reproduce.sh tiny.toml --from-weights")
    notice = "Evaluated from stored weights, those of one seed of each setting and method: nothing was trained here; "
    assert notice in (folder / "report" / "index.html").read_text()


def test_trained_and_evaluated_runs_do_not_share_a_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--out", "runs/") == 2
    assert "runs: holds the grid tiny, not tiny-from-weights" in capsys.readouterr().err
    assert reproduce() == 0
    assert run("reproduce", "tiny.toml", "--out", "runs/tiny-from-weights") == 2
    assert "holds the grid tiny-from-weights, not tiny" in capsys.readouterr().err
    assert run("keep", "runs/tiny-from-weights", "--reference", "elsewhere") == 2
    assert "was evaluated from stored weights, nothing was trained there: not a reference" in capsys.readouterr().err
    assert not Path("elsewhere").exists()


def test_what_is_finished_is_not_computed_again_until_fresh(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    conclude = from_weights.conclude

    def counting(model, *, trial, **rest):
        computed.append(trial.name)
        return conclude(model, trial=trial, **rest)

    monkeypatch.setattr(from_weights, "conclude", counting)
    assert reproduce() == 0
    assert computed == NAMES
    Path("runs/tiny-from-weights", SOFT, "result.json").unlink()  # as where a run was stopped
    assert reproduce() == 0
    assert computed == [*NAMES, SOFT]
    assert reproduce("--fresh") == 0
    assert computed == [*NAMES, SOFT, *NAMES]


def test_trials_without_weights_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "expected/reference/tiny/weights" / f"{SOFT}.safetensors").unlink()
    assert reproduce("--seeds", "3") == 0
    assert (
        "no reference weights for digits-tiny-soft seeds 0, 1, 2; digits-tiny-natural seeds 1, 2; "
        "digits-tiny-adversarial seeds 1, 2\n"
    ) in capsys.readouterr().out
    assert [entry.name for entry in read_entries(root / "runs" / "tiny-from-weights")] == NAMES[:2]


def test_no_weights_at_all_are_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "expected/reference")
    assert reproduce() == 2
    assert capsys.readouterr().err == (
        "softadv: no reference weights for any trial of tiny with this spec; train them instead (no grid has weights)\n"
    )
    assert not (root / "runs/tiny-from-weights").exists()


def test_another_training_has_no_weights(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--epochs", "2") == 2
    assert "no reference weights for any trial of tiny with this spec" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["altered", "truncated", "exchanged"])
def test_other_weights_are_refused_and_lose_no_other_trial(
    damage: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = root / "expected/reference/tiny/weights" / f"{SOFT}.safetensors"
    if damage == "altered":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        write_tensors(weights, {name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()})
    assert reproduce() == 2
    message = {
        "altered": "damaged, its contents do not match its own checksum",
        "truncated": "not a safetensors file, or damaged",
        "exchanged": f"not the weights that {SOFT}.json records (sha256",
    }[damage]
    told = capsys.readouterr().err
    assert f"reference/tiny/weights/{SOFT}.safetensors: {message}" in told
    assert sum(line.startswith("softadv: ") for line in told.splitlines()) == len(told.splitlines())
    states = {entry.name: entry.state for entry in read_entries(root / "runs/tiny-from-weights")}
    assert states == {NAMES[0]: "finished", NAMES[1]: "finished", SOFT: "failed"}


def test_other_images_are_refused_before_anything_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        measured_on_other_images(root, name)
    assert reproduce() == 2
    told = capsys.readouterr().err
    assert "was measured on other digits images (fingerprint 000000000000, here " in told
    assert told.endswith("--other-images evaluates on these all the same\n")
    assert told.count("\n") == 1
    assert not (root / "runs/tiny-from-weights").exists()


def test_other_images_will_do_where_that_is_asked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        measured_on_other_images(root, name)
    assert reproduce("--other-images") == 0
    assert "was measured on other digits images" in capsys.readouterr().out
    page = (root / "runs/tiny-from-weights/report/index.html").read_text()
    assert "), on other digits images" in page


def test_a_result_on_other_images_is_not_taken_for_this_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce() == 0
    path = root / "runs/tiny-from-weights" / SOFT / "result.json"
    write_json(path, read_json(path) | {"data_fingerprint": "0" * 64})
    assert reproduce() == 2
    assert f"{SOFT}: was measured on other digits images (fingerprint 000000000000, here" in capsys.readouterr().err


def test_autoattack_is_left_out_unless_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        path = root / "expected/reference/tiny" / f"{name}.json"
        table = read_json(path)
        table["spec"]["autoattack_images"] = 4
        write_json(path, table)
    Path("tiny.toml").write_text(TINY + "autoattack_images = 4\n")
    assert reproduce("--methods", "natural") == 0
    assert "AutoAttack is left out" in capsys.readouterr().out
    assert RunFolder(root / "runs/tiny-from-weights" / NAMES[0]).result().autoattack is None
    asked = []

    def autoattack(model, *, trial, **rest):
        asked.append(trial.autoattack_images)

    monkeypatch.setattr("softadv.experiments.final_evaluation._autoattack", autoattack)
    assert reproduce("--methods", "natural", "--autoattack", "--fresh") == 0
    assert asked == [4]


def measured_on_other_images(root: Path, name: str) -> None:
    path = root / "expected/reference/tiny" / f"{name}.json"
    table = read_json(path)
    table["result"]["data_fingerprint"] = "0" * 64
    write_json(path, table)
