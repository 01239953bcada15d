"""Loggers hear each epoch's numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import softadv
from softadv import loggers
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.models import conv_small
from softadv.training.records import EpochMetrics


class Recorder:
    """Has W&B's call."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.heard.append((step, numbers))


def test_log_to_hands_over_the_numbers_of_each_epoch(digits: Dataset) -> None:
    recorder = Recorder()
    images = digits.train_x[:64], digits.train_y[:64]
    run = softadv.train(
        conv_small("digits", seed=0), images, method="natural", eps=0.1, epochs=2, callbacks=[loggers.log_to(recorder)]
    )
    assert [step for step, _ in recorder.heard] == [1, 2]
    for (_, numbers), epoch in zip(recorder.heard, run.history, strict=True):
        assert numbers["loss"] == epoch.loss
        assert numbers["attacked"] == 0
        assert "epoch" not in numbers
        assert "verified" not in numbers  # natural training makes no split
        assert all(isinstance(value, float) for value in numbers.values())


def test_log_to_takes_a_function_as_mlflow_has_it_and_refuses_what_cannot_log() -> None:
    recorder = Recorder()
    epoch = EpochMetrics(
        epoch=3, loss=0.5, natural_accuracy=None, adversarial_accuracy=None, misclassified=None, unverified=None,
        verified=None, attack_seconds=0.0, certification_seconds=0.0, update_seconds=0.0, evaluation_seconds=0.0,
    )  # fmt: skip
    loggers.log_to(recorder.log)(epoch)
    assert recorder.heard == [(3, epoch.numbers())]
    with pytest.raises(SoftadvError, match="expected a logger or a function"):
        loggers.log_to(3)  # type: ignore[arg-type]


def test_tensorboard_writes_its_files_or_says_what_is_missing(digits: Dataset, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(SoftadvError, match="TensorBoard is not installed; pip install tensorboard") as caught:
            loggers.tensorboard(tmp_path)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
        return
    images = digits.train_x[:64], digits.train_y[:64]
    callbacks = [loggers.tensorboard(tmp_path)]
    softadv.train(conv_small("digits", seed=0), images, method="natural", eps=0.1, epochs=1, callbacks=callbacks)
    assert list(tmp_path.glob("events.out.tfevents.*"))
