"""Attacks: they stay in their ball, they are PGD as others know it, and they leave no trace."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torchattacks
from torch import nn

from softadv import certify, evaluate, train
from softadv.attacks import PGD, load_attack, pgd
from softadv.certify.onnx import check_parity, export_onnx
from softadv.errors import NotFiniteError, SoftadvError
from softadv.kernels import build as compiled
from softadv.models import conv_small, count_neurons
from softadv.training.evaluation import adversarial_accuracy, attack_images, certified_accuracy, natural_accuracy
from softadv.training.partition import partition
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
    attack = load_attack(name, alpha=ALPHA, steps=STEPS)
    found = attack(model, x, y, eps=EPS, generator=seeded_generator())
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
    attack = load_attack(name, alpha=ALPHA, steps=STEPS)
    first = attack(trained_digits, x, y, eps=EPS, generator=seeded_generator(3))
    torch.rand(5)  # other draws from the global generator change nothing
    assert torch.equal(first, attack(trained_digits, x, y, eps=EPS, generator=seeded_generator(3)))


def test_another_seed_starts_pgd_elsewhere(trained_digits, digits):
    x, y = digits.test_x[:4], digits.test_y[:4]
    a, b = (pgd(trained_digits, x, y, eps=EPS, alpha=0, steps=0, generator=seeded_generator(s)) for s in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_the_global_random_numbers_as_they_were(trained_digits, digits, name):
    before = torch.get_rng_state()
    attack = load_attack(name, alpha=ALPHA, steps=2)
    attack(trained_digits, digits.test_x[:4], digits.test_y[:4], eps=EPS, generator=seeded_generator())
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
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
    found = pgd(model, x, y, eps=0.2, alpha=0.05, steps=1, random_start=False)
    torch.testing.assert_close(found, (x + 0.05 * gradient.sign()).clamp(0, 1))


def test_pgd_without_steps_returns_its_start(trained_digits, digits):
    x, y = digits.test_x[:4], digits.test_y[:4]
    assert torch.equal(pgd(trained_digits, x, y, eps=EPS, alpha=ALPHA, steps=0, random_start=False), x)


@pytest.mark.parametrize("name", ["pgd", "torchattacks:PGD"])
def test_attacks_of_no_images_find_none(trained_digits, digits, name):
    attack = load_attack(name, alpha=ALPHA, steps=2)
    found = attack(trained_digits, digits.test_x[:0], digits.test_y[:0], eps=EPS, generator=seeded_generator())
    assert found.shape == (0, 1, 28, 28)


def test_autoattack_stays_in_the_ball_and_finds_no_less_than_pgd(trained_digits, digits):
    x, y = digits.test_x[:16], digits.test_y[:16]
    found = load_attack("torchattacks:AutoAttack", alpha=ALPHA, steps=STEPS)(
        trained_digits, x, y, eps=EPS, generator=seeded_generator()
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
        load_attack(name, alpha=ALPHA, steps=STEPS)
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
        ({"x": [[0.5]]}, "x: expected a tensor, got a list"),
        ({"y": [0, 1]}, "y: expected a tensor, got a list"),
        ({"x": torch.rand(2, 1, 28, 28).to_sparse()}, "x: expected a dense tensor, got one of layout torch.sparse_coo"),
        ({"x": torch.rand(2, 1, 28, 28, device="meta")}, "x: expected a dense tensor, .* on meta"),
        ({"x": torch.rand(2, 1, 28, 28).double()}, r"Sequential does not take x, float64 \(1, 1, 28, 28\) on cpu: "),
        ({"x": torch.rand(2, 3, 28, 28)}, r"Sequential does not take x, float32 \(1, 3, 28, 28\) on cpu: "),
        ({"eps": float("nan")}, "must be 0 or more"),
        ({"alpha": -1.0}, "must be 0 or more"),
    ],
)
def test_pgd_refuses_what_it_cannot_attack(change, message):
    given = {"x": torch.rand(2, 1, 28, 28), "y": torch.tensor([0, 1]), "eps": 0.1, "alpha": 0.1, "steps": 1} | change
    with pytest.raises(SoftadvError, match=message) as caught:
        pgd(conv_small("mnist", seed=0), given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_stays_around_images_that_lie_negated_in_memory(random_start):
    model = conv_small("mnist", seed=0)
    x, y = torch.rand(4, 1, 28, 28, generator=seeded_generator()), torch.arange(4)
    images, labels = torch._neg_view(-x), torch._neg_view(-y)
    settings = {"eps": 0.1, "alpha": 0.05, "steps": 3, "random_start": random_start}
    found = pgd(model, images, labels, generator=seeded_generator(), **settings)
    assert torch.equal(found, pgd(model, x, y, generator=seeded_generator(), **settings))
    assert torch.equal(images, x)


def test_a_model_that_torch_export_made_is_refused_in_one_line():
    x = torch.rand(2, 1, 28, 28)
    model = torch.export.export(conv_small("mnist", seed=0), (x,)).module()
    with pytest.raises(
        SoftadvError, match=r"^model: \w+ cannot be put in eval mode; give the model that it was made of$"
    ):
        pgd(model, x, torch.tensor([0, 1]), eps=0.1, alpha=0.1, steps=1)


def test_scores_of_another_shape_are_refused_in_one_line():
    with pytest.raises(SoftadvError, match=r"model: expected scores \(N, classes\), got shape \(1, 1, 28, 28\)"):
        pgd(torch.nn.ReLU(), torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), eps=0.1)


def layouts(x):
    """The same images as they may lie in memory."""
    wide = torch.zeros(len(x), x.shape[1], x.shape[2], 2 * x.shape[3])
    wide[..., ::2] = x
    return {
        "contiguous": x.contiguous(),
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "a view": wide[..., ::2],
        "negative": torch._neg_view(-x),
    }


@pytest.mark.parametrize("name", ["pgd", "torchattacks:PGD"])
def test_the_random_start_is_the_same_however_the_images_lie_in_memory(name):
    model = conv_small("cifar10", seed=0)
    x, y = random_images((3, 32, 32), 5, seed=0)
    attack = load_attack(name, alpha=0.0, steps=1)  # which goes nowhere from its start
    found = {
        layout: attack(model, images, y, eps=EPS, generator=seeded_generator())
        for layout, images in layouts(x.float()).items()
    }
    assert not torch.equal(found["contiguous"], x)
    for layout, images in found.items():
        assert torch.equal(images, found["contiguous"]), layout


def test_the_random_start_of_expanded_images_is_that_of_their_copies():
    x = random_images((3, 8, 8), 1, seed=0)[0].float()
    attack = PGD(alpha=ALPHA, steps=1)
    expanded = attack.start(x.expand(4, 3, 8, 8), eps=EPS, generator=seeded_generator())
    assert torch.equal(expanded, attack.start(x.repeat(4, 1, 1, 1), eps=EPS, generator=seeded_generator()))


def test_the_random_start_of_contiguous_images_is_drawn_in_their_order():
    """The bits that trials of the reference were trained with."""
    x = random_images((3, 8, 8), 4, seed=0)[0].float()
    noise = torch.empty_like(x).uniform_(-EPS, EPS, generator=seeded_generator())
    assert torch.equal(
        PGD(alpha=ALPHA, steps=1).start(x, eps=EPS, generator=seeded_generator()), (x + noise).clamp(0, 1)
    )


@pytest.mark.parametrize("compiled_there", [True, False])
def test_pgd_keeps_to_the_range_of_the_pixels(compiled_there):
    """Images of 0 to 255, and standardised ones, go where the same images of 0 to 1 go."""
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4))).float()
    x, y = random_images((3, 4, 4), 20, seed=1)
    x = x.float()
    how = {"steps": 6, "random_start": False}
    with nullcontext() if compiled_there else compiled.disabled():
        expected = pgd(model, x, y, eps=0.25, alpha=0.0625, **how)
        for scale, shift in ((256.0, 0.0), (4.0, -2.0)):
            other = copy.deepcopy(model)
            with torch.no_grad():  # the same scores of other images
                other[1].bias -= (other[1].weight * shift / scale).sum(1)
                other[1].weight /= scale
            images, clip = x * scale + shift, (shift, scale + shift)
            found = pgd(other, images, y, eps=0.25 * scale, alpha=0.0625 * scale, clip=clip, **how)
            torch.testing.assert_close(found, expected * scale + shift, rtol=0, atol=1e-5 * scale)
            assert (found.amin(), found.amax()) == clip  # some pixels are held by the range, not by the ball
            with pytest.raises(SoftadvError, match="outside clip"):
                pgd(other, images, y, eps=0.1, alpha=0.1, **how)


def moving() -> nn.Sequential:
    """A network with layers that mind the mode."""

    def build() -> nn.Sequential:
        body = nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm2d(4))
        return nn.Sequential(body, nn.Flatten(), nn.Linear(256, 10), nn.BatchNorm1d(10))

    return seeded(0, build).float()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "action", ["pgd", "Torchattacks", "accuracy", "attack_images", "partition", "certify", "count"]
)
def test_whoever_asks_a_model_finds_it_in_eval_mode_and_leaves_it_as_it_was(digits, action, training):
    model = moving()
    for layer in model.modules():
        layer.train(training)
    model[0][4].eval()
    modes = [layer.training for layer in model.modules()]
    x, y = digits.test_x[:3], digits.test_y[:3]
    asked = []
    model[0][1].register_forward_pre_hook(lambda layer, _: asked.append(layer.training))
    actions = {
        "pgd": lambda: pgd(model, x[:1], y[:1], eps=EPS, alpha=ALPHA, steps=2, generator=seeded_generator()),
        "Torchattacks": lambda: load_attack("torchattacks:PGD", alpha=ALPHA, steps=2)(
            model, x, y, eps=EPS, generator=seeded_generator()
        ),
        "accuracy": lambda: natural_accuracy(model, x[:1], y[:1]),
        "attack_images": lambda: attack_images(
            model, x, y, attack=lambda m, a, b, generator: m(a).detach()[:, :1, None, None] * 0 + a, generator=None
        ),
        "partition": lambda: partition(unhooked(model), x, y, eps=EPS),
        "certify": lambda: certify(unhooked(model), x, y, eps=EPS),
        "count": lambda: count_neurons(model, (1, 28, 28)),
    }
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    actions[action]()
    assert [layer.training for layer in model.modules()] == modes
    assert not any(asked)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def unhooked(model):
    """What the certifier reads: no hooks, and no BatchNorm1d."""
    model[0][1]._forward_pre_hooks.clear()
    return model[:3]


def test_an_error_leaves_the_mode_as_it_was(digits):
    model = moving()
    modes = [layer.training for layer in model.modules()]
    for bad in (digits.test_x[:2, :, :9], torch.full_like(digits.test_x[:2], float("nan"))):
        with pytest.raises((SoftadvError, RuntimeError)):
            pgd(model, bad, digits.test_y[:2], eps=EPS, alpha=ALPHA, steps=1)
    assert [layer.training for layer in model.modules()] == modes


@pytest.mark.parametrize("name", ["pgd", "torchattacks:PGD"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 2.0}, r"did you mean 2/255\?"),
        ({"alpha": -0.1}, "alpha: must be 0 or more"),
        ({"steps": -1}, "steps: must be at least 0"),
        ({"steps": 2**32}, "steps: must be at most 1,000,000"),
        ({"steps": 10**400}, "steps: must be at most 1,000,000"),
        ({"steps": 1.5}, "steps: expected a whole number"),
    ],
)
def test_attacks_have_one_rule_for_their_numbers(name, change, message):
    with pytest.raises(SoftadvError, match=message):
        load_attack(name, **{"alpha": ALPHA, "steps": STEPS} | change)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (8, r"did you mean 8/255\?"),
        (-0.1, "eps: must be 0 or more"),
        (float("nan"), "eps: must be 0 or more"),
        (torch.full((1, 1, 1), 0.1), "eps: one number for all pixels"),
    ],
)
def test_whoever_attacks_has_one_rule_for_the_radius(trained_digits, digits, eps, message):
    images = digits.test_x[:2], digits.test_y[:2]
    for action in (pgd, evaluate, train):
        with pytest.raises(SoftadvError, match=message):
            action(trained_digits, *(images if action is pgd else [images]), eps=eps)


def test_a_radius_may_be_a_tensor_with_one_number(trained_digits, digits):
    x, y = digits.test_x[:3], digits.test_y[:3]
    how = {"alpha": ALPHA, "steps": 2, "random_start": False}
    found = pgd(trained_digits, x, y, eps=torch.tensor(0.125), **how)
    assert torch.equal(found, pgd(trained_digits, x, y, eps=0.125, **how))


def spoiled(value: float) -> nn.Sequential:
    model = conv_small("digits", seed=0)
    with torch.no_grad():
        model[-1].bias[0] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_whose_scores_are_not_finite_has_no_accuracy(digits, tmp_path, value):
    model, x, y = spoiled(value), digits.test_x[:5], digits.test_y[:5]
    attack = load_attack("pgd", alpha=ALPHA, steps=1)
    export_onnx(conv_small("digits", seed=0), tmp_path / "model.onnx", image_shape=(1, 28, 28))
    for action in (
        lambda: natural_accuracy(model, x, y),
        lambda: adversarial_accuracy(model, x, y, attack=partial(attack, eps=EPS), generator=seeded_generator()),
        lambda: pgd(model, x, y, eps=EPS, alpha=ALPHA, steps=1),
        lambda: certified_accuracy(model, x, y, eps=EPS, domain="box"),
        lambda: check_parity(model, tmp_path / "model.onnx", x),
    ):
        with pytest.raises(NotFiniteError, match=r"image 0 are NaN or infinite") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert not certify(model, x, y, eps=EPS).correct.any()
    assert partition(model, x, y, eps=EPS).misclassified.all()
