"""Stopping early: when, with which weights, and the same ones after any interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from softadv._io import read_tensors, write_tensors
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments import from_weights
from softadv.experiments.executors.images import Source
from softadv.experiments.records import Result
from softadv.experiments.run_folder import CHECKPOINT, WEIGHTS, RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.trial import TrialRun, run_trial, split_off
from softadv.training.config import generator_for
from softadv.training.early_stopping import Best
from softadv.training.records import EpochMetrics

# After four epochs the rate is so large that what was learnt is lost: better than before will not come.
TRIAL = Trial(
    setting="early", dataset="digits", method="adversarial", seed=1, eps=0.05, alpha=0.03, steps=2, epochs=12,
    batch_size=20, lr=0.005, schedule="steps", schedule_epochs=(4,), schedule_factor=100.0,
    validation_images=60, patience=2, train_images=160, test_images=40,
)  # fmt: skip


def told(what: str, work: float, *, before: bool = False, note: str = "") -> None:
    """Tells nobody."""


def ran(folder: Path, digits: Dataset, trial: Trial = TRIAL) -> Result:
    data = digits.first(train=trial.train_images, test=trial.test_images)
    return run_trial(trial, run=RunFolder(folder), data=data, report=told)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """The folder of the trial, run without interruption. Shared: tests must not change it."""
    folder = tmp_path_factory.mktemp("whole") / "early"
    ran(folder, digits)
    return folder


def best_of(metrics: list[EpochMetrics]) -> EpochMetrics:
    """The first of the epochs with the largest adversarial accuracy on the validation images."""
    return max(metrics, key=lambda epoch: (epoch.validation_adversarial_accuracy or 0.0, -epoch.epoch))


def test_it_stops_when_no_better_epoch_has_come_for_so_long(whole: Path) -> None:
    metrics = RunFolder(whole).metrics()
    best = best_of(metrics)
    assert len(metrics) == min(best.epoch + 2, TRIAL.epochs)
    assert len(metrics) <= 6
    for end in range(1, len(metrics)):
        assert end - best_of(metrics[:end]).epoch < 2  # it stopped at the first occasion


def test_the_result_is_the_best_epochs(whole: Path, tmp_path: Path, digits: Dataset) -> None:
    """Of an epoch on the images that no epoch was trained on, and with the weights of that many epochs."""
    best = best_of(RunFolder(whole).metrics())
    result = RunFolder(whole).result()
    assert result is not None
    assert (result.natural_accuracy, result.adversarial_accuracy) == (best.natural_accuracy, best.adversarial_accuracy)
    shorter = ran(tmp_path / "shorter", digits, replace(TRIAL, patience=None, epochs=best.epoch))
    assert shorter.weights_sha256 == result.weights_sha256


@pytest.mark.parametrize("after", ["every epoch", "the last epoch"])
def test_resumed_after_a_kill_it_ends_with_the_same_weights(
    whole: Path, tmp_path: Path, digits: Dataset, after: str
) -> None:
    data = digits.first(train=TRIAL.train_images, test=TRIAL.test_images)
    folder = RunFolder(tmp_path / "killed")
    folder.begin(TRIAL)
    under_way = TrialRun.resume(TRIAL, run=folder, data=data, report=told)
    while not under_way.trainer.is_done:
        under_way.train_epoch()
        if after == "every epoch":  # nothing but the folder is left
            under_way = TrialRun.resume(TRIAL, run=folder, data=data, report=told)
    result = ran(folder.path, digits)
    first = RunFolder(whole).result()
    assert first is not None
    assert result.weights_sha256 == first.weights_sha256
    assert result.adversarial_accuracy == first.adversarial_accuracy
    found, expected = (read_tensors(path / "checkpoint.safetensors") for path in (folder.path, whole))
    assert {key: value for key, value in found[1].items() if key != "metrics"} == {
        key: value for key, value in expected[1].items() if key != "metrics"  # which hold seconds
    }  # fmt: skip
    assert all(torch.equal(value, expected[0][name]) for name, value in found[0].items())


def test_without_patience_every_epoch_is_trained_and_the_last_one_counts(tmp_path: Path, digits: Dataset) -> None:
    trial = replace(TRIAL, patience=None, epochs=4)
    result = ran(tmp_path / "run", digits, trial)
    metrics = RunFolder(tmp_path / "run").metrics()
    assert [epoch.epoch for epoch in metrics] == [1, 2, 3, 4]
    assert result.adversarial_accuracy == metrics[-1].adversarial_accuracy
    state, about = read_tensors(tmp_path / "run" / CHECKPOINT)
    assert not any(name.startswith("best") for name in (*state, *about))  # nobody will ask for it


def test_a_best_epoch_that_an_earlier_version_wrote_for_nothing_is_ignored(tmp_path: Path, digits: Dataset) -> None:
    trial = replace(TRIAL, patience=None, epochs=3)
    ran(tmp_path / "whole", digits, trial)
    folder, data = RunFolder(tmp_path / "run"), digits.first(train=trial.train_images, test=trial.test_images)
    folder.begin(trial)
    TrialRun.resume(trial, run=folder, data=data, report=told).train_epoch()
    state, about = read_tensors(folder.path / CHECKPOINT)
    state |= {name.replace("model.", "best."): value + 1 for name, value in state.items() if name.startswith("model.")}
    about |= {"best_epoch": "1", "best_accuracy": (0.5).hex()}
    write_tensors(folder.path / CHECKPOINT, state, metadata=about)
    ran(folder.path, digits, trial)
    expected, found = (read_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "run"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_validation_images_are_the_last_training_images_and_are_not_trained_on(digits: Dataset) -> None:
    data = digits.first(train=160, test=40)
    (x, y), validation = split_off(data, 60)
    assert validation is not None
    assert torch.equal(torch.cat([x, validation[0]]), data.train_x)
    assert torch.equal(torch.cat([y, validation[1]]), data.train_y)
    assert len(x) == 100
    assert split_off(data, 0)[1] is None
    with pytest.raises(SoftadvError, match=r"^validation_images: 160 of 160 training images"):
        split_off(data, 160)


def test_training_does_not_depend_on_what_the_validation_images_are(tmp_path: Path, digits: Dataset) -> None:
    trial = replace(TRIAL, patience=None, epochs=2)
    without = replace(trial, validation_images=0, train_images=100)
    results = [ran(tmp_path / str(one.validation_images), digits, one) for one in (trial, without)]
    assert results[0].weights_sha256 == results[1].weights_sha256
    metrics = [RunFolder(tmp_path / name).metrics()[-1] for name in ("60", "0")]
    assert metrics[0].validation_natural_accuracy is not None
    assert metrics[1].validation_natural_accuracy is None
    assert metrics[0].attacked == metrics[1].attacked == 100


def test_of_equal_epochs_the_first_is_the_best() -> None:
    model, best = nn.Linear(1, 1), Best(patience=2)
    for epoch, accuracy in enumerate((0.5, 0.7, 0.7, 0.6), start=1):
        nn.init.constant_(model.weight, epoch)
        best.look(model, epoch=epoch, accuracy=accuracy)
    assert (best.epoch, best.accuracy) == (2, 0.7)
    assert [best.is_stale(epoch=epoch) for epoch in (3, 4, 5)] == [False, True, True]
    best.restore(model)
    assert model.weight.item() == 2


def test_its_weights_are_evaluated_as_the_epoch_did_that_ended_with_them(
    whole: Path, tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def generator(seed: int, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
        asked.append((epoch, purpose))
        return generator_for(seed, epoch, purpose, device)

    monkeypatch.setattr(from_weights, "generator_for", generator)
    data = digits.first(train=TRIAL.train_images, test=TRIAL.test_images)
    metrics = RunFolder(whole).metrics()
    job = from_weights.EvaluationJob(
        trial=TRIAL, folder=tmp_path, files={}, source=Source("digits", None, 160, 40, data.fingerprint), device="cpu",
        path=whole / WEIGHTS, weights=(whole / WEIGHTS).read_bytes(), epochs=tuple(metrics),
    )  # fmt: skip
    job.work(RunFolder(tmp_path / TRIAL.name), data, report=told, on_kept=lambda: None)
    assert asked == [(best_of(metrics).epoch, "evaluation")]
    again, result = RunFolder(tmp_path / TRIAL.name).result(), RunFolder(whole).result()
    assert again is not None
    assert result is not None
    assert again.adversarial_accuracy == result.adversarial_accuracy
