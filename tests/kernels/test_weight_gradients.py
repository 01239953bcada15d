"""The compiled update: its gradients are autograd's."""

import copy
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import build as compiled
from softadv.kernels import chain as compiled_chain
from softadv.kernels import weight_gradients as compiled_update
from softadv.models import conv_small
from softadv.training import loop as training
from softadv.training.loop import train_epoch
from softadv.training.state import new_state
from tests.networks import ARCHITECTURES, networks, random_images, seeded

pytestmark = pytest.mark.skipif(not compiled_update.available(), reason="needs a C++ compiler")


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def by_kernel(model, x, y):
    """The loss and the gradients of a float32 copy of a model."""
    model = copy.deepcopy(model).float()
    loss = compiled_update.gradients(model, x.float(), y)
    assert loss is not None
    return loss, [parameter.grad for parameter in model.parameters()]


def by_autograd(model, x, y):
    """The same in float64, at the numbers that the kernel sees."""
    model = copy.deepcopy(model).float().double()
    loss = F.cross_entropy(model(x.float().double()), y)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def by_roundings(model, x, y):
    """How far each gradient moves when the numbers that it is made of are rounded: far, where terms nearly cancel."""
    generator = torch.Generator().manual_seed(0)

    def rounded(numbers):
        return numbers * (1 + 2**-24 * torch.empty_like(numbers).uniform_(-1, 1, generator=generator))

    _, exact = by_autograd(model, x, y)
    moved = [0.0] * len(exact)
    for _ in range(3):
        other = copy.deepcopy(model).float().double()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(rounded(parameter))
        F.cross_entropy(rounded(other(x.float().double())), y).backward()
        gradients = [parameter.grad for parameter in other.parameters()]
        moved = [max(a, float((g - e).abs().max())) for a, g, e in zip(moved, gradients, exact, strict=True)]
    return moved


def test_the_kernels_have_room_for_the_rows_of_every_convolution_that_they_are_given():
    header = (compiled_update.SOURCE.parent / "pass.h").read_text(encoding="utf-8")
    assert re.findall(r"constexpr int kMostRuns = (\d+);", header) == [str(compiled_chain._MOST_ROWS)]


def test_a_model_that_overflows_on_a_black_image_has_the_gradients_of_its_own_images():
    """A block of the kernel has more lanes than there are images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))
    with torch.no_grad():
        model[1].weight.fill_(-0.75e38)
        model[1].bias.fill_(3e38)  # 0 for a white image, 3e38 for a black one
        model[3].weight.copy_(torch.tensor([[10.0], [-10.0], [0.0]]))
    assert not model(torch.zeros(1, 1, 2, 2)).isfinite().all()
    for count in (1, 3):
        x, y = torch.ones(count, 1, 2, 2), torch.arange(count)
        loss, found = by_kernel(model, x, y)
        F.cross_entropy(model(x), y).backward()
        assert loss.isfinite()
        for own, parameter in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(own, parameter.grad)
            parameter.grad = None


def assert_same_gradients(model, x, y):
    model.requires_grad_()
    (loss, ours), (expected_loss, theirs) = by_kernel(model, x, y), by_autograd(model, x, y)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert torch.allclose(loss.double(), expected_loss, rtol=1e-5, atol=1e-6)
    moved = by_roundings(model, x, y)
    for own, expected, parameter, by_rounding in zip(ours, theirs, model.parameters(), moved, strict=True):
        assert own.shape == parameter.shape
        assert own.is_contiguous()
        scale = max(1e-3, float(expected.abs().max()))
        assert float((own.double() - expected).abs().max()) <= max(2e-5 * scale, 8 * by_rounding)


@pytest.mark.parametrize("count", [1, 7, 16, 33, 128])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_autograd(name, count):
    shape, build = ARCHITECTURES[name]
    assert_same_gradients(seeded(0, build), *random_images(shape, count, seed=count))


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_of_the_papers_networks_are_those_of_autograd(dataset, normalize):
    shape = (1, 28, 28) if dataset == "mnist" else (3, 32, 32)
    model = conv_small(dataset, normalize=normalize, seed=1)
    assert_same_gradients(model, *random_images(shape, 50, seed=2, classes=10))


@pytest.mark.parametrize(("stride", "padding"), [(3, 1), ((1, 3), (0, 1)), ((3, 1), (1, 0)), (50_000, 0)])
def test_a_window_that_sees_one_pixel_or_none(stride, padding):
    last = nn.Conv2d(2, 3, 1, stride=stride, padding=padding)
    model = seeded(0, lambda: nn.Sequential(nn.Conv2d(1, 2, 4), last, nn.Flatten(), nn.Linear(3, 4)))
    assert_same_gradients(model, *random_images((1, 4, 4), 5, seed=0))


def test_a_linear_layer_sees_the_pixels_of_several_channels_in_their_order():
    model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 4)))
    assert_same_gradients(model, *random_images((2, 3, 4), 19, seed=0))


def is_clear(model, x):
    """Whether rounding cannot turn a ReLU."""
    least = [1.0]

    def look(_layer, inputs, _output):
        size = inputs[0].abs()
        least.append(float(size[size > 0].amin()) if (size > 0).any() else 1.0)

    handles = [layer.register_forward_hook(look) for layer in model.modules() if isinstance(layer, nn.ReLU)]
    model(x)
    for handle in handles:
        handle.remove()
    return min(least) > 1e-5


@settings(max_examples=60, deadline=None)
@given(network=networks(), seed=st.integers(0, 2**31 - 1), count=st.integers(1, 20))
def test_gradients_of_any_chain_are_those_of_autograd(network, seed, count):
    model, shape = network
    x, y = random_images(shape, count, seed=seed)
    if is_clear(model, x):
        assert_same_gradients(model, x, y)


@pytest.mark.parametrize("workers", ["PyTorch's", "its own"])
def test_the_same_threads_make_the_same_bits(workers, monkeypatch, threads):
    if workers == "its own":
        monkeypatch.setattr(compiled_chain, "workers", lambda: None)
    model = conv_small("digits", seed=0)
    x, y = random_images((1, 28, 28), 128, seed=0, classes=10)
    for count in (1, 2, 3, 7, 40):
        threads(count)
        loss, first = by_kernel(model, x, y)
        for _ in range(5):
            again, second = by_kernel(model, x, y)
            assert torch.equal(loss, again)
            assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_any_number_of_threads_makes_the_same_gradients(count, threads):
    threads(count)
    shape, build = ARCHITECTURES["padding"]
    for size in (1, 9, 17, 70):
        assert_same_gradients(seeded(0, build), *random_images(shape, size, seed=0))


@pytest.mark.parametrize("frozen", [[0, 1], [2], [3], [6, 7], [0, 1, 2, 3, 4, 5]])
def test_frozen_parameters_get_no_gradient_and_leave_the_others_theirs(frozen):
    model = conv_small("digits", seed=0)
    x, y = random_images((1, 28, 28), 20, seed=0, classes=10)
    _, whole = by_kernel(model, x, y)
    for index in frozen:
        list(model.parameters())[index].requires_grad_(False)
    _, some = by_kernel(model, x, y)
    for index, (own, expected) in enumerate(zip(some, whole, strict=True)):
        assert own is None if index in frozen else torch.equal(own, expected)


def test_images_and_weights_in_any_memory_format_make_gradients_in_the_format_of_the_weights():
    model = conv_small("cifar10", seed=0)
    x, y = random_images((3, 32, 32), 20, seed=0, classes=10)
    loss, expected = by_kernel(model, x, y)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    again, found = by_kernel(other, x.to(memory_format=torch.channels_last), y)
    assert torch.equal(loss, again)
    for own, theirs, parameter in zip(found, expected, other.parameters(), strict=True):
        assert own.stride() == parameter.stride()
        assert torch.equal(own, theirs)


def updates(model, *, freeze_before_second=()):
    """The weights after two updates, some of them frozen in the second."""
    trial = Trial(
        setting="tests", dataset="digits", method="natural", seed=0, eps=0.1, alpha=0.1, steps=1, epochs=1,
    )  # fmt: skip
    config = train_config(trial)
    state = new_state(copy.deepcopy(model), config)
    x, y = random_images((3, 32, 32), 20, seed=0, classes=10)
    parameters = list(state.model.parameters())
    for frozen in ((), freeze_before_second):
        for index in frozen:
            parameters[index].requires_grad_(False)
        training._update(state, config, x.float(), x.float(), y, loss_of=None)
    return parameters


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frozen", [(), (0, 3)])
def test_updates_in_any_memory_format_are_those_of_autograd(memory_format, frozen):
    model = conv_small("cifar10", seed=0).to(memory_format=memory_format)
    own = updates(model, freeze_before_second=frozen)
    with compiled.disabled():
        expected = updates(model, freeze_before_second=frozen)
    # Where a gradient is nothing but rounding, Adam's step of lr may go either way.
    for weight, theirs in zip(own, expected, strict=True):
        assert float((weight - theirs).detach().abs().mean()) < 2e-5


def test_the_loss_of_images_far_on_the_right_side_is_not_lost_in_rounding():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 5))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1020.0, 1008, 1000, 1000, 1000]))
    loss = compiled_update.gradients(model, torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    assert float(loss) == pytest.approx(6.2e-6, rel=0.05)


def test_another_default_type_changes_nothing():
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = by_kernel(model, x, y)
    torch.set_default_dtype(torch.float64)
    try:
        loss, gradients = by_kernel(model, x, y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(loss, expected[0])
    assert all(torch.equal(*pair) for pair in zip(gradients, expected[1], strict=True))


@pytest.mark.parametrize(
    "register",
    [
        lambda model: prune.l1_unstructured(model[1], "weight", 0.5),
        lambda model: model[1].register_forward_hook(lambda _layer, _inputs, output: -output),
        lambda model: model.register_forward_pre_hook(lambda _model, inputs: inputs),
        lambda model: model[1].register_full_backward_hook(lambda _layer, _entered, _left: None),
        lambda model: model[1].weight.register_hook(lambda gradient: 2 * gradient),
        lambda model: setattr(model[1], "forward", lambda x: x[:, :10]),
        lambda model: model.requires_grad_(False),
    ],
    ids=["pruned", "forward hook", "pre-hook", "backward hook", "hook of a weight", "own forward", "all frozen"],
)
def test_what_hooks_may_change_is_left_to_pytorch(register):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    register(model)
    assert compiled_update.gradients(model, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])) is None


def test_gradients_take_the_place_of_earlier_ones():
    model = conv_small("digits", seed=0)
    x, y = random_images((1, 28, 28), 20, seed=0, classes=10)
    compiled_update.gradients(model, x.float(), y)
    first = [parameter.grad for parameter in model.parameters()]
    before = [gradient.clone() for gradient in first]
    compiled_update.gradients(model, x.float().flip(0), y)
    for parameter, gradient, kept in zip(model.parameters(), first, before, strict=True):
        assert parameter.grad is not gradient
        assert torch.equal(gradient, kept)


def test_weights_that_are_not_numbers_are_seen_in_the_loss():
    model = conv_small("digits", seed=0)
    with torch.no_grad():
        model[2].weight[3, 2, 1, 1] = float("nan")
    x, y = random_images((1, 28, 28), 20, seed=0, classes=10)
    assert compiled_update.gradients(model, x.float(), y).isnan()


_SHARED = nn.Linear(64, 64)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh()),
        nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten(), nn.Linear(32, 10)),
        nn.Sequential(nn.Conv2d(1, 10, 8)),
        nn.Sequential(nn.Flatten(), _SHARED, nn.ReLU(), _SHARED, nn.Linear(64, 10)),
    ],
    ids=str,
)
def test_what_the_kernel_does_not_do_is_left_to_pytorch(model):
    x = torch.rand(3, 1, 8, 8, dtype=next(model.parameters()).dtype)
    assert compiled_update.gradients(model, x, torch.tensor([0, 1, 2])) is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("label", [-100, -1, 10])
def test_a_label_without_a_class_is_left_to_pytorch(label):
    model = conv_small("digits", seed=0)
    assert compiled_update.gradients(model, torch.rand(2, 1, 28, 28), torch.tensor([0, label])) is None


def test_no_images_are_left_to_pytorch():
    model = conv_small("digits", seed=0)
    assert compiled_update.gradients(model, torch.rand(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64)) is None


def test_without_the_kernel_pytorch_does_it(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda source: "no C++ compiler found")
    assert compiled_update.missing() == "no C++ compiler found"
    assert (
        compiled_update.gradients(conv_small("digits", seed=0), torch.rand(2, 1, 28, 28), torch.tensor([0, 1])) is None
    )


def trained(data, model, *, epochs=1):
    """A trial's training from a copy of a model; the losses of its epochs, and the share it gets right afterwards."""
    trial = Trial(
        setting="tests", dataset="digits", method="adversarial", seed=0, eps=0.05, alpha=0.02, steps=3, epochs=epochs,
        batch_size=32,
    )  # fmt: skip
    config = train_config(trial)
    state = new_state(copy.deepcopy(model), config)
    losses = [
        train_epoch(
            state, data.train_x, data.train_y, config=config, epoch=epoch, on_progress=lambda _what, _done: None
        ).loss
        for epoch in range(1, epochs + 1)
    ]
    right = state.model(data.test_x).argmax(1) == data.test_y
    return losses, float(right.double().mean())


def test_training_learns_as_much_as_without_the_kernel(digits, monkeypatch):
    model = conv_small("digits", seed=0)
    with compiled.disabled():
        expected, accuracy = trained(digits, model, epochs=2)
    # PyTorch's own way through the update is shut.
    monkeypatch.setattr(training.F, "cross_entropy", None)
    losses, own = trained(digits, model, epochs=2)
    assert losses == pytest.approx(expected, rel=0.01)
    assert own == pytest.approx(accuracy, abs=0.02)


def test_frozen_layers_stay_as_they_were_in_training(digits):
    trial = Trial(
        setting="tests", dataset="digits", method="natural", seed=0, eps=0.1, alpha=0.1, steps=1, epochs=1,
    )  # fmt: skip
    model = conv_small("digits", seed=0)
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    config = train_config(trial)
    train_epoch(
        new_state(model, config), digits.train_x[:100], digits.train_y[:100], config=config, epoch=1,
        on_progress=lambda _what, _done: None,
    )  # fmt: skip
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert same == ["0.weight", "0.bias"]


def trades_loss(model, x, x_adv, y, weight):
    clean, attacked = model(x), model(x_adv)
    divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    return F.cross_entropy(clean, y) + weight * divergence


@pytest.mark.parametrize("count", [1, 7, 16, 33])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradients_of_trades_loss_are_those_of_autograd(name, count):
    shape, build = ARCHITECTURES[name]
    model = seeded(0, build).requires_grad_()
    x, y = random_images(shape, count, seed=count)
    x = x.float()
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    single, double = copy.deepcopy(model).float(), copy.deepcopy(model).float().double()
    loss = compiled_update.trades_gradients(single, x, x_adv, y, weight=6.0)
    expected = trades_loss(double, x.double(), x_adv.double(), y, 6.0)
    expected.backward()
    assert loss is not None
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-5)
    for own, theirs in zip(single.parameters(), double.parameters(), strict=True):
        scale = max(1e-2, float(theirs.grad.abs().max()))
        assert float((own.grad.double() - theirs.grad).abs().max()) <= 2e-4 * scale


def test_without_a_divergence_trades_loss_is_the_cross_entropy():
    model = conv_small("digits", seed=0)
    x, y = random_images((1, 28, 28), 20, seed=0)
    x = x.float()
    other = copy.deepcopy(model)
    plain, pairs = compiled_update.gradients(model, x, y), compiled_update.trades_gradients(other, x, x, y, weight=0.0)
    assert float(plain) == pytest.approx(float(pairs), rel=1e-5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-6)


def test_training_with_trades_uses_the_kernel_and_learns_as_autograd_does(monkeypatch, digits):
    from softadv.training.methods import Trades

    config = replace(train_config(TRADES), method=Trades())
    x, y = digits.train_x[:64], digits.train_y[:64]
    asked = []
    own = compiled_update.trades_gradients
    monkeypatch.setattr(compiled_update, "trades_gradients", lambda *a, **k: asked.append(own(*a, **k)) or asked[-1])
    states = []
    for kernels in (True, False):
        state = new_state(conv_small("digits", seed=0), config)
        with nullcontext() if kernels else compiled.disabled():
            train_epoch(state, x, y, config=config, epoch=1, on_progress=lambda *_: None)
        states.append(state)
    assert [found is not None for found in asked] == [True, True, False, False]
    # Where a gradient is nothing but rounding, each of Adam's two steps of 1e-3 may go either way.
    for one, two in zip(states[0].model.parameters(), states[1].model.parameters(), strict=True):
        assert float((one - two).detach().abs().mean()) < 1e-4


TRADES = Trial(
    setting="tests", dataset="digits", method="trades", seed=3, eps=0.02, alpha=0.01, steps=2, epochs=4, batch_size=32
)
