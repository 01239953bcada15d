"""What a training may be told beyond its method: each setting does what it says, and nothing where it is off."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import softadv
from softadv.attacks import PGD, FriendlyPGD, TorchAttack
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.methods import Adversarial, Fat, Natural, Soft, Trades
from softadv.training.schedules import learning_rate
from softadv.training.state import new_state
from softadv.training.trainer import Trainer
from tests.training.methods.runs import CONFIG, both_engines, engine, equal, quiet, trained, weights

ONE_STEP: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.5, "batch_size": 80}


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.train_x[:80], digits.train_y[:80]


class Radii:
    """An attack that notes its radii, and finds nothing."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        self.seen.append(eps)
        return x


# --- the learning rate


def test_constant_is_the_very_number() -> None:
    config = replace(CONFIG, lr=0.1 + 0.2)
    assert {learning_rate(config, epoch) for epoch in range(1, 5)} == {0.1 + 0.2}


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10)),
        (
            {"schedule": "steps", "schedule_epochs": (3, 7), "schedule_factor": 0.2},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[3, 7], gamma=0.2),
        ),
    ],
)
def test_schedules_are_those_of_pytorch(settings: dict[str, Any], theirs: Any) -> None:
    config = replace(CONFIG, epochs=10, lr=0.3, **settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = theirs(optimizer)
    for epoch in range(1, 11):
        assert learning_rate(config, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_an_epoch_is_trained_at_its_rate(images: tuple[Tensor, Tensor]) -> None:
    """With a rate that falls to nothing after the first epoch the second changes nothing."""
    falls = {"schedule": "steps", "schedule_epochs": (1,), "schedule_factor": 0.0, "optimizer": "sgd"}
    one, two, constant = (
        trained(Natural(), images, **settings)[0]
        for settings in ({"epochs": 1} | falls, {"epochs": 2} | falls, {"epochs": 2, "optimizer": "sgd"})
    )
    assert equal(one, two)
    assert not equal(two, constant)


# --- one step of the optimizer


def gradient_of(model: nn.Module, images: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(images[0]), images[1]), list(model.parameters())))


@both_engines
def test_weight_decay_is_part_of_the_gradient(
    images: tuple[Tensor, Tensor], trained_digits: nn.Sequential, kernels: bool
) -> None:
    with engine(kernels):
        model = copy.deepcopy(trained_digits)
        trained(Natural(), images, epochs=1, model=model, weight_decay=0.1, **ONE_STEP)
    old = list(trained_digits.parameters())
    for now, was, gradient in zip(model.parameters(), old, gradient_of(trained_digits, images), strict=True):
        torch.testing.assert_close(now.detach(), (was - 0.5 * (gradient + 0.1 * was)).detach(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(0.5 * 0.1 * was, torch.zeros(()), atol=1e-3)  # more than the tolerance


@both_engines
def test_gradients_are_clipped_to_a_length(
    images: tuple[Tensor, Tensor], trained_digits: nn.Sequential, kernels: bool
) -> None:
    with engine(kernels):
        model = copy.deepcopy(trained_digits)
        trained(Natural(), images, epochs=1, model=model, clip_gradients=0.01, **ONE_STEP)
        plain, wide = (trained(Adversarial(), images, clip_gradients=most)[0] for most in (None, 1e6))
    pairs = zip(model.parameters(), trained_digits.parameters(), strict=True)
    step = torch.cat([(now - was).detach().flatten() for now, was in pairs])
    gradient = torch.cat([part.flatten() for part in gradient_of(trained_digits, images)])
    assert gradient.norm() > 0.02
    assert float(step.norm()) == pytest.approx(0.5 * 0.01, rel=1e-2)
    assert float(F.cosine_similarity(-step, gradient, dim=0)) == pytest.approx(1, abs=1e-4)
    assert equal(plain, wide)  # what is short enough stays as it is, bit for bit


# --- the first epochs


@pytest.mark.parametrize("method", [Adversarial(), Soft(), Trades()])
def test_natural_epochs_come_first(images: tuple[Tensor, Tensor], method: Any) -> None:
    natural, _ = trained(Natural(), images, epochs=2)
    state, epochs = trained(method, images, epochs=2, natural_epochs=2)
    assert [epoch.attacked for epoch in epochs] == [0, 0]
    assert state.partition is None
    assert equal(state, natural)  # by the natural loss, too, whatever the method's is
    _, epochs = trained(method, images, epochs=3, natural_epochs=2)
    assert epochs[2].attacked > 0


def test_the_radius_grows_evenly_from_the_methods_first_epoch() -> None:
    config = replace(CONFIG, eps=0.4, epochs=9, natural_epochs=2, eps_warmup_epochs=3)
    assert [config.radius(epoch) for epoch in (3, 4, 5, 6, 9)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert replace(config, eps_warmup_epochs=0).radius(3) == 0.4
    assert config.radius(6) == 0.4


def test_natural_epochs_have_no_radius() -> None:
    config = replace(CONFIG, eps=0.1, epochs=4, natural_epochs=2)
    assert [config.radius(epoch) for epoch in range(1, 5)] == [0.0, 0.0, 0.1, 0.1]


def test_a_growing_radius_is_trained_at_and_split_at_and_not_evaluated_at(
    images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Radii()
    settings: dict[str, Any] = {"attack": attack, "eps": 0.3, "epochs": 4, "eps_warmup_epochs": 2, "batch_size": 80}
    config = replace(CONFIG, method=Adversarial(), **settings)
    trainer = Trainer(new_state(softadv.conv_small("digits"), config), config, train=images, test=images)
    while not trainer.is_done:
        trainer.run_epoch(quiet)
    assert attack.seen == pytest.approx([0.1, 0.3, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3])  # trained, evaluated, trained, …
    # A radius of nothing, at which all that is right is verified, to one at which nothing is.
    soft, epochs = trained(Soft(), images, epochs=1, eps=1.0, eps_warmup_epochs=3)
    early = softadv.partition(softadv.conv_small("digits", seed=0), *images, eps=0.25)
    assert soft.partition is not None
    assert torch.equal(soft.partition.verified, early.verified)
    assert epochs[0].attacked == int(early.attacked.sum())


def test_a_smaller_radius_of_the_method_is_trained_at_and_not_evaluated_at(images: tuple[Tensor, Tensor]) -> None:
    attack = Radii()
    config = replace(CONFIG, method=Adversarial(train_eps=0.1), attack=attack, eps=0.3, epochs=1, batch_size=80)
    trainer = Trainer(new_state(softadv.conv_small("digits"), config), config, train=images, test=images)
    trainer.run_epoch(quiet)
    assert attack.seen == [0.1, 0.3]


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "^batch_size: must be at least 1, got 0"),
        ({"batch_size": 3.5}, "^batch_size: expected a whole number, got 3.5"),
        ({"lr": 0.0}, "^lr: must be positive"),
        ({"lr": float("nan")}, "^lr: must be positive"),
        ({"momentum": 1.0}, r"^momentum: must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "^weight_decay: must be 0 or more"),
        ({"clip_gradients": float("inf")}, "^clip_gradients: must be positive and finite"),
        ({"clip_gradients": 0.0}, "^clip_gradients: must be positive and finite"),
        ({"lr": "0.1"}, "^lr: expected a number, got '0.1'"),
        ({"momentum": None}, "^momentum: expected a number, got None"),
        ({"schedule": "steps", "schedule_epochs": (0,)}, "^schedule_epochs: must be at least 1, got 0"),
        ({"schedule": "steps", "schedule_epochs": ("2",)}, "^schedule_epochs: expected a whole number, got '2'"),
        ({"optimizer": "adamw"}, "^optimizer: unknown value 'adamw', expected one of adam, sgd"),
        ({"schedule": "linear"}, "^schedule: unknown value 'linear', expected one of constant, cosine, steps"),
        ({"schedule": "steps"}, "^schedule_epochs: the schedule steps needs"),
        ({"schedule_epochs": (3,)}, "^schedule_epochs: without effect on the schedule constant"),
        ({"natural_epochs": 4}, "^natural_epochs: must be less than epochs, got 4 of 4"),
        ({"natural_epochs": -1}, "^natural_epochs: must be at least 0"),
        ({"eps_warmup_epochs": -1}, "^eps_warmup_epochs: must be at least 0"),
        ({"patience": 0}, "^patience: must be at least 1"),
        ({"method": Soft(split_every=2), "augment": "crop-flip"}, "^augment: needs split_every = 1"),
        ({"method": Soft(split_every=2), "eps_warmup_epochs": 1}, "^eps_warmup_epochs: needs split_every = 1"),
        ({"method": Adversarial(train_eps=8.0)}, r"^method Adversarial: training radius: 8 .* did you mean 8/255\?$"),
        ({"method": Fat(), "attack": FriendlyPGD(tau=5)}, "^fat: stops PGD early; the attack must be pgd"),
        ({"method": Trades(), "attack": FriendlyPGD()}, "^trades: .*the attack must be pgd"),
        ({"method": Fat(), "attack": TorchAttack("FGSM")}, "^fat: stops PGD early; the attack must be pgd"),
        ({"method": Trades(), "attack": TorchAttack("FGSM")}, "^trades: .*the attack must be pgd"),
    ],
)
def test_what_is_out_of_range_or_does_not_fit_is_one_line_before_anything_is_trained(
    images: tuple[Tensor, Tensor], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SoftadvError, match=message):
        replace(CONFIG, **settings)
    model = softadv.conv_small("digits")
    before = copy.deepcopy(model.state_dict())
    told: dict[str, Any] = {"attack": PGD(steps=1), "epochs": 4, "eps": 0.1, "validation_images": 10} | settings
    with pytest.raises(SoftadvError, match=message):
        softadv.train(model, images, **told)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_two_trainings_with_the_same_settings_are_the_same(images: tuple[Tensor, Tensor]) -> None:
    settings: dict[str, Any] = {
        "schedule": "cosine", "weight_decay": 1e-3, "clip_gradients": 1.0, "eps_warmup_epochs": 1, "natural_epochs": 1,
    }  # fmt: skip
    one, other = (trained(Soft(), images, epochs=4, **settings)[0] for _ in range(2))
    assert equal(one, other)
    assert all(value.isfinite().all() for value in weights(one))
