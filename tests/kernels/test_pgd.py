"""The compiled attack: it goes where autograd's gradients point, and bit for bit where PyTorch goes."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softadv.attacks import PGD, FriendlyPGD, pgd
from softadv.kernels import build as compiled
from softadv.kernels import pgd as compiled_attack
from softadv.models import conv_small
from tests.networks import ARCHITECTURES, networks, random_images, seeded

pytestmark = pytest.mark.skipif(not compiled_attack.available(), reason="needs a C++ compiler")

EPS, ALPHA = 0.1, 0.02


@pytest.fixture
def kernel_only(monkeypatch):
    """The way through PyTorch is shut."""
    monkeypatch.setattr(sys.modules["softadv.attacks.pgd"], "input_gradient", None)


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def in_pytorch(attack, *arguments, **settings):
    with compiled.disabled():
        return attack(*arguments, **settings)


def gradient_of(model, x, y):
    """By autograd, in float64."""
    point = x.double().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(copy.deepcopy(model).double()(point), y, reduction="sum"), point)[0]


def is_clear(model, x, y):
    """Which images rounding cannot turn: no ReLU is about to switch, the gradient by the logits is no rounding error.

    Where a ReLU's input is zero to the last bit, as where only zeros enter, it is off in float32, too.
    """
    least = torch.full((len(x),), float("inf"), dtype=torch.float64)

    def look(_layer, inputs, _output):
        size = inputs[0].flatten(1).abs()
        least.copy_(torch.minimum(least, size.where(size > 0, float("inf")).amin(1)))

    handles = [layer.register_forward_hook(look) for layer in model.modules() if isinstance(layer, nn.ReLU)]
    unsure = 1 - model(x).softmax(1).gather(1, y[:, None])[:, 0]
    for handle in handles:
        handle.remove()
    return (least > 1e-5) & (unsure > 1e-3)


def share_along_the_gradient(model, x, y):
    """Of the pixels, the share whose gradient is told from zero: a step goes along all their signs. model: float64."""
    start = (0.25 + x / 2).float()  # far from 0 and 1, so that a step of 0.1 is seen
    found = compiled_attack.climb(copy.deepcopy(model).float(), start, y, start.clone(), eps=0.2, alpha=0.1, steps=1)
    assert found is not None
    gradient = gradient_of(model, start, y)
    told = (gradient.abs() > 1e-4 * gradient.abs().amax((1, 2, 3), keepdim=True)) | (gradient == 0)
    told &= is_clear(model, start.double(), y)[:, None, None, None]
    assert torch.equal((found - start).sign()[told], gradient.sign().float()[told])
    return told.double().mean()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_goes_along_the_gradient(name):
    shape, build = ARCHITECTURES[name]
    assert share_along_the_gradient(seeded(0, build), *random_images(shape, 19, seed=0)) > 0.7


def test_a_linear_layer_sees_the_pixels_of_several_channels_in_their_order():
    shape = (2, 3, 4)
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 4)))
    assert share_along_the_gradient(model, *random_images(shape, 19, seed=0)) > 0.7


@settings(max_examples=40)
@given(network=networks(), seed=st.integers(0, 2**31 - 1))
def test_a_step_goes_along_the_gradient_of_any_chain(network, seed):
    model, shape = network
    share_along_the_gradient(model, *random_images(shape, 9, seed=seed))


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_step_is_that_of_pytorch(dataset, normalize):
    model = conv_small(dataset, normalize=normalize, seed=1)
    shape = (1, 28, 28) if dataset == "digits" else (3, 32, 32)
    x, y = (values.float() if values.is_floating_point() else values for values in random_images(shape, 40, seed=2))
    point, how = x.clone(), {"eps": EPS, "alpha": 0.03, "steps": 1}
    for _ in range(6):
        found = compiled_attack.climb(model, x, y, point.clone(), **how)
        gradient = gradient_of(model, point, y)
        low, high = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
        after = (point + 0.03 * gradient.sign().float()).clamp(low, high)
        tiny = (gradient != 0) & (gradient.abs() < 1e-4 * gradient.abs().amax((1, 2, 3), keepdim=True))
        assert tiny.double().mean() < 0.01
        assert torch.equal(found[~tiny], after[~tiny])
        point = found


@pytest.mark.parametrize("random_start", [True, False])
def test_a_whole_attack_is_that_of_pytorch(trained_digits, digits, random_start):
    x, y = digits.test_x, digits.test_y
    how = {"eps": EPS, "alpha": 0.01, "steps": 20, "random_start": random_start}
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = pgd(trained_digits, x, y, **how, generator=generators[0])
    plain = in_pytorch(pgd, trained_digits, x, y, **how, generator=generators[1])
    assert (ours == plain).double().mean() >= 0.999
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_the_random_start_is_that_of_pytorch(trained_digits, digits, kernel_only):
    x, y = digits.test_x[:9], digits.test_y[:9]
    started = pgd(trained_digits, x, y, eps=EPS, alpha=0, steps=1, generator=torch.Generator().manual_seed(3))
    noise = torch.empty_like(x).uniform_(-EPS, EPS, generator=torch.Generator().manual_seed(3))
    assert torch.equal(started, (x + noise).clamp(0, 1).clamp((x - EPS).clamp(min=0), (x + EPS).clamp(max=1)))


@pytest.mark.parametrize("alpha", [0.004, 0.3])
def test_the_ball_and_the_image_are_kept_to_the_last_bit(trained_digits, digits, alpha, kernel_only):
    x, y = digits.test_x[:50], digits.test_y[:50]
    found = pgd(trained_digits, x, y, eps=8 / 255, alpha=alpha, steps=11)
    assert (found >= (x - 8 / 255).clamp(min=0)).all()
    assert (found <= (x + 8 / 255).clamp(max=1)).all()
    assert found.shape == x.shape
    assert not found.requires_grad


def small():
    return seeded(4, ARCHITECTURES["two channels"][1]).float()


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_neither_threads_nor_neighbours_change_an_image(steps, threads, kernel_only):
    model = small()
    x, y = random_images((2, 6, 6), 70, seed=0)
    x = x.float()
    attack = PGD(alpha=0.03, steps=steps, random_start=False)
    threads(1)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=0.2, generator=None) for i in range(70)])
    for count in (1, 2, 3, 7):
        threads(count)
        for size in range(1, 71):
            assert torch.equal(attack(model, x[:size], y[:size], eps=0.2, generator=None), alone[:size])


@pytest.mark.parametrize("label", [0, 9])
def test_the_first_and_the_last_class_are_attacked(label, trained_digits, digits, kernel_only):
    x = digits.test_x[digits.test_y == label]
    y = torch.full((len(x),), label)
    found = pgd(trained_digits, x, y, eps=0.3, alpha=0.03, steps=15, random_start=False)
    losses = [F.cross_entropy(trained_digits(images), y) for images in (x, found)]
    assert losses[1] > 2 * losses[0]


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_without_a_class_is_left_to_pytorch(label, trained_digits, digits):
    x = digits.test_x[:2]
    y = torch.tensor([0, label])
    assert compiled_attack.climb(trained_digits, x, y, x.clone(), eps=EPS, alpha=ALPHA, steps=1) is None
    with pytest.raises((IndexError, RuntimeError)):
        PGD(alpha=ALPHA, steps=1)(trained_digits, x, y, eps=EPS, generator=torch.Generator())


def test_new_weights_are_seen(kernel_only):
    model = small()
    x, y = random_images((2, 6, 6), 5, seed=0)
    x = 0.25 + x.float() / 2
    how = {"eps": 0.2, "alpha": 0.1, "steps": 1, "random_start": False}
    before = pgd(model, x, y, **how)
    with torch.no_grad():
        model[0].weight.neg_()
        model[-1].bias.add_(torch.tensor([3.0, 0, 0, 0]))
    after = pgd(model, x, y, **how)
    assert not torch.equal(before, after)
    gradient = gradient_of(model, x, y)
    told = gradient.abs() > 1e-5 * gradient.abs().max()
    assert torch.equal((after - x).sign()[told], gradient.sign().float()[told])


def test_weights_that_are_not_numbers_leave_the_images_where_pytorch_does(digits):
    model = conv_small("digits", seed=0)
    with torch.no_grad():
        model[2].weight[3, 2, 1, 1] = float("nan")
    x, y = digits.test_x[:20], digits.test_y[:20]
    attack = PGD(alpha=ALPHA, steps=2, random_start=False)
    found = attack(model, x, y, eps=EPS, generator=None)
    assert torch.equal(found, in_pytorch(attack, model, x, y, eps=EPS, generator=None))


@pytest.mark.parametrize("steps", [3, 7])
def test_an_image_is_handed_on_only_when_its_first_lane_is_done(threads, steps):
    """A network so small that two threads come to an image that they share at nearly the same time."""
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))).float()
    x, y = random_images((1, 6, 6), 149, seed=0)
    x = x.float()
    attack = PGD(alpha=0.03, steps=steps, random_start=False)
    threads(1)
    expected = attack(model, x, y, eps=0.2, generator=None)
    for count in (2, 3, 5, 7):
        threads(count)
        for size in range(1, len(x) + 1):
            assert torch.equal(attack(model, x[:size], y[:size], eps=0.2, generator=None), expected[:size]), (
                count,
                size,
            )


def test_images_in_any_memory_format_are_left_as_they_were(kernel_only):
    model = small()
    x, y = random_images((2, 6, 6), 11, seed=0)
    x = x.float()
    other, before = x.contiguous(memory_format=torch.channels_last), x.clone()
    how = {"eps": 0.2, "alpha": 0.03, "steps": 3, "random_start": False}
    assert torch.equal(pgd(model, x, y, **how), pgd(model, other, y, **how))
    assert torch.equal(x, before)
    assert torch.equal(other, before)


def test_no_images_are_no_work(trained_digits, digits):
    x, y = digits.test_x[:0], digits.test_y[:0]
    assert pgd(trained_digits, x, y, eps=EPS, alpha=ALPHA, steps=3).shape == (0, 1, 28, 28)


def test_without_the_kernel_pytorch_does_the_same(monkeypatch, trained_digits, digits):
    x, y = digits.test_x[:20], digits.test_y[:20]
    how = {"eps": EPS, "alpha": ALPHA, "steps": 4, "random_start": False}
    ours = pgd(trained_digits, x, y, **how)
    monkeypatch.setattr(compiled, "load", lambda source: "no C++ compiler found")
    assert compiled_attack.missing() == "no C++ compiler found"
    assert (ours == pgd(trained_digits, x, y, **how)).double().mean() >= 0.999


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh()),
        nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten(), nn.Linear(32, 10)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 10, 8)),
        nn.Sequential(nn.Conv2d(1, 1, (33, 1), padding=(16, 0)), nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(63, 10)),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Conv2d(1, 2, 9), nn.Flatten(), nn.Linear(2, 10)),
        nn.Sequential(nn.Linear(8, 10), nn.Flatten()),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(),
    ],
    ids=str,
)
def test_what_the_kernel_does_not_do_is_left_to_pytorch(model):
    x = torch.rand(3, 1, 8, 8, dtype=next(model.parameters(), torch.zeros(())).dtype)
    y = torch.tensor([0, 1, 2])
    assert compiled_attack.climb(model, x, y, x.clone(), eps=EPS, alpha=ALPHA, steps=1) is None


def targets(count, classes=10):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(5)).softmax(1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_away_from_a_distribution_follows_autograd(name):
    shape, build = ARCHITECTURES[name]
    model = seeded(0, build)
    x, _ = random_images(shape, 20, seed=0)
    start = (0.25 + x / 2).float()
    with torch.no_grad():
        classes = model(x).shape[1]
    wanted = targets(20, classes)
    single = copy.deepcopy(model).float()
    found = compiled_attack.climb(single, start, wanted, start.clone(), eps=0.2, alpha=0.1, steps=1)
    assert found is not None
    gradient = gradient_of(model, start, wanted.double())
    told = (gradient.abs() > 1e-4 * gradient.abs().amax((1, 2, 3), keepdim=True)) | (gradient == 0)
    told &= is_clear(model, start.double(), torch.zeros(20, dtype=torch.int64))[:, None, None, None]
    assert torch.equal((found - start).sign()[told], gradient.sign().float()[told])


def test_a_distribution_on_one_class_is_its_label(trained_digits, digits):
    x, y = digits.test_x[:40], digits.test_y[:40]
    settings = {"eps": EPS, "alpha": ALPHA, "steps": 5}
    one = F.one_hot(y, 10).float()
    expected = compiled_attack.climb(trained_digits, x, y, x.clone(), **settings)
    assert torch.equal(compiled_attack.climb(trained_digits, x, one, x.clone(), **settings), expected)


@pytest.mark.parametrize("other", [torch.ones(3, 9), torch.ones(2, 10), torch.ones(3, 10, dtype=torch.float64)])
def test_targets_that_do_not_fit_are_left_to_pytorch(trained_digits, digits, other):
    x = digits.test_x[:3]
    assert compiled_attack.climb(trained_digits, x, other, x.clone(), eps=EPS, alpha=ALPHA, steps=1) is None


@pytest.mark.parametrize("count", [1, 3, 17, 100])
@pytest.mark.parametrize("further", [0, 2, 30])
def test_images_that_stop_early_stop_where_pytorch_stops_them(trained_digits, digits, threads, count, further):
    threads(1 + count % 3)
    x, y = digits.test_x[:count], digits.test_y[:count]
    attack = FriendlyPGD(alpha=ALPHA, steps=12, tau=further, random_start=False)
    settings = {"eps": EPS, "alpha": ALPHA, "steps": 12}
    found = compiled_attack.climb(trained_digits, x, y, x.clone(), further=further, **settings)
    alone = compiled_attack.climb(trained_digits, x[:1], y[:1], x[:1].clone(), further=further, **settings)
    expected = in_pytorch(attack, trained_digits, x, y, eps=EPS, generator=None)
    assert torch.equal(found[:1], alone)  # whoever goes beside it
    assert (found == expected).double().mean() >= 0.999
    if further == 30:
        assert torch.equal(found, compiled_attack.climb(trained_digits, x, y, x.clone(), **settings))


def fewer_channels(model):
    model[0].weight.data, model[0].bias.data = model[0].weight.data[:4], model[0].bias.data[:4]
    model[3].weight.data = model[3].weight.data[:, :64]


def fewer_classes(model):
    model[3].weight.data, model[3].bias.data = model[3].weight.data[:5], model[3].bias.data[:5]


def smaller_kernel(model):
    model[0].weight.data = model[0].weight.data[:, :, :1, :1].clone()
    model[3].weight.data = torch.cat([model[3].weight.data] * 3, 1)[:, : 8 * 36]


def one_bias(model):
    model[3].bias.data = model[3].bias.data[:1].clone()


@pytest.mark.parametrize("change", [fewer_channels, fewer_classes, smaller_kernel, one_bias])
def test_the_weights_count_and_not_what_the_layer_says_of_them(change):
    def build():
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))

    model = seeded(0, build).float().eval()
    change(model)
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    attack = PGD(steps=3, alpha=ALPHA, random_start=False)
    expected = in_pytorch(attack, model, x, y, eps=EPS, generator=None)
    torch.testing.assert_close(attack(model, x, y, eps=EPS, generator=None), expected, rtol=0, atol=1e-6)
