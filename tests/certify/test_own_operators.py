"""Operators registered from outside: the documents' own ones are read, and what they prove holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from softadv._onnx.calls import OPERATORS
from softadv.certify import DOMAINS, LinearOperator, certify, layers
from softadv.certify.computed_by import computed_by
from softadv.certify.trace import read_network
from tests.networks import Residual, random_images, seeded

SHAPE = (2, 4, 4)


@pytest.fixture
def documented(monkeypatch) -> Iterator[dict[str, Any]]:
    """The names that docs/own-operators.md's blocks define, with their operators registered for one test."""
    monkeypatch.setattr(layers, "_REGISTERED", dict(layers._REGISTERED))
    text = (Path(__file__).parents[2] / "docs" / "own-operators.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {"__name__": "own_operators"}
    exec(compile("\n".join(blocks), "own-operators.md", "exec"), names)
    yield names
    del OPERATORS["Softplus"]


def summed(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """A network in which one layer reads the image, and another one stands behind a ReLU, beside another branch."""
    return seeded(0, lambda: nn.Sequential(
        first, nn.Conv2d(2, 3, 2), nn.ReLU(), Residual(second), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4),
    ))  # fmt: skip


def triangular(size: int) -> nn.Linear:
    """The running sum of `size` numbers, as a matrix."""
    layer = nn.Linear(size, size, bias=False)
    layer.weight.data = torch.ones(size, size).tril() / 1.5  # `seeded` makes all weights 1.5 times as large
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_linear_operator_of_ones_own_is_certified_like_its_matrix(documented, domain, dtype):
    running = documented["RunningSum"]
    own, plain = summed(running(), running()).to(dtype), summed(triangular(4), triangular(3)).to(dtype)
    x, y = random_images(SHAPE, 5, seed=1)
    x = x.to(dtype)
    torch.testing.assert_close(own(x), plain(x), rtol=1e-5, atol=1e-5)
    for rounding in ("sound", "none"):
        for eps in (0.0, 0.03):
            found = certify(own, x, y, eps=eps, domain=domain, rounding=rounding)
            like = certify(plain, x, y, eps=eps, domain=domain, rounding=rounding)
            torch.testing.assert_close(found.margin, like.margin, rtol=1e-3, atol=1e-3)


def test_pytorch_computes_a_network_with_one_and_says_so(documented):
    network = read_network(summed(documented["RunningSum"](), nn.Identity()), SHAPE)
    found = computed_by(network, domain="deeppoly", dtype=torch.float32, device=torch.device("cpu"))
    assert str(found) == "PyTorch, since the compiled kernel does not know RunningSumStep, of layer 0 (RunningSum)"


def test_no_point_breaks_what_is_proven_of_the_documented_operators(documented, generator):
    act = documented["Softplus"]
    model = seeded(0, lambda: nn.Sequential(
        documented["RunningSum"](), nn.Conv2d(2, 3, 2), act(), nn.Flatten(), nn.Linear(27, 6), act(), nn.Linear(6, 4)
    )).float()  # fmt: skip
    x, _ = random_images(SHAPE, 6, seed=2)
    x = x.float()
    y = model(x).argmax(1)
    for domain in DOMAINS:
        margin = certify(model, x, y, eps=0.02, domain=domain).margin
        for _ in range(200):
            scores = model((x + torch.empty_like(x).uniform_(-0.02, 0.02, generator=generator)).clamp(0, 1))
            rest = scores.scatter(1, y[:, None], -torch.inf).amax(1)
            assert (scores.gather(1, y[:, None])[:, 0] - rest >= margin).all()


def test_a_vector_stays_one_behind_an_operator_of_ones_own(documented):
    documented["RunningSumStep"].apply = lambda self, x, magnitudes: x.cumsum(1)
    documented["RunningSumStep"].transposed = lambda self, y: y.flip(1).cumsum(1).flip(1)
    documented["RunningSumStep"].most_terms = (5, 5)
    model = nn.Sequential(documented["RunningSum"](), nn.Linear(5, 3)).requires_grad_(False)
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    real = model(x).topk(2).values.diff(dim=1).neg()[:, 0]
    torch.testing.assert_close(certify(model, x, y, eps=0.0).margin, real, rtol=1e-3, atol=1e-3)


class Tiny(nn.Module):
    """Three numbers times entries so small that a CPU may flush them to zero."""

    weight = torch.tensor([[1e-39, 0.0, 0.0], [0.0, 1e-40, 0.0]])

    def forward(self, x):
        return nn.functional.linear(x, self.weight)


class TinyStep(LinearOperator):
    most_terms = (1, 1)

    def apply(self, x, *, magnitudes):
        return nn.functional.linear(x.flatten(1), Tiny.weight)[:, :, None, None]

    def transposed(self, y):
        return nn.functional.linear(y.flatten(1), Tiny.weight.T)[:, :, None, None]


@pytest.mark.parametrize("domain", DOMAINS)
def test_entries_that_an_evaluator_flushes_to_zero_are_paid_for(monkeypatch, domain):
    """The first score is 100,000, or 0 where the entry is flushed; the other one is 50,000."""
    monkeypatch.setitem(layers._REGISTERED, Tiny, lambda _layer, shape: TinyStep(shape, (2, 1, 1)))
    last = nn.Linear(2, 2)
    last.weight.data, last.bias.data = torch.tensor([[1e15, 0.0], [0.0, 0.0]]), torch.tensor([0.0, 5e4])
    model, x = nn.Sequential(Tiny(), last).requires_grad_(False), torch.full((1, 3), 1e29)
    found = certify(model, x, torch.tensor([0]), eps=0.0, clip=(0, 1e30), domain=domain)
    assert found.correct
    assert not found.verified
