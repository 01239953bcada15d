"""A trial: its folder, its resumption bit by bit, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from softadv import models
from softadv._io import read_json, read_tensors, write_json, write_tensors
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.records import Result
from softadv.experiments.run_folder import EXAMPLES, RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.trial import TrialRun, expected_work, run_trial
from softadv.kernels import pgd as compiled_attack
from softadv.kernels import weight_gradients as compiled_update
from softadv.kernels.cuda_graphs import Replays
from softadv.training.records import EpochMetrics
from tests.kernels.test_cuda_graphs import Repeater
from tests.networks import Dimmed

TINY = Trial(
    setting="tiny",
    dataset="digits",
    method="soft",
    seed=3,
    eps=0.03,
    alpha=0.01,
    steps=3,
    epochs=3,
    batch_size=32,
    split_every=2,
    train_images=128,
    test_images=64,
    certified_domains=("deeppoly", "box"),
)


def run_tiny(folder: Path, digits: Dataset, trial: Trial = TINY) -> Result:
    data = digits.first(train=trial.train_images, test=trial.test_images)
    return run_trial(trial, run=RunFolder(folder), data=data, report=lambda what, work, before=False: None)


@pytest.mark.usefixtures("registries")
def test_a_model_that_works_in_place_changes_neither_the_data_nor_the_examples(tmp_path: Path, digits: Dataset) -> None:
    def dimmed(shape: models.ImageShape, classes: int) -> nn.Module:
        return nn.Sequential(Dimmed(), *models.build_model("conv_small", shape, classes))

    models.register("dimmed")(dimmed)
    trial = dataclasses.replace(TINY, model="dimmed", epochs=1, train_images=32, test_images=16)
    before = digits.train_x[:32].clone(), digits.test_x[:16].clone()
    run_tiny(tmp_path / "dimmed", digits, trial)
    assert all(map(torch.equal, before, (digits.train_x[:32], digits.test_x[:16])))
    examples, _ = read_tensors(tmp_path / "dimmed" / EXAMPLES)
    assert torch.equal(examples["image"], digits.test_x[: len(examples["image"])])


def without_seconds(metrics: list[EpochMetrics]) -> list[dict[str, object]]:
    return [{k: v for k, v in dataclasses.asdict(m).items() if not k.endswith("_seconds")} for m in metrics]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """The folder of the tiny trial, run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    run_tiny(folder, digits)
    return folder


def test_a_finished_trial_leaves_everything_in_its_folder(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "checkpoint.safetensors",
        "examples.safetensors",
        "metrics.json",
        "model.onnx",
        "result.json",
        "spec.json",
        "weights.safetensors",
    ]
    result = RunFolder(whole).result()
    assert result is not None
    assert result.trial == TINY
    assert (result.train_images, result.test_images, result.neurons) == (128, 64, 3614)
    assert result.parity.classes_equal
    assert result.parity.largest_difference < 1e-5
    assert {"torch", "commit", "device", "python"} <= result.environment.keys()
    for epoch in RunFolder(whole).metrics():
        assert (epoch.misclassified or 0) + (epoch.unverified or 0) + (epoch.verified or 0) == 128
        assert epoch.engine.startswith(result.environment["device"])
        compiled = compiled_attack.available() and compiled_update.available()
        assert ("kernels there: attack, update" in epoch.engine) == compiled
        assert epoch.engine.endswith(f"commit {result.environment['commit']}")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    whole: Path, tmp_path: Path, digits: Dataset
) -> None:
    again = run_tiny(tmp_path / "again", digits)
    other = run_tiny(tmp_path / "other", digits, dataclasses.replace(TINY, seed=4))
    first = RunFolder(whole).result()
    assert first is not None
    assert again.weights_sha256 == first.weights_sha256 != other.weights_sha256
    assert without_seconds(RunFolder(tmp_path / "again").metrics()) == without_seconds(RunFolder(whole).metrics())


# Runs the tiny trial and kills itself, without warning, at the given call of os.replace: every file of
# a run comes into being there. "before" leaves a partial file behind, "after" a whole one.
DRIVER = """
import os, signal, sys
from pathlib import Path
calls, replace = 0, os.replace
def fatal(source, target):
    global calls
    calls += 1
    if calls == int(sys.argv[2]) and sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = fatal
import torch
torch.set_num_threads(int(sys.argv[4]))  # as in the test: another number of threads may sum in another order
from softadv.data import load_dataset
from tests.experiments.test_trial import run_tiny
run_tiny(Path(sys.argv[1]), load_dataset("digits"))
"""


def driven(folder: Path, *when: str) -> int:
    """Run the driver; its exit code."""
    command = [sys.executable, "-c", DRIVER, str(folder), *when, str(torch.get_num_threads())]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode


def test_a_run_killed_again_and_again_ends_bit_for_bit_like_one_never_killed(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    # Before the first metrics, between metrics and checkpoint, in the middle of a checkpoint, after one,
    # and while the final files are written.
    for call, moment in ((2, "before"), (1, "after"), (2, "before"), (4, "after"), (3, "before")):
        assert driven(folder, str(call), moment) == -signal.SIGKILL
        assert RunFolder(folder).result() is None
    assert driven(folder, "0", "never") == 0
    for name in ("weights.safetensors", "model.onnx", "examples.safetensors", "checkpoint.safetensors", "spec.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert without_seconds(RunFolder(folder).metrics()) == without_seconds(RunFolder(whole).metrics())


def test_a_finished_trial_is_not_run_again(whole: Path, digits: Dataset) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    result = run_tiny(whole, digits)
    assert result == RunFolder(whole).result()
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_all_the_work_that_was_expected_is_reported(tmp_path: Path, digits: Dataset) -> None:
    data = digits.first(train=128, test=64)
    done = []
    run_trial(
        TINY, run=RunFolder(tmp_path / "run"), data=data, report=lambda what, work, before=False: done.append(work)
    )
    assert sum(done) == expected_work(TINY, data)


def test_progress_never_runs_backwards_and_validation_has_a_part_of_its_own(tmp_path: Path, digits: Dataset) -> None:
    trial = dataclasses.replace(TINY, epochs=2, validation_images=16)
    data = digits.first(train=128, test=64)
    told: list[tuple[str, float]] = []
    run_trial(
        trial,
        run=RunFolder(tmp_path / "run"),
        data=data,
        report=lambda what, work, before=False: told.append((what, work)),
    )
    assert min(work for _, work in told) >= 0
    assert sum(work for _, work in told) == expected_work(trial, data)
    for part, images in (("evaluating", 64), ("validating", 16)):
        assert sum(work for what, work in told if what == f"epoch 2/2: {part}") == images * trial.steps


def test_epochs_whose_evaluation_is_recorded_are_plain_ones(tmp_path: Path, digits: Dataset) -> None:
    trial = dataclasses.replace(TINY, epochs=5)
    data = digits.first(train=trial.train_images, test=trial.test_images)
    metrics = []
    for recorder in (Repeater(), None):
        run = RunFolder(tmp_path / str(recorder is None))
        run.begin(trial)
        under_way = TrialRun.resume(trial, run=run, data=data, report=lambda what, work, before=False: None)
        under_way.trainer.state.replays = Replays(recorder)
        for _ in range(trial.epochs):
            under_way.train_epoch()
        metrics.append(without_seconds(run.metrics()))
        assert recorder is None or recorder.repeated > 0
    assert metrics[0] == metrics[1]


def copied(whole: Path, tmp_path: Path, *, without: str) -> Path:
    """A copy of a finished run that has yet to write some file."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in whole.iterdir():
        if path.name != without:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("damage", ["truncated", "one byte"])
def test_a_damaged_checkpoint_is_refused_by_name(whole: Path, tmp_path: Path, digits: Dataset, damage: str) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    path = folder / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(SoftadvError, match=r"checkpoint\.safetensors: .*damaged") as caught:
        run_tiny(folder, digits)
    assert "\n" not in str(caught.value)
    assert not (folder / "result.json").exists()


def test_a_checkpoint_of_other_weights_is_refused(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    (folder / "checkpoint.safetensors").write_bytes((whole / "weights.safetensors").read_bytes())
    with pytest.raises(SoftadvError, match="not a checkpoint of this trial"):
        run_tiny(folder, digits)


def test_other_images_are_refused_both_before_and_after_the_end(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    other = dataclasses.replace(digits.first(train=128, test=64), fingerprint="0" * 64)
    unfinished = copied(whole, tmp_path, without="result.json")
    for folder in (whole, unfinished):
        with pytest.raises(SoftadvError, match="run on other digits images"):
            run_trial(TINY, run=RunFolder(folder), data=other, report=lambda what, work, before=False: None)


def test_missing_metrics_are_refused(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    (folder / "metrics.json").write_text('{"epochs": []}')
    with pytest.raises(SoftadvError, match=r"metrics\.json: ends before epoch 3"):
        run_tiny(folder, digits)


def test_the_examples_agree_with_themselves(whole: Path) -> None:
    tensors, about = read_tensors(whole / "examples.safetensors")
    assert json.loads(about["class_names"]) == list("0123456789")
    moved = (tensors["attacked"] - tensors["image"]).abs()
    assert moved.max() <= TINY.eps + 1e-6
    # A verified image cannot have been broken.
    broken = tensors["predicted_attacked"] != tensors["label"]
    assert not (tensors["verified"] & broken).any()


@pytest.mark.parametrize("old", [False, True], ids=["bound", "of an earlier version"])
def test_the_checkpoint_of_another_trial_does_not_resume(
    whole: Path, tmp_path: Path, digits: Dataset, old: bool
) -> None:
    natural = dataclasses.replace(TINY, method="natural", epochs=1)
    run_tiny(tmp_path / "natural", digits, natural)
    folder = copied(whole, tmp_path, without="result.json")
    path = folder / "checkpoint.safetensors"
    tensors, about = read_tensors(tmp_path / "natural" / path.name)
    write_tensors(path, tensors, metadata=of_an_earlier_version(about) if old else about)
    with pytest.raises(SoftadvError, match=r"checkpoint\.safetensors: not a checkpoint of this trial; .*--redo copy"):
        run_tiny(folder, digits)
    assert not (folder / "result.json").exists()


def of_an_earlier_version(about: dict[str, str]) -> dict[str, str]:
    """What a checkpoint said of itself before it was bound to its trial."""
    return {key: about[key] for key in ("epoch", "data", "certifier")}


def test_a_checkpoint_of_an_earlier_version_resumes(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    path = folder / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    assert {"spec", "metrics"} <= about.keys()
    write_tensors(path, tensors, metadata=of_an_earlier_version(about))
    first = RunFolder(whole).result()
    assert first is not None
    assert run_tiny(folder, digits).weights_sha256 == first.weights_sha256


def test_epochs_that_are_not_the_checkpoints_are_refused(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    run = RunFolder(folder)
    first, *rest = run.metrics()
    run.write_metrics([dataclasses.replace(first, loss=first.loss + 1), *rest])
    with pytest.raises(SoftadvError, match=r"metrics\.json: not the epochs of the checkpoint"):
        run_tiny(folder, digits)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.onnx", "examples.safetensors", "metrics.json"])
@pytest.mark.parametrize("damage", ["deleted", "empty", "changed"])
def test_a_finished_trials_files_are_looked_at_again(
    whole: Path, tmp_path: Path, digits: Dataset, name: str, damage: str
) -> None:
    folder = copied(whole, tmp_path, without="nothing")
    path = folder / name
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes() + b" ")
    with pytest.raises(SoftadvError, match=f"{path}: .*--redo copy"):
        run_tiny(folder, digits)


def test_the_weights_of_a_result_of_an_earlier_version_are_looked_at_again(
    whole: Path, tmp_path: Path, digits: Dataset
) -> None:
    folder = copied(whole, tmp_path, without="nothing")
    table = read_json(folder / "result.json")
    del table["files"]
    write_json(folder / "result.json", table)
    assert run_tiny(folder, digits).files == {}
    (folder / "weights.safetensors").unlink()
    with pytest.raises(SoftadvError, match=r"weights\.safetensors: no such file; .*--redo copy"):
        run_tiny(folder, digits)


def test_what_a_killed_process_left_half_written_is_cleared(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    folder = copied(whole, tmp_path, without="result.json")
    elsewhere = tmp_path / "mine"
    elsewhere.write_text("mine")
    (folder / ".metrics.json.0123456789ab.partial").write_text("half")
    (folder / ".result.json.ba9876543210.partial").symlink_to(elsewhere)
    (folder / ".notes.txt.0123456789ab.partial").write_text("mine, too")
    run_tiny(folder, digits)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [
        ".notes.txt.0123456789ab.partial"
    ]
    assert elsewhere.read_text() == "mine"


def test_one_process_at_a_time_trains_a_trial(whole: Path, digits: Dataset) -> None:
    with (
        RunFolder(whole).held(),
        pytest.raises(SoftadvError, match=f"{whole}: in use by process {os.getpid()} on .* since"),
    ):
        run_tiny(whole, digits)


def test_no_trial_begins_among_somebodys_files(tmp_path: Path, digits: Dataset) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SoftadvError, match=r"not a folder that softadv made \(thesis\.tex is in it"):
        run_tiny(tmp_path, digits)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
