"""The gradient by hand is autograd's, and what cannot be done by hand is autograd's."""

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softadv.kernels import input_gradients as gradients
from softadv.kernels.input_gradients import input_gradient
from softadv.models import Normalize
from tests.networks import ARCHITECTURES, networks, random_images, seeded


def by_autograd(model, x, y):
    point = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]


def conv_chain(channels):
    return nn.Sequential(
        Normalize((0.4,) * channels, (0.3,) * channels),
        nn.Conv2d(channels, 5, 3, 2, padding=2),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(5, 4, (2, 3), (1, 2), padding=(1, 0)), nn.ReLU()),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


@pytest.fixture
def by_hand_only(monkeypatch):
    """Autograd is out of reach."""
    monkeypatch.setattr(gradients, "_autograd", None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_by_hand_is_that_of_autograd(name, by_hand_only):
    shape, build = ARCHITECTURES[name]
    model = seeded(0, build)
    x, y = random_images(shape, 3, seed=0)
    torch.testing.assert_close(input_gradient(model)(x, y), by_autograd(model, x, y))


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_the_gradient_by_hand_takes_any_number_of_channels(channels, by_hand_only):
    def build():
        model = conv_chain(channels)
        model(torch.zeros(1, channels, 8, 9))
        return model

    model = seeded(0, build)
    x, y = random_images((channels, 8, 9), 2, seed=1)
    found = input_gradient(model)(x, y)
    assert found.shape == x.shape
    torch.testing.assert_close(found, by_autograd(model, x, y))


@settings(max_examples=25)
@given(network=networks(), seed=st.integers(0, 2**31 - 1))
def test_the_gradient_of_any_chain_is_that_of_autograd(network, seed):
    model, shape = network
    x, y = random_images(shape, 2, seed=seed)
    torch.testing.assert_close(input_gradient(model)(x, y), by_autograd(model, x, y))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4).eval(),
        nn.Conv2d(4, 4, 2, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_other_models_go_through_autograd(layer, monkeypatch):
    monkeypatch.setattr(gradients, "_by_hand", None)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten()).double()
    model.append(nn.Linear(model(torch.zeros(1, 1, 8, 8).double()).shape[1], 4).double())
    x, y = random_images((1, 8, 8), 3, seed=0)
    torch.testing.assert_close(input_gradient(model)(x, y), by_autograd(model, x, y))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_subclass_is_differentiated_by_what_it_computes():
    class Squared(nn.ReLU):
        def forward(self, x):
            return super().forward(x) ** 2

    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), Squared(), nn.Linear(5, 4)).double()
    x, y = random_images((1, 3, 3), 3, seed=0)
    torch.testing.assert_close(input_gradient(model)(x, y), by_autograd(model, x, y))


class Shifts(nn.Module):
    """Begins in place, in code of its own."""

    def __init__(self, function):
        super().__init__()
        self.function, self.last = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.function(x, 0.3).flatten(1))


def test_a_model_that_begins_in_place_is_differentiated_and_leaves_the_images():
    model = seeded(0, lambda: Shifts(operator.isub)).float()
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    before = x.clone()
    found = input_gradient(model)(x, y)
    assert torch.equal(x, before)
    model.function = operator.sub
    assert torch.equal(found, by_autograd(model, x, y))
