"""Attacks: they stay in their ball, they are PGD as others know it, and they leave no trace."""

import copy

import pytest
import torch
import torchattacks
from torch import nn

from softadv.attacks import make_attack, pgd
from softadv.errors import SoftadvError
from softadv.evaluation import natural_accuracy
from softadv.models import conv_small
from tests.networks import random_images, seeded

EPS, ALPHA, STEPS = 0.1, 0.02, 10
ATTACKS = ("pgd", "torchattacks:PGD", "torchattacks:FGSM", "torchattacks:APGD", "torchattacks:PGDL2")


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["trained", "normalized", "smooth", "batch norm"])
def model(request, trained_digits):
    if request.param == "trained":
        return trained_digits
    if request.param == "normalized":
        return conv_small("digits", normalize=True, seed=1)
    middle = nn.Tanh() if request.param == "smooth" else nn.BatchNorm2d(4)
    return seeded(0, lambda: nn.Sequential(nn.Conv2d(1, 4, 5, 3), middle, nn.Flatten(), nn.Linear(256, 10))).float()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_stay_in_the_ball_and_in_the_image(model, digits, name):
    x = digits.test_x[:24]
    y = model.eval()(x).argmax(1)  # some attacks leave what is misclassified anyway
    attack = make_attack(name, eps=EPS, alpha=ALPHA, steps=STEPS)
    found = attack(model, x, y, generator=seeded_generator())
    assert found.shape == x.shape
    assert not found.requires_grad
    assert ((found - x).abs() <= EPS + 1e-6).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert not torch.equal(found, x)


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_is_that_of_torchattacks(trained_digits, digits, random_start):
    x, y = digits.test_x, digits.test_y
    settings = {"eps": EPS, "alpha": 0.01, "steps": 20, "random_start": random_start}
    ours = pgd(trained_digits, x, y, **settings, generator=seeded_generator(7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = torchattacks.PGD(trained_digits, **settings)(x, y)
    assert ((ours - theirs).abs() <= 1e-6).double().mean() >= 0.999
    accuracies = [natural_accuracy(trained_digits, found, y) for found in (ours, theirs)]
    assert abs(accuracies[0] - accuracies[1]) <= 0.001
    assert accuracies[0] < natural_accuracy(trained_digits, x, y)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_generator_decides_everything(trained_digits, digits, name):
    x, y = digits.test_x[:16], digits.test_y[:16]
    attack = make_attack(name, eps=EPS, alpha=ALPHA, steps=STEPS)
    first = attack(trained_digits, x, y, generator=seeded_generator(3))
    torch.rand(5)  # other draws from the global generator change nothing
    assert torch.equal(first, attack(trained_digits, x, y, generator=seeded_generator(3)))


def test_another_seed_starts_pgd_elsewhere(trained_digits, digits):
    x, y = digits.test_x[:4], digits.test_y[:4]
    a, b = (pgd(trained_digits, x, y, eps=EPS, alpha=0, steps=0, generator=seeded_generator(s)) for s in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_the_global_random_numbers_as_they_were(trained_digits, digits, name):
    before = torch.get_rng_state()
    attack = make_attack(name, eps=EPS, alpha=ALPHA, steps=2)
    attack(trained_digits, digits.test_x[:4], digits.test_y[:4], generator=seeded_generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_pgd_leaves_the_model_as_it_was(trained_digits, digits, training):
    model = copy.deepcopy(trained_digits).train(training)
    weights = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = None
    pgd(model, digits.test_x[:8], digits.test_y[:8], eps=EPS, alpha=ALPHA, steps=2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(layer.training == training for layer in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_pgd_leaves_each_layer_in_the_mode_it_was_in(digits):
    """A batch norm that was frozen on purpose stays so."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10)).train()
    model[0].eval()
    pgd(model, digits.test_x[:2], digits.test_y[:2], eps=EPS, alpha=ALPHA, steps=1)
    assert [layer.training for layer in model] == [False, True, True]


def test_pgd_leaves_the_images_as_they_were(trained_digits, digits):
    x = digits.test_x[:8].clone()
    pgd(trained_digits, x, digits.test_y[:8], eps=EPS, alpha=ALPHA, steps=3)
    assert torch.equal(x, digits.test_x[:8])


def test_one_step_of_pgd_goes_along_the_sign_of_the_gradient():
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 4)))
    x, y = random_images((1, 3, 3), 5, seed=0)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
    found = pgd(model, x, y, eps=0.2, alpha=0.05, steps=1, random_start=False)
    torch.testing.assert_close(found, (x + 0.05 * slope.sign()).clamp(0, 1))


def test_pgd_without_steps_returns_its_start(trained_digits, digits):
    x, y = digits.test_x[:4], digits.test_y[:4]
    assert torch.equal(pgd(trained_digits, x, y, eps=EPS, alpha=ALPHA, steps=0, random_start=False), x)


@pytest.mark.parametrize("name", ["pgd", "torchattacks:PGD"])
def test_attacks_of_no_images_find_none(trained_digits, digits, name):
    attack = make_attack(name, eps=EPS, alpha=ALPHA, steps=2)
    found = attack(trained_digits, digits.test_x[:0], digits.test_y[:0], generator=seeded_generator())
    assert found.shape == (0, 1, 28, 28)


def test_autoattack_stays_in_the_ball_and_finds_no_less_than_pgd(trained_digits, digits):
    x, y = digits.test_x[:16], digits.test_y[:16]
    found = make_attack("torchattacks:AutoAttack", eps=EPS, alpha=ALPHA, steps=STEPS)(
        trained_digits, x, y, generator=seeded_generator()
    )
    assert ((found - x).abs() <= EPS + 1e-6).all()
    assert ((found >= 0) & (found <= 1)).all()
    by_pgd = pgd(trained_digits, x, y, eps=EPS, alpha=ALPHA, steps=STEPS, generator=seeded_generator())
    assert natural_accuracy(trained_digits, found, y) <= natural_accuracy(trained_digits, by_pgd, y)


@pytest.mark.parametrize(
    "name",
    [
        "fgsm",
        "PGD",
        "torchattacks:Nothing",
        "torchattacks:",
        "torchattacks:attack",
        "torchattacks:CW",
        "torchattacks:GN",
    ],
)
def test_what_is_no_attack_with_a_radius_is_named(name):
    with pytest.raises(SoftadvError) as caught:
        make_attack(name, eps=EPS, alpha=ALPHA, steps=STEPS)
    assert name.removeprefix("torchattacks:") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["eps", "alpha", "steps"])
def test_pgd_refuses_negative_settings(trained_digits, digits, setting):
    settings = {"eps": EPS, "alpha": ALPHA, "steps": STEPS, setting: -1}
    with pytest.raises(SoftadvError, match=f"{setting}.*-1"):
        pgd(trained_digits, digits.test_x[:2], digits.test_y[:2], **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0, 10])}, r"labels lie in 0\.\.10, the model has classes 0\.\.9"),
        ({"y": torch.tensor([-1, 0])}, r"labels lie in -1\.\.0"),
        ({"x": torch.full((2, 1, 28, 28), float("nan"))}, "image 0 has pixels that are NaN"),
        ({"eps": float("nan")}, "must be 0 or more"),
        ({"alpha": -1.0}, "must be 0 or more"),
    ],
)
def test_pgd_refuses_what_it_cannot_attack(change, message):
    given = {"x": torch.rand(2, 1, 28, 28), "y": torch.tensor([0, 1]), "eps": 0.1, "alpha": 0.1, "steps": 1} | change
    with pytest.raises(SoftadvError, match=message):
        pgd(conv_small("mnist", seed=0), given.pop("x"), given.pop("y"), **given)
