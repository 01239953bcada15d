"""What a trial cost, counted from its epochs."""

from dataclasses import replace

import pytest

from softadv.experiments.spec import Trial
from softadv.report.costs import attack_steps, certified_images
from softadv.training.methods.base import methods
from softadv.training.records import EpochMetrics
from tests.report.trials import IMAGES, make_epoch, make_trial


def epochs(trial: Trial) -> list[EpochMetrics]:
    """Of soft training: 60 misclassified, 90 unverified and 50 verified, once there is a split."""
    found = [make_epoch(trial, epoch=epoch) for epoch in range(1, trial.epochs + 1)]
    none = {"misclassified": None, "unverified": None, "verified": None}
    return [replace(m, **none) if m.epoch <= trial.natural_epochs else m for m in found]  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "images"), [("natural", 0), ("adversarial", 5 * IMAGES), ("soft", 5 * 150)])
def test_attack_steps_are_attacked_images_times_steps(method: str, images: int) -> None:
    trial = replace(make_trial(method), epochs=5)
    assert attack_steps(trial, epochs(trial), train_images=IMAGES) == images * trial.steps


def test_attack_steps_are_told_of_methods_that_attack_each_image_once_with_all_steps() -> None:
    known = {
        name: attack_steps(
            trial := make_trial(name),
            [replace(epoch, attacked=10) for epoch in epochs(trial)],
            train_images=IMAGES,
        )
        for name in (*methods.names(), "trades(beta=6)", "fat(tau=2)")
    }
    assert {name for name, steps in known.items() if steps is None} == {"survivors", "fat", "fat(tau=2)"}
    assert {steps for steps in known.values() if steps is not None} == {2 * 10 * 3}


def test_natural_epochs_attack_nothing() -> None:
    trial = replace(make_trial(), epochs=5, natural_epochs=3)
    assert attack_steps(trial, epochs(trial), train_images=IMAGES) == 2 * 150 * trial.steps


@pytest.mark.parametrize(("split_every", "natural", "splits"), [(1, 0, 5), (2, 0, 3), (5, 0, 1), (2, 1, 2), (1, 3, 2)])
def test_a_split_asks_about_the_images_classified_correctly(split_every: int, natural: int, splits: int) -> None:
    trial = replace(make_trial(), epochs=5, split_every=split_every, natural_epochs=natural)
    assert certified_images(trial, epochs(trial)) == [140] * splits


def test_other_methods_certify_nothing() -> None:
    trial = replace(make_trial("adversarial"), epochs=5)
    assert certified_images(trial, epochs(trial)) == []
