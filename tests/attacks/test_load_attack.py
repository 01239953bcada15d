"""Attacks by name: registered ones, Torchattacks', and one's own."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import softadv
from softadv import evaluate, load_attack
from softadv.attacks import AUTOATTACK, PGD, TorchAttack, is_linf, title_of
from softadv.attacks.base import check_ball, extremes, register
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.kernels import build
from tests.networks import random_images, seeded, with_head

EPS = 0.1
OWN = """
import torch


def noise(model, x, y, *, eps, generator):
    return (x + torch.empty_like(x).uniform_(-eps, eps, generator=generator)).clamp(0, 1)


class Darker:
    title = "Darker"
    norm = "Linf"

    def __init__(self, steps, share=1.0):
        self.steps, self.share = steps, share

    def __call__(self, model, x, y, *, eps, generator):
        return (x - self.share * eps).clamp(min=0)


class Lamp:
    pass


class Broken:
    def __init__(self):
        raise ValueError("out of\\norder")


ready = Darker(3)
number = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_attacks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_attacks", None)


@pytest.mark.usefixtures("own")
def test_ones_own_is_found_in_the_current_folder(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:8], digits.test_y[:8]
    noise = load_attack("own_attacks:noise")
    assert (title_of(noise), is_linf(noise)) == ("noise", False)
    found = noise(trained_digits, x, y, eps=EPS, generator=torch.Generator().manual_seed(0))
    assert 0 < float((found - x).abs().max()) <= EPS + 1e-6
    darker = load_attack("own_attacks:Darker", steps=5, alpha=0.01)  # its constructor takes no alpha
    assert (title_of(darker), is_linf(darker), darker.steps) == ("Darker", True, 5)  # type: ignore[attr-defined]
    assert load_attack("own_attacks:ready").steps == 3  # type: ignore[attr-defined] # an object stays as it is
    assert set(evaluate(trained_digits, (x, y), eps=EPS, attacks=["own_attacks:Darker", noise]).adversarial) == {
        "Darker",
        "noise",
    }


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("own_attacks:number", "expected an attack, or a class of attacks, got a int"),
        ("own_attacks:Lamp", "expected an attack, or a class of attacks, got a Lamp"),
        ("own_attacks:Broken", "raised ValueError: out of order"),
        ("own_attacks:Darkr", "did you mean Darker"),
        ("no_such_module:attack", "no module no_such_module"),
        ("pdg", "did you mean pgd"),
        (7, "expected an attack, or a class of attacks, got a int"),
        (PGD, "make it an attack first"),
    ],
)
def test_what_is_no_attack_is_named_in_one_line(what: object, message: str) -> None:
    with pytest.raises(SoftadvError, match=message) as caught:
        load_attack(what)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("registries")
def test_a_registered_name_may_stand_for_a_finished_attack_or_for_what_makes_one() -> None:
    def corner(model, x, y, *, eps, generator):  # type: ignore[no-untyped-def]
        return (x + eps).clamp(0, 1)

    def of_word(word: str, steps: int) -> softadv.Attack:
        assert word == "short"
        return PGD(steps=steps)

    strong = PGD(steps=100)
    register("corner")(corner)
    register("strong")(strong)
    register("made:WORD")(of_word)
    assert load_attack("corner", steps=3) is corner
    assert load_attack("strong", steps=3) is strong
    assert load_attack("made:short", steps=3) == PGD(steps=3)


def test_an_attack_itself_is_what_it_is() -> None:
    attack = PGD(steps=3)
    assert load_attack(attack) is attack
    assert load_attack("pgd", steps=3, random_start=False) == PGD(steps=3, random_start=False)


def test_the_step_of_pgd_is_two_and_a_half_radii_over_all_steps() -> None:
    assert PGD(steps=10).step_size(0.2) == pytest.approx(0.05)
    assert PGD(steps=10, alpha=0.01).step_size(0.2) == 0.01
    assert PGD(steps=0).step_size(0.2) == 0
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    x, y = random_images((1, 3, 3), 6, seed=0)
    found = [
        PGD(steps=5, alpha=alpha, random_start=False)(model, x.float(), y, eps=0.1, generator=None)
        for alpha in (None, 2.5 * 0.1 / 5)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["torchattacks:PGD", "torchattacks:FGSM"])
def test_torchattacks_gets_the_settings_it_takes_and_the_radius_of_the_call(
    trained_digits: nn.Module, digits: Dataset, name: str
) -> None:
    attack = load_attack(name, steps=3, alpha=0.02)
    assert is_linf(attack)
    x, y = digits.test_x[:8], digits.test_y[:8]
    for eps in (0.02, 0.2):
        found = attack(trained_digits, x, y, eps=eps, generator=torch.Generator().manual_seed(0))
        assert 0.9 * eps <= float((found - x).abs().max()) <= eps + 1e-6
    assert not is_linf(load_attack("torchattacks:PGDL2"))


def test_autoattack_keeps_to_its_ball_however_the_images_lie_in_memory() -> None:
    """On a small network, since it asks thousands of times about each image that stands firm; so do some here."""
    attack = TorchAttack("AutoAttack")
    assert repr(load_attack(AUTOATTACK)) == repr(TorchAttack("AutoAttack"))
    model = seeded(0, lambda: with_head((1, 4, 4), nn.Conv2d(1, 2, 2), nn.ReLU())).float()
    x = random_images((1, 4, 4), 6, seed=0)[0].float()
    y = model(x).argmax(1)
    found = [
        attack(model, images, y, eps=EPS, generator=torch.Generator().manual_seed(0))
        for images in (x, x.transpose(2, 3).contiguous().transpose(2, 3))
    ]
    assert 0 < int((model(found[0]).argmax(1) == y).sum()) < len(x)
    assert ((found[0] - x).abs() <= EPS + 1e-6).all()
    assert ((found[0] >= 0) & (found[0] <= 1)).all()
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["AutoAttack", "APGDT"])
@pytest.mark.parametrize("classes", [2, 4, 7])
def test_attacks_with_targets_take_them_from_the_models_classes(name: str, classes: int) -> None:
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, classes))).float()
    x = random_images((1, 4, 4), 4, seed=0)[0].float()
    y, generator = model(x).argmax(1), torch.Generator().manual_seed(0)
    if classes >= 4:
        found = load_attack(f"torchattacks:{name}")(model, x, y, eps=0.3, generator=generator)
        assert (model(found).argmax(1) != y).any()
        return
    with pytest.raises(SoftadvError, match=f"^attack: {name} needs 4 classes or more, there are 2$"):
        load_attack(f"torchattacks:{name}")(model, x, y, eps=0.3, generator=generator)


def twice_as_far(model, x, y, *, eps, generator):
    return (x + 2 * eps).clamp(0, 1)


def below_black(model, x, y, *, eps, generator):
    return x - eps


class Turned:
    """Not of the L-infinity ball, as it says."""

    norm = "degrees"

    def __call__(self, model, x, y, *, eps, generator):
        return x.rot90(1, (2, 3))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (twice_as_far, "attack twice_as_far: moved a pixel by 0.2, more than eps = 0.1"),
        (below_black, "attack below_black: made a pixel -0.1, outside of [0, 1]"),
    ],
)
@pytest.mark.parametrize("method", ["adversarial", "survivors", "natural"])
def test_an_attack_that_leaves_its_ball_is_refused_wherever_it_is_used(
    trained_digits: nn.Module, digits: Dataset, attack: softadv.Attack, message: str, method: str
) -> None:
    data = digits.first(train=8, test=8)
    model = copy.deepcopy(trained_digits)
    with pytest.raises(SoftadvError) as caught:
        softadv.train(model, data, method=method, eps=0.1, attack=attack, epochs=1)  # at the latest at its evaluation
    assert str(caught.value) == message
    with pytest.raises(SoftadvError) as caught:
        evaluate(trained_digits, data, eps=0.1, attacks=[attack])
    assert str(caught.value) == message


class InPlace:
    """Steps along the gradient, written into the very tensors that it is given."""

    def __init__(self, times: float) -> None:
        self.times = times

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        gradient = torch.autograd.grad(F.cross_entropy(model(x.requires_grad_()), y), x)[0]
        x = x.detach()
        x += self.times * eps * gradient.sign()
        y += 1
        return x.clamp_(0, 1)


@pytest.mark.parametrize("method", ["adversarial", "survivors", "natural"])
def test_an_attack_that_works_in_place_changes_no_data_and_is_still_checked(
    trained_digits: nn.Module, digits: Dataset, method: str
) -> None:
    data = digits.first(train=16, test=16)
    before = [part.clone() for part in (data.train_x, data.train_y, data.test_x, data.test_y)]
    for times in (1.0, 5.0):
        attack, model = InPlace(times), copy.deepcopy(trained_digits)
        with nullcontext() if times == 1 else pytest.raises(SoftadvError, match=r"moved a pixel by 0\.1"):
            evaluate(trained_digits, data, eps=0.02, attacks=[attack])
        with nullcontext() if times == 1 else pytest.raises(SoftadvError, match=r"moved a pixel by 0\.1"):
            softadv.train(model, data, method=method, eps=0.02, attack=attack, epochs=1)
        assert all(map(torch.equal, (data.train_x, data.train_y, data.test_x, data.test_y), before))


def test_a_graph_that_an_attack_leaves_behind_is_not_trained_through(
    trained_digits: nn.Module, digits: Dataset
) -> None:
    def lasting(model, x, y, *, eps, generator):  # type: ignore[no-untyped-def]
        return (x + eps * torch.tanh(model(x).sum(1)).view(-1, 1, 1, 1)).clamp(0, 1)

    def detached(model, x, y, *, eps, generator):  # type: ignore[no-untyped-def]
        return lasting(model, x, y, eps=eps, generator=generator).detach()

    data = digits.train_x[:16], digits.train_y[:16]
    models = [copy.deepcopy(trained_digits) for _ in range(2)]
    with build.disabled():
        for model, attack in zip(models, (lasting, detached), strict=True):
            softadv.train(model, data, method="adversarial", eps=0.1, attack=attack, epochs=1)
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_no_ball_but_the_range_of_pixels_is_asked_of_an_attack_of_another_norm(
    trained_digits: nn.Module, digits: Dataset
) -> None:
    data = digits.first(train=8, test=8)
    assert set(evaluate(trained_digits, data, eps=0.1, attacks=[Turned()]).adversarial) == {"Turned"}
    softadv.train(copy.deepcopy(trained_digits), data, method="adversarial", eps=0.1, attack=Turned(), epochs=1)


@pytest.mark.parametrize(("scale", "eps"), [(1.0, 0.1), (1e-3, 1e-9), (255.0, 8.0), (255.0, 1e-6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rounding_is_no_offence(scale: float, eps: float, dtype: torch.dtype) -> None:
    x = scale * torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for found in ((x + eps).clamp(0, scale), (x - eps).clamp(0, scale), (x.double() + eps).clamp(0, scale).to(dtype)):
        check_ball(extremes(found, x), attack=one_image, eps=eps, clip=(0.0, scale))
    further = 1.01 * eps + 20 * scale * torch.finfo(dtype).eps
    with pytest.raises(SoftadvError, match="moved a pixel"):
        check_ball(extremes(x + further, x), attack=one_image, eps=eps, clip=(-torch.inf, torch.inf))


def one_image(model, x, y, *, eps, generator):
    return x[:1]


def in_float64(model, x, y, *, eps, generator):
    return x.double()


def indices(model, x, y, *, eps, generator):
    return [0]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (one_image, "attack one_image: must return images as it gets them, torch.float32 of shape (8, 1, 28, 28) on "
         "cpu, got torch.float32 of shape (1, 1, 28, 28) on cpu"),
        (in_float64, "got torch.float64 of shape (8, 1, 28, 28) on cpu"),
        (indices, "attack indices: must return a tensor of images, got a list"),
    ],
)  # fmt: skip
def test_what_an_attack_returns_must_be_images_of_the_shape_it_was_given(
    trained_digits: nn.Module, digits: Dataset, attack: softadv.Attack, message: str
) -> None:
    x, y = digits.test_x[:8], digits.test_y[:8]
    with pytest.raises(SoftadvError) as in_evaluation:
        softadv.evaluate(trained_digits, (x, y), eps=0.1, attacks=[attack])
    with pytest.raises(SoftadvError) as in_training:
        softadv.train(copy.deepcopy(trained_digits), (x, y), method="adversarial", eps=0.1, attack=attack, epochs=1)
    for caught in (in_evaluation, in_training):
        assert str(caught.value).endswith(message)
