"""Evaluating only some epochs changes no weight, and what was not measured reads so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softadv.data import Dataset
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import Series
from softadv.experiments.trial import TrialRun, expected_work, run_trial
from softadv.report.figures import accuracy
from softadv.training.records import EpochMetrics
from tests.report.figures.test_figures import said

TRIAL = Trial(
    setting="seldom", dataset="digits", method="adversarial", seed=1, eps=0.05, alpha=0.03, steps=2, epochs=5,
    batch_size=20, train_images=80, test_images=30, certified_images=5, evaluate_every=2,
)  # fmt: skip


def quiet(what: str, work: float, *, before: bool = False, note: str = "") -> None:
    """Tells nobody."""


def ran(folder: Path, data: Dataset, trial: Trial) -> Series:
    run = RunFolder(folder)
    result = run_trial(trial, run=run, data=data, report=quiet)
    return Series(trial=trial, epochs=tuple(run.metrics()), result=result)


@pytest.fixture(scope="module")
def data(digits: Dataset) -> Dataset:
    return digits.first(train=TRIAL.train_images, test=TRIAL.test_images)


@pytest.fixture(scope="module")
def seldom(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Series:
    return ran(tmp_path_factory.mktemp("seldom") / "run", data, TRIAL)


def measured(epochs: tuple[EpochMetrics, ...]) -> list[int]:
    found = [epoch.epoch for epoch in epochs if epoch.natural_accuracy is not None]
    assert found == [epoch.epoch for epoch in epochs if epoch.adversarial_accuracy is not None]
    return found


def test_every_second_epoch_and_the_last_are_evaluated_as_they_would_be_otherwise(
    seldom: Series, data: Dataset, tmp_path: Path
) -> None:
    always = ran(tmp_path / "always", data, replace(TRIAL, evaluate_every=1))
    assert measured(always.epochs) == [1, 2, 3, 4, 5]
    assert measured(seldom.epochs) == [2, 4, 5]
    assert seldom.result is not None
    assert always.result is not None
    assert seldom.result.weights_sha256 == always.result.weights_sha256
    assert seldom.accuracies == always.accuracies
    for number in (2, 4, 5):
        one, other = seldom.epochs[number - 1], always.epochs[number - 1]
        assert (one.natural_accuracy, one.adversarial_accuracy) == (other.natural_accuracy, other.adversarial_accuracy)


def test_an_interrupted_trial_goes_on_with_the_same_epochs(seldom: Series, data: Dataset, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "cut")
    for _ in range(3):  # each goes on where the last one stopped
        with folder.begun(TRIAL):
            TrialRun.resume(TRIAL, run=folder, data=data, report=quiet).train_epoch()
    assert measured(tuple(folder.metrics())) == [2]
    result = run_trial(TRIAL, run=folder, data=data, report=quiet)
    assert measured(tuple(folder.metrics())) == [2, 4, 5]
    assert seldom.result is not None
    assert result.weights_sha256 == seldom.result.weights_sha256


def test_the_estimate_of_the_time_left_knows_it(data: Dataset) -> None:
    always, seldom = (expected_work(replace(TRIAL, evaluate_every=every), data) for every in (1, 2))
    assert always - seldom == 2 * TRIAL.steps * len(data.test_x)


def test_the_page_leaves_out_what_was_not_measured(seldom: Series) -> None:
    (panel,) = accuracy.draw([seldom])
    assert [text.split(":")[0] for text in said(panel)] == [f"Adversarial training, epoch {n}" for n in (2, 4, 5)]
    rows = [line.split(",")[-3:] for line in accuracy._csv([seldom]).splitlines()]
    assert [row[0] for row in rows if row[1:] == ["", ""]] == ["1", "3"]
    assert accuracy._caption([seldom]).endswith("Measured every 2 epochs, and after the last. One seed.")


def test_a_page_of_a_trial_that_was_not_evaluated_yet_can_be_drawn(seldom: Series) -> None:
    begun = replace(seldom, epochs=seldom.epochs[:1], result=None)
    (panel,) = accuracy.draw([begun])
    assert said(panel) == []
    assert begun.accuracies is None
    assert "no epoch was evaluated yet" in accuracy._caption([begun])


def test_loggers_hear_only_of_what_was_measured(seldom: Series) -> None:
    assert "natural_accuracy" not in seldom.epochs[0].numbers()
    assert "natural_accuracy" in seldom.epochs[1].numbers()


@pytest.mark.parametrize("every", [1, 3])
def test_stopping_early_is_decided_where_there_is_something_to_decide_by(digits: Dataset, every: int) -> None:
    import softadv

    found = softadv.train(
        softadv.conv_small("digits", seed=0), (digits.train_x[:60], digits.train_y[:60]), method="natural", eps=0.1,
        epochs=20, lr=1e-12, validation_images=20, patience=1, evaluate_every=every, attack=softadv.PGD(steps=1),
    )  # fmt: skip
    # Nothing is learnt, so the first epoch that is evaluated is the best, and the next one has no better.
    assert len(found.history) == 2 * every
    assert torch.isfinite(next(found.model.parameters())).all()
