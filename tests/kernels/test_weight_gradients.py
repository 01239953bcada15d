"""The compiled update: its gradients are autograd's."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from softadv.attacks import pgd
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import build as compiled
from softadv.kernels import chain as compiled_chain
from softadv.kernels import weight_gradients as compiled_update
from softadv.models import conv_small
from softadv.training import loop as training
from softadv.training.state import new_state
from tests.kernels.gradients import assert_same_gradients, by_kernel
from tests.networks import ARCHITECTURES, networks, random_images, seeded

pytestmark = pytest.mark.skipif(not compiled_update.available(), reason="needs a C++ compiler")


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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


def test_zeros_that_pytorch_keeps_without_memory_are_zeros():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    zeros, y = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    without_memory = torch._efficientzerotensor(zeros.shape)
    assert torch.equal(by_kernel(model, without_memory, y)[0], by_kernel(model, zeros, y)[0])
    assert pgd(model, without_memory, y, eps=0.1, steps=1, random_start=False).max() > 0


def test_windows_amid_padding_that_would_take_all_memory_are_left_to_pytorch():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, stride=5000, padding=5000), nn.Flatten(), nn.Linear(18, 3))
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    assert compiled_update.gradients(model, x, y) is None
    assert pgd(model, x, y, eps=0.1, steps=1).shape == x.shape


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


@settings(max_examples=60)
@given(network=networks(), seed=st.integers(0, 2**31 - 1), count=st.integers(1, 20))
def test_gradients_of_any_chain_are_those_of_autograd(network, seed, count):
    model, shape = network
    x, y = random_images(shape, count, seed=seed)
    if is_clear(model, x):
        assert_same_gradients(model, x, y)


def test_the_same_threads_make_the_same_bits(threads):
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
