"""softadv.train is the grids' training, bit for bit, and its history is what happened."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import softadv
from softadv._io import read_tensors
from softadv.attacks import PGD
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.trial import run_trial
from softadv.models import conv_small
from softadv.training.methods import Adversarial, Soft
from softadv.training.records import EpochMetrics

TRIAL = Trial(
    setting="tests", dataset="digits", method="soft", seed=3, eps=0.02, alpha=0.01, steps=3, epochs=4, batch_size=32,
    split_every=2, train_images=160, test_images=40, certified_domains=("deeppoly",),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(digits: Dataset) -> Dataset:
    return digits.first(train=TRIAL.train_images, test=TRIAL.test_images)


def trained(data: Any, **settings: Any) -> softadv.Trained:
    """The trial's training by the library."""
    told: dict[str, Any] = {
        "method": Soft(split_every=2), "eps": TRIAL.eps, "attack": PGD(alpha=TRIAL.alpha, steps=TRIAL.steps),
        "epochs": TRIAL.epochs, "seed": TRIAL.seed, "batch_size": TRIAL.batch_size,
    }  # fmt: skip
    return softadv.train(conv_small("digits", seed=TRIAL.seed), data, **told | settings)


@pytest.fixture(scope="module")
def whole(data: Dataset) -> softadv.Trained:
    return trained(data)


def without_seconds(epoch: EpochMetrics) -> dict[str, object]:
    return {
        key: value
        for key, value in softadv.History((epoch,)).to_records()[0].items()
        if not key.endswith("seconds") and key != "engine"
    }


def equal(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


def test_it_ends_with_the_weights_of_the_trial(whole: softadv.Trained, data: Dataset, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "trial")
    run_trial(TRIAL, run=run, data=data, report=lambda *_, **__: None)
    assert equal(whole.model, read_tensors(run.path / "weights.safetensors")[0])
    assert [without_seconds(epoch) for epoch in whole.history] == [without_seconds(epoch) for epoch in run.metrics()]
    assert any(epoch.verified for epoch in whole.history)  # so that the split mattered


def test_tensors_train_as_a_data_set_does_and_nothing_is_evaluated(whole: softadv.Trained, data: Dataset) -> None:
    found = trained((data.train_x, data.train_y))
    assert equal(found.model, whole.model.state_dict())
    assert [epoch.loss for epoch in found.history] == [epoch.loss for epoch in whole.history]
    assert all(e.natural_accuracy is None and e.adversarial_accuracy is None for e in found.history)


def test_callbacks_and_progress_hear_of_every_epoch(whole: softadv.Trained, data: Dataset) -> None:
    heard: list[EpochMetrics] = []
    told: set[str] = set()
    found = trained(data, epochs=2, callbacks=[heard.append], on_progress=lambda what, done: told.add(what))
    assert heard == list(found.history)
    assert [epoch.epoch for epoch in heard] == [1, 2]
    assert told == {"certifying", "training", "evaluating"}
    assert [epoch.loss for epoch in heard] == [epoch.loss for epoch in whole.history[:2]]


def test_a_history_is_a_sequence_and_a_table(whole: softadv.Trained) -> None:
    history = whole.history
    assert len(history) == TRIAL.epochs
    assert history[-1].epoch == TRIAL.epochs
    records = history.to_records()
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert EpochMetrics(**records[0]) == history[0]  # type: ignore[arg-type]
    if importlib.util.find_spec("pandas") is not None:
        frame = history.to_frame()
        assert list(frame.loss) == [epoch.loss for epoch in history]
        assert len(frame) == TRIAL.epochs


def test_without_pandas_a_table_says_what_is_missing(whole: softadv.Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(SoftadvError) as caught:
        whole.history.to_frame()
    assert str(caught.value) == "history.to_frame: pandas is not installed; pip install pandas"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_trained_in_place_and_left_in_its_mode(data: Dataset, training: bool) -> None:
    model = conv_small("digits", seed=0).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = softadv.train(model, data, method="natural", eps=0.1, epochs=1)
    assert found.model is model
    assert model.training == training
    assert not equal(model, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, r"did you mean 8/255\?"),
        ({"epochs": 0}, "epochs: must be at least 1"),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"method": "sofd"}, "did you mean soft"),
        ({"attack": "pdg"}, "did you mean pgd"),
        ({"attack": 3}, "expected an attack"),
        (
            {"method": "natural", "augment": "crop-flip"},
            "augment: 'crop-flip' is not for Digits, whose mirrored images change class",
        ),
        ({"schedule_epochs": 3}, "schedule_epochs: without effect on the schedule constant"),
        ({"patience": 2}, "patience: stopping early needs validation_images"),
        ({"validation_images": 160}, "validation_images: must be at most 159"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(data: Dataset, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SoftadvError, match=message) as caught:
        trained(data, **settings)
    assert "\n" not in str(caught.value)


def test_images_of_0_to_255_are_refused(data: Dataset) -> None:
    with pytest.raises(SoftadvError, match=r"outside clip|outside \[0, 1\]"):
        trained((255 * data.train_x, data.train_y), method="natural")


def test_a_model_without_parameters_cannot_be_trained(data: Dataset) -> None:
    with pytest.raises(SoftadvError, match="model: has no parameters"):
        softadv.train(nn.Flatten(), data, eps=0.1)


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_labels_that_the_model_has_no_class_for_are_refused(data: Dataset, labels: list[int]) -> None:
    low, high = labels
    with pytest.raises(SoftadvError, match=rf"^y: labels lie in {low}..{high}, the model has classes 0..9$"):
        trained((data.train_x[:2], torch.tensor(labels)))


def test_test_images_that_do_not_fit_are_refused_before_the_first_epoch(data: Dataset) -> None:
    model, few = conv_small("digits", seed=0), replace(data, train_y=data.train_y.clamp(max=7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seven = nn.Sequential(nn.Flatten(), nn.Linear(784, 8))
    with pytest.raises(SoftadvError, match=r"^test images: y: labels lie in 0..9, the model has classes 0..7$"):
        softadv.train(seven, few, method="natural", eps=0.1, epochs=1)
    dark = replace(data, train_x=data.train_x / 2)
    with pytest.raises(SoftadvError, match=r"^test images: x: pixels lie in \[0, 1\], outside clip \[0, 0.5\]$"):
        softadv.train(model, dark, method="natural", eps=0.1, epochs=1, clip=(0.0, 0.5))
    assert equal(model, before)


def test_no_images_are_named_as_what_is_missing(data: Dataset) -> None:
    with pytest.raises(SoftadvError, match=r"^data: no images to train on$"):
        trained((data.train_x[:0], data.train_y[:0]))


def test_numbers_of_any_kind_are_taken(data: Dataset) -> None:
    images = data.train_x[:40], data.train_y[:40]
    expected = trained(images, method="adversarial", schedule="steps", schedule_epochs=(2,), epochs=3)
    found = trained(
        images, method="adversarial", schedule="steps", schedule_epochs=np.array([2]), epochs=np.int32(3),
        seed=np.int64(TRIAL.seed), batch_size=np.int64(TRIAL.batch_size), lr=Fraction(1, 1000),
    )  # fmt: skip
    assert equal(found.model, expected.model.state_dict())


def test_a_radius_of_the_method_is_held_to_the_range_of_the_pixels(data: Dataset) -> None:
    images = (255 * data.train_x[:16]).round(), data.train_y[:16]
    settings: dict[str, Any] = {"attack": PGD(steps=1), "epochs": 1, "eps": 8.0, "clip": (0, 255)}
    found = trained(images, method=Adversarial(train_eps=4.0), **settings)
    assert [epoch.attacked for epoch in found.history] == [16]
    with pytest.raises(SoftadvError, match=r"training radius: 300 is more than the width .* \[0, 255\]$"):
        trained(images, method=Adversarial(train_eps=300.0), **settings)


def dropped(images: tuple[Tensor, Tensor], **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    return softadv.train(model, images, method="adversarial", eps=0.02, epochs=2, **settings).model


def test_a_dropout_draws_the_numbers_of_the_seed_and_nobody_elses(data: Dataset) -> None:
    images = data.train_x[:40], data.train_y[:40]
    first = dropped(images)
    before = torch.get_rng_state()
    dropped(images)
    torch.set_rng_state(before)
    # Whatever others draw meanwhile, an epoch draws the same, so that a resumed training ends with the same bits.
    again = dropped(images, callbacks=[lambda _: torch.rand(3)])
    assert equal(again, first.state_dict())
    assert not equal(dropped(images, seed=1), first.state_dict())


def test_training_leaves_the_global_generator_where_it_was(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    before = torch.get_rng_state()
    softadv.train(model, (data.train_x[:8], data.train_y[:8]), method="natural", eps=0.1, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_of_another_range_are_attacked_and_certified_within_it(data: Dataset) -> None:
    x, y = 2 * data.train_x[:60] - 1, data.train_y[:60]
    seen: list[Tensor] = []

    class Watched(PGD):
        def climb(self, model: nn.Module, x: Tensor, y: Tensor, point: Tensor, *, eps: float) -> Tensor:
            found = super().climb(model, x, y, point, eps=eps)
            seen.append(found.clone())
            return found

    model = conv_small("digits", seed=0)
    expected = softadv.partition(model, x, y, eps=0.04, clip=(-1.0, 1.0))
    found = softadv.train(model, (x, y), eps=0.04, epochs=1, attack=Watched(steps=3), clip=(-1, 1))
    assert torch.cat(seen).min() < -0.5
    assert torch.cat(seen).min() >= -1
    assert found.history[0].verified == int(expected.verified.sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": (-1, 1), "attack": "torchattacks:FGSM"}, "clip: FGSM keeps pixels within"),
        ({"attack": PGD(clip=(-1.0, 1.0))}, "clip: PGD keeps pixels within"),
        ({"clip": (1, 0)}, "clip: expected the lowest and the highest pixel"),
    ],
)
def test_an_attack_of_another_range_is_refused(data: Dataset, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SoftadvError, match=message):
        trained((data.train_x[:8], data.train_y[:8]), **settings)


def test_methods_are_had_by_their_short_address() -> None:
    from softadv.methods import Method
    from softadv.methods import Soft as Short

    assert Short is Soft
    assert issubclass(Short, Method)
    assert softadv.methods.soft.Soft is Soft
    assert softadv.methods.Soft is Soft


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("mlp", (torch.rand(2, 1, 28, 28), torch.zeros(2).long()), r"model: expected a torch.nn.Module, got 'mlp'; "),
        (nn.Flatten(), "digits", r"data: expected a softadv.Dataset, or tensors \(images, labels\), got 'digits'; "),
        (
            nn.Flatten(),
            ([[0.5]], [0]),
            r"data: expected a softadv.Dataset, or tensors \(images, labels\), got a tuple; ",
        ),
        (nn.Flatten(), torch.rand(2, 1, 28, 28), r"data: expected a softadv.Dataset, .*, got a Tensor; "),
    ],
)
def test_another_kind_of_model_or_data_is_refused_in_one_line(model: Any, data: Any, message: str) -> None:
    for ask in (softadv.evaluate, softadv.train):
        with pytest.raises(SoftadvError, match=rf"^{message}softadv.load_(model|dataset) makes one$"):
            ask(model, data, eps=0.1)


@pytest.mark.parametrize("callbacks", [print, [3]])
def test_callbacks_that_cannot_be_called_are_refused_before_the_first_epoch(callbacks: Any, data: Dataset) -> None:
    model = conv_small("digits", seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(SoftadvError, match=r"^callbacks: expected a list of functions"):
        softadv.train(model, data, method="natural", eps=0.1, epochs=1, callbacks=callbacks)
    assert all(map(torch.equal, before, model.parameters()))


def test_one_attack_may_be_named_without_a_list(data: Dataset) -> None:
    model = conv_small("digits", seed=0)
    one, several = (softadv.evaluate(model, data, eps=0.1, attacks=attacks) for attacks in ("pgd", ["pgd"]))
    assert one == several
