"""Trainings that take their gradients from the kernel, with TRADES' loss among them."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import build as compiled
from softadv.kernels import weight_gradients as compiled_update
from softadv.models import conv_small
from softadv.training import loop as training
from softadv.training.loop import train_epoch
from softadv.training.state import new_state
from tests.networks import ARCHITECTURES, random_images, seeded

pytestmark = pytest.mark.skipif(not compiled_update.available(), reason="needs a C++ compiler")


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
