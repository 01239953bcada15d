"""softadv.evaluate and softadv.certified_curve say how many images are classified correctly, and how sure that is."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import softadv
from softadv.attacks import PGD
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.evaluate import Accuracy, Evaluation
from softadv.training.evaluation import attack_images, natural_accuracy

EPS = 0.03
Pair = tuple[Tensor, Tensor]


@pytest.fixture
def images(digits: Dataset) -> Pair:
    return digits.test_x[:60], digits.test_y[:60]


def test_the_interval_is_wilsons() -> None:
    """Wilson's formula for 8 of 10, by hand: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)."""
    n, p, z = 10, 0.8, 1.959963984540054
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    assert expected == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert Accuracy(correct=8, images=10).interval == pytest.approx(expected)
    assert Accuracy(correct=10, images=10).interval[1] == pytest.approx(1)
    assert Accuracy(correct=0, images=10).interval[0] == pytest.approx(0)


def test_natural_and_adversarial_accuracy_are_counts(trained_digits: nn.Module, images: Pair) -> None:
    x, y = images
    found = softadv.evaluate(trained_digits, images, eps=EPS, seed=5)
    assert found.natural.value == natural_accuracy(trained_digits, x, y)
    generator = torch.Generator().manual_seed(5)
    attacked = attack_images(trained_digits, x, y, attack=partial(PGD(steps=20), eps=EPS), generator=generator)
    assert found.adversarial.keys() == {"PGD"}
    assert found.adversarial["PGD"].value == natural_accuracy(trained_digits, attacked, y)
    assert found.certified is None
    assert found == softadv.evaluate(trained_digits, images, eps=EPS, seed=5)


def test_a_data_set_stands_for_its_test_images(trained_digits: nn.Module, digits: Dataset) -> None:
    found = softadv.evaluate(trained_digits, digits, eps=EPS, attacks=[])
    assert found.natural == Accuracy(correct=round(found.natural.value * 360), images=360)
    assert found.adversarial == {}


def test_attacks_go_by_name_and_two_of_one_name_are_told_apart(trained_digits: nn.Module, images: Pair) -> None:
    told: list[str] = []
    attacks = ["pgd", PGD(steps=1, alpha=0.0), "torchattacks:FGSM", PGD(steps=30)]
    found = softadv.evaluate(
        trained_digits, images, eps=0.2, attacks=attacks, on_progress=lambda what, done: told.append(what)
    )
    assert list(found.adversarial) == told == ["PGD", "PGD (2)", "FGSM", "PGD (3)"]
    assert found.adversarial["PGD"].correct < found.adversarial["PGD (2)"].correct <= found.natural.correct


@pytest.mark.parametrize(("certify", "count"), [(True, 60), (7, 7), (1000, 60)])
def test_as_many_images_are_certified_as_asked_for(
    trained_digits: nn.Module, images: Pair, certify: int | bool, count: int
) -> None:
    found = softadv.evaluate(trained_digits, images, eps=EPS, attacks=[], certify=certify)
    certificates = softadv.certify(trained_digits, images[0][:count], images[1][:count], eps=EPS)
    assert found.certified == Accuracy(correct=int(certificates.verified.sum()), images=count)
    assert found.certifier.startswith("native ")
    assert found.computed_by == certificates.computed_by != ""


@pytest.mark.parametrize("certify", [False, 0])
def test_nothing_is_certified_unless_asked_for(trained_digits: nn.Module, images: Pair, certify: int | bool) -> None:
    found = softadv.evaluate(trained_digits, images, eps=EPS, attacks=[], certify=certify)
    assert (found.certified, found.certifier, found.computed_by) == (None, "", "")


def test_as_text_it_is_a_table() -> None:
    found = Evaluation(
        eps=0.1,
        natural=Accuracy(correct=1990, images=2000),
        adversarial={"PGD": Accuracy(correct=8, images=10)},
        certified=Accuracy(correct=0, images=10),
    )
    assert str(found).splitlines() == [
        "eps 0.1",
        "natural    99.50% (95%: 99.08 to 99.73, 2,000 images)",
        "PGD        80.00% (95%: 49.02 to 94.33, 10 images)",
        "certified  0.00% (95%: 0.00 to 27.75, 10 images)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certify": -3}, "certify: must be at least 0"),
        ({"certify": 0.5}, "certify: expected a whole number, got 0.5"),
        ({"seed": "0"}, "seed: expected a whole number, got '0'"),
        ({"certify": "all"}, "certify: expected a whole number, got 'all'"),
        ({"eps": 8}, r"did you mean 8/255\?"),
        ({"attacks": ["pdg"]}, "did you mean pgd"),
        ({"attacks": PGD()}, r"^attacks: expected a list of names or attacks, got PGD\("),
        ({"x": torch.full((2, 1, 28, 28), 200.0)}, "outside"),
        ({"x": torch.zeros(0, 1, 28, 28), "y": torch.zeros(0, dtype=torch.int64)}, "no images"),
        ({"y": torch.tensor([0, 10])}, r"labels lie in 0\.\.10, the model has classes 0\.\.9"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    trained_digits: nn.Module, change: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"x": torch.zeros(2, 1, 28, 28), "y": torch.tensor([0, 1]), "eps": EPS} | change
    with pytest.raises(SoftadvError, match=message) as caught:
        softadv.evaluate(trained_digits, (given.pop("x"), given.pop("y")), **given)
    assert "\n" not in str(caught.value)


def test_a_curve_is_certify_at_each_radius_and_asks_the_largest_first(
    trained_digits: nn.Module, images: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    radii = [0.01, 0.05, 0.03]
    expected = {eps: int(softadv.certify(trained_digits, *images, eps=eps).verified.sum()) for eps in radii}
    assert expected[0.01] > expected[0.03] > expected[0.05] > 0
    asked: list[tuple[float, int]] = []

    def certify(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> softadv.Certificates:
        asked.append((settings["eps"], len(x)))
        return softadv.certify(model, x, y, **settings)

    monkeypatch.setattr("softadv.training.evaluate.certify_images", certify)
    curve = softadv.certified_curve(trained_digits, *images, eps=radii)
    assert list(curve) == radii
    assert {eps: accuracy.correct for eps, accuracy in curve.items()} == expected
    assert asked == [(0.05, 60), (0.03, 60 - expected[0.05]), (0.01, 60 - expected[0.03])]


def test_a_curve_of_no_images_is_refused(trained_digits: nn.Module) -> None:
    with pytest.raises(SoftadvError, match="no images"):
        softadv.certified_curve(trained_digits, torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64), eps=[0.1])


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ([0.001, -3.0], r"^eps: must be 0 or more and finite, got -3.0$"),
        (["0.1"], r"^eps: expected a number, got '0.1'$"),
        (0.1, r"^eps: expected a list of radii, got 0.1$"),
    ],
)
def test_every_radius_of_a_curve_is_checked_first(
    trained_digits: nn.Module, images: Pair, eps: Any, message: str
) -> None:
    asked: list[int] = []
    right = softadv.certify(trained_digits, *images, eps=0.001).verified  # of which all are proven at once
    with pytest.raises(SoftadvError, match=message):
        softadv.certified_curve(
            trained_digits, images[0][right], images[1][right], eps=eps, on_progress=lambda _, done: asked.append(done)
        )
    assert not asked
