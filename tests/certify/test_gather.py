"""What moves numbers: its margins against float64 by hand, and the batch, which must stay as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.certify import certify
from softadv.errors import SoftadvError
from tests.certify.test_activations import deeppoly
from tests.networks import random_images, seeded
from tests.refusals import refusal

# A function of eight numbers, and which of them each of its outputs is; -1 for zero.
MOVES = {
    "rows exchanged": (lambda x: x.view(-1, 2, 4).flip(1), [4, 5, 6, 7, 0, 1, 2, 3]),
    "transposed": (lambda x: x.view(-1, 2, 4).transpose(1, 2), [0, 4, 1, 5, 2, 6, 3, 7]),
    "repeated": (lambda x: torch.cat([x, x[:, :3]], 1), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]),
    "padded": (lambda x: F.pad(x.view(-1, 2, 4), (1, 0)), [-1, 0, 1, 2, 3, -1, 4, 5, 6, 7]),
    "reflected": (lambda x: F.pad(x.view(-1, 2, 4), (2, 0), "reflect"), [2, 1, 0, 1, 2, 3, 6, 5, 4, 5, 6, 7]),
    "with a stride": (lambda x: x[:, ::3], [0, 3, 6]),
    "rolled": (lambda x: x.roll(3, 1), [5, 6, 7, 0, 1, 2, 3, 4]),
}


class Moving(nn.Module):
    """Three linear layers with ReLUs; numbers are moved behind the first ReLU, or before it."""

    def __init__(self, move, outputs, *, before) -> None:
        super().__init__()
        self.move, self.before = move, before
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(outputs, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = self.first(x)
        x = self.move(x).relu() if self.before else self.move(x.relu())
        return self.last(self.second(x.flatten(1)).relu())

    def dense(self, index) -> nn.Sequential:
        """The same without moves: they are matrices of zeros and ones, multiplied into the weights."""
        matrix = torch.zeros(len(index), 8, dtype=torch.float64)
        for row, column in enumerate(index):
            if column >= 0:
                matrix[row, column] = 1
        first, second = nn.Linear(6, 8).double(), nn.Linear(8, 7).double()
        with torch.no_grad():
            first.weight, second.bias = self.first.weight, self.second.bias
            first.bias, second.weight = self.first.bias, nn.Parameter(self.second.weight @ matrix)
            if self.before:
                first.weight, first.bias = nn.Parameter(matrix @ first.weight), nn.Parameter(matrix @ first.bias)
                second.weight = self.second.weight
        return nn.Sequential(first, second, self.last).requires_grad_(False)


def relu_rule(low, high):
    if low >= 0 or high <= 0:
        return float(low >= 0), 0.0, float(low >= 0), 0.0
    chord = high / (high - low)
    return float(high > -low), 0.0, chord, -chord * low


def box(model: Moving, index, x: np.ndarray, label: int, eps: float) -> float:
    """The least margin by intervals alone; the last layer's differences of two outputs are bounded as one."""
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    for layer in (model.first, model.second):
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
        ends = plus @ low + minus @ high + bias, plus @ high + minus @ low + bias
        low, high = (np.maximum(end, 0) for end in ends)
        if layer is model.first:
            low, high = (np.append(end, 0)[index] for end in (low, high))
    others = [j for j in range(4) if j != label]
    weight, bias = model.last.weight.numpy(), model.last.bias.numpy()
    weight, bias = weight[label] - weight[others], bias[label] - bias[others]
    return (np.maximum(weight, 0) @ low + np.minimum(weight, 0) @ high + bias).min()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", MOVES)
def test_margins_are_those_of_matrices_of_zeros_and_ones_by_hand(engine, name, before):
    move, index = MOVES[name]
    for seed, eps in enumerate((0.01, 0.05, 0.2)):
        model = seeded(seed, lambda move=move, index=index: Moving(move, len(index), before=before))
        x, y = random_images((1, 1, 6), 5, seed=seed)
        x, plain = x.flatten(1), model.dense(index)
        for domain in ("deeppoly", "box"):
            found = certify(model, x, y, eps=eps, rounding="none", domain=domain).margin
            by_hand = [
                deeppoly(plain, image, label, eps, relu_rule)
                if domain == "deeppoly"
                else box(model, index, image, label, eps)
                for image, label in zip(x.numpy(), y.tolist(), strict=True)
            ]
            np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-8, atol=1e-8)


class Function(nn.Module):
    """A function, a ReLU and a linear layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.last = function, nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.function(x).relu())


# Of some batches each of these changes nothing.
OF_THE_BATCH = {
    "a reshape": lambda x: x.reshape(-1, 8),
    "a transposition": lambda x: x.transpose(0, 1),
    "a slice": lambda x: x[:1],
    "a longer slice": lambda x: x[:100],
    "a slice of both": lambda x: x[..., :100, :],
    "a slice from behind": lambda x: x[-100:],
    "every row": lambda x: x[0:100, :],
    "rows exchanged": lambda x: x.flip(0),
    "a roll by six": lambda x: x.roll(6, 0),
    "a roll by much": lambda x: torch.roll(x, 2**10 * 3**10, dims=(0,)),
    "a roll of all": lambda x: x.roll(2**10 * 3**10),
    "the first part": lambda x: x.split(100)[0],
    "the first of some": lambda x: x.split(100, dim=-2)[0],
    "one chunk": lambda x: x.chunk(1)[0],
    "rows of zeros": lambda x: F.pad(x, (0, 0, 7, -7)),
    "whatever is one": lambda x: x.squeeze(),
    "the first if it is one": lambda x: x.squeeze(0),
}


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_a_batch_that_does_not_stay_is_refused(name):
    with pytest.raises(SoftadvError, match=r"batch|shape|features"):
        certify(Function(OF_THE_BATCH[name]), torch.rand(2, 4), torch.zeros(2, dtype=torch.int64), eps=0.1)


def test_the_whole_batch_may_be_named():
    for function in (lambda x: x[:], lambda x: x[...], lambda x: x[: x.size(0), :4], lambda x: x[0 : 2**40, ..., :4]):
        margin = certify(Function(function).eval(), torch.rand(2, 4), torch.zeros(2, dtype=torch.int64), eps=0.1).margin
        assert margin.isfinite().all()


def test_what_squeezes_one_image_to_something_else_is_refused_though_batches_are_not():
    """Of several images it is the mean of each row; of one, whose batch is squeezed too, that of each column."""
    squeezing = Function(lambda x: x.squeeze().mean(1).reshape(x.shape[0], -1)).eval()
    assert squeezing(torch.rand(3, 4, 1, 4)).shape == squeezing(torch.rand(1, 4, 1, 4))[[0, 0, 0]].shape
    for count in (3, 1):
        line = refusal(certify, squeezing, torch.rand(count, 4, 1, 4), torch.zeros(count).long(), eps=0.1)
        assert "batch of 1" in line


class PaddedBehind(nn.Module):
    """One channel of one pixel, and a second one that is zero; beside a constant, the second score's lead."""

    def __init__(self, join) -> None:
        super().__init__()
        self.join, self.last = join, nn.Linear(3, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, -1]]))
            self.last.bias.copy_(torch.tensor([0.05, 0]))

    def forward(self, x):
        return self.last(self.join((x - 0.5).relu()).flatten(1))


@pytest.mark.parametrize(
    "join",
    [lambda h: F.pad(h, (0, 0, 0, 0, 0, 1)), lambda h: F.pad(h, (0, 0, 0, 0, 1, 0))[:, [1, 2, 0]]],
    ids=["at the end", "moved there"],
)
def test_a_channel_of_zeros_is_not_the_last_channel(engine, join):
    x, model = torch.full((1, 2, 1, 1), 0.4), PaddedBehind(join).eval()
    found = certify(model, x, torch.tensor([0]), eps=0.3)
    assert model(x + 0.3).argmax(1).item() == 1
    assert not found.verified.item()
    assert found.margin.item() == pytest.approx(-0.15, abs=1e-5)
