"""What a GPU computes, against the CPU: `pytest -m cuda`, two minutes at most.

With SOFTADV_REHEARSE_CUDA=1 and no GPU the CPU takes its part, so that the tests themselves are known to run.
"""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import softadv
from softadv.attacks import PGD, DivergencePGD, FriendlyPGD
from softadv.data import Dataset
from softadv.experiments.environment import pick_device
from softadv.kernels.cuda_graphs import WARM_UP, Replays
from softadv.models import conv_small
from softadv.training.config import TrainConfig
from softadv.training.loop import train_epoch
from softadv.training.methods import Adversarial, Fat, Method, Soft, Trades
from softadv.training.stacked import Team
from softadv.training.state import new_state

REHEARSED = os.environ.get("SOFTADV_REHEARSE_CUDA") == "1"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not (torch.cuda.is_available() or REHEARSED), reason="needs a GPU"),
]
EPS = 0.03


@pytest.fixture
def device() -> torch.device:
    return pick_device("auto")  # which also forbids TF32


@pytest.fixture
def model(trained_digits: nn.Module, device: torch.device) -> nn.Module:
    return copy.deepcopy(trained_digits).to(device)


def config(method: Method, **settings: Any) -> TrainConfig:
    return TrainConfig(method=method, attack=PGD(steps=3, alpha=0.01), eps=EPS, epochs=4, batch_size=32, **settings)


def images(digits: Dataset, device: torch.device, count: int = 160) -> tuple[Tensor, Tensor]:
    return digits.train_x[:count].to(device), digits.train_y[:count].to(device)


@pytest.mark.parametrize(
    "attack", [PGD(steps=10, random_start=False), FriendlyPGD(steps=10, random_start=False, tau=1)], ids=["pgd", "fat"]
)
def test_attacks_go_where_they_go_on_a_cpu(
    trained_digits: nn.Module, model: nn.Module, digits: Dataset, device: torch.device, attack: PGD
) -> None:
    x, y = images(digits, device)
    found = attack(model, x, y, eps=EPS, generator=None).cpu()
    expected = attack(trained_digits, x.cpu(), y.cpu(), eps=EPS, generator=None)
    # A gradient that is nothing but rounding may have either sign.
    assert ((found - expected).abs() < 1e-6).double().mean() > 0.98


def test_the_attack_of_trades_stays_in_its_ball(model: nn.Module, digits: Dataset, device: torch.device) -> None:
    x, y = images(digits, device)
    found = DivergencePGD(steps=5)(model, x, y, eps=EPS, generator=torch.Generator(device).manual_seed(0))
    assert (found - x).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("domain", ["deeppoly", "box"])
def test_verdicts_are_those_of_a_cpu(
    trained_digits: nn.Module, model: nn.Module, digits: Dataset, device: torch.device, domain: Any
) -> None:
    x, y = images(digits, device)
    found = softadv.certify(model, x, y, eps=EPS, domain=domain)
    expected = softadv.certify(trained_digits, x.cpu(), y.cpu(), eps=EPS, domain=domain)
    edge = expected.margin.abs() < 1e-3
    assert torch.equal(found.verified.cpu() | edge, expected.verified | edge)
    if domain == "deeppoly":
        assert 0 < int(expected.verified.sum()) < len(x)


@pytest.mark.parametrize("method", [Adversarial(), Soft(), Soft(split="rolling"), Trades(), Fat(tau=1)], ids=repr)
def test_graphs_train_as_plain_calls_do(
    digits: Dataset, device: torch.device, method: Method, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = images(digits, device)
    models, losses = [], []
    for graphs in (True, False):
        state = new_state(conv_small("digits", seed=3).to(device), config(method))
        if not graphs:
            state.replays = Replays()
        told: dict[str, Any] = {"config": config(method), "on_progress": lambda *_: None}
        losses.append([train_epoch(state, x, y, epoch=epoch, **told).loss for epoch in (1, 2, 3)])
        models.append(state.model)
    assert caplog.records == []  # nothing was refused
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        agree = (models[0](x).argmax(1) == models[1](x).argmax(1)).double().mean()
    assert agree > 0.95


def test_what_cannot_be_recorded_is_computed_as_it_is_and_one_line_says_so(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    replays = Replays.on(device)

    def asks(x: Tensor) -> Tensor:
        return x * float(x.sum())  # a value that the GPU is asked for: a graph cannot do that

    with caplog.at_level(logging.WARNING):
        for call in range(WARM_UP + 3):
            x = torch.full((4,), 1.0 + call, device=device)
            assert torch.equal(replays.run("asks", asks, x), asks(x))
    assert len(caplog.records) == (1 if device.type == "cuda" else 0)
    x = torch.ones(4, device=device)
    assert float((x + x).sum()) == 8.0  # the device goes on as if nothing had been


def test_seeds_side_by_side_learn_as_alone(digits: Dataset, device: torch.device) -> None:
    x, y = images(digits, device)
    configs = [config(Adversarial(), seed=seed) for seed in (0, 1)]
    team = [new_state(conv_small("digits", seed=seed).to(device), configs[seed]) for seed in (0, 1)]
    trained = Team(team, configs).train_epoch(x, y, epoch=1, on_progress=[lambda *_: None] * 2)
    for seed in (0, 1):
        alone = new_state(conv_small("digits", seed=seed).to(device), configs[seed])
        by_itself = train_epoch(alone, x, y, config=configs[seed], epoch=1, on_progress=lambda *_: None)
        assert trained[seed].loss == pytest.approx(by_itself.loss, rel=2e-2)
