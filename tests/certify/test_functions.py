"""Operators as people write them, by layers and by functions: read, or named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms

from softadv.certify import DOMAINS, certify
from softadv.certify.trace import read_network
from softadv.models import Normalize
from tests.networks import random_images

SHAPE = (2, 6, 6)


class Writes(nn.Module):
    """A convolution, what is given, and two linear layers."""

    def __init__(self, function, *, features, classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv, self.first, self.last = nn.Conv2d(2, 3, 3), nn.Linear(features, 7), nn.Linear(7, classes)
        self.pool, self.around = nn.AdaptiveAvgPool2d((2, None)), nn.ZeroPad2d((1, 0, 2, 3))
        self.dropped, self.same = nn.Dropout2d(0.4), nn.Identity()
        self.slopes = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]))
        self.register_buffer("plane", torch.rand(3, 4, 4))
        self.eval()

    def forward(self, x):
        x = self.function(self, self.conv(x))
        return self.last(self.first(x.flatten(1)).relu())


# What is written, and how many features it leaves of three channels of 4 x 4.
WRITTEN = {
    "leaky_relu": (lambda m, x: F.leaky_relu(x, 0.2), 48),
    "leaky_relu in place": (lambda m, x: F.leaky_relu(x, negative_slope=0.2, inplace=True), 48),
    "prelu": (lambda m, x: F.prelu(x, m.slopes), 48),
    "relu6": (lambda m, x: F.relu6(x), 48),
    "hardtanh": (lambda m, x: F.hardtanh(x, -0.2, 0.3), 48),
    "clamp": (lambda m, x: x.clamp(-0.1, 0.4), 48),
    "clamp from below": (lambda m, x: torch.clamp(x, min=0.05), 48),
    "clip from above": (lambda m, x: torch.clip(x, max=0.05), 48),
    "sigmoid": (lambda m, x: torch.sigmoid(x), 48),
    "tanh": (lambda m, x: x.tanh(), 48),
    "mean": (lambda m, x: x.relu().mean((2, 3)), 3),
    "mean that keeps": (lambda m, x: torch.mean(x.relu(), dim=[-1, -2], keepdim=True), 3),
    "adaptive pool": (lambda m, x: F.adaptive_avg_pool2d(x.relu(), 1), 3),
    "adaptive pool to 2 x 4": (lambda m, x: F.adaptive_avg_pool2d(x.relu(), (2, None)), 24),
    "cat": (lambda m, x: torch.cat([x.relu(), x], 1), 96),
    "cat of three": (lambda m, x: torch.cat((x, x.relu(), x), dim=-3), 144),
    "cat of vectors": (lambda m, x: torch.cat([x.relu().flatten(1), x.mean((2, 3))], 1), 51),
    "normalised": (lambda m, x: ((x - m.mean[:, None, None]) / m.mean.view(1, 3, 1, 1)).relu(), 48),
    "numbers": (lambda m, x: (1 - (2 * x + 0.5) / 3).relu(), 48),
    "a plane": (lambda m, x: (x * m.plane).relu(), 48),
    "a tensor made in the code": (lambda m, x: (x + torch.tensor([[[0.1]], [[0.2]], [[0.3]]])).relu(), 48),
    "pad": (lambda m, x: F.pad(x, (1, 0, 2, 3)).relu(), 135),
    "pad alike": (lambda m, x: F.pad(x, (1, 1, 1, 1)).relu(), 108),
    "dropout": (lambda m, x: F.dropout(x.relu(), 0.5, training=m.training), 48),
    "an adaptive pool as a layer": (lambda m, x: m.pool(x.relu()), 24),
    "padding as a layer": (lambda m, x: m.around(x).relu(), 135),
    "layers that do nothing": (lambda m, x: m.same(m.dropped(x.relu())), 48),
    "view of a number": (lambda m, x: x.view(x.size(0), 48).relu(), 48),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_what_is_certified(engine, name, generator):
    function, features = WRITTEN[name]
    model = Writes(function, features=features)
    before = set(model.__dict__) | set(model._buffers)
    x = random_images(SHAPE, 4, seed=0)[0].float()
    with torch.no_grad():
        outputs = model(x.clone())
        y = outputs.argmax(1)
        real = outputs.gather(1, y[:, None])[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
        for domain in DOMAINS:
            torch.testing.assert_close(certify(model, x, y, eps=0.0, domain=domain).margin, real, rtol=2e-3, atol=2e-3)
            margin = certify(model, x, y, eps=0.05, domain=domain).margin
            for _ in range(30):
                noise = torch.empty_like(x).uniform_(-0.05, 0.05, generator=generator).sign() * 0.05
                found = model((x + noise).clamp(0, 1))
                least = found.gather(1, y[:, None])[:, 0] - found.scatter(1, y[:, None], -torch.inf).amax(1)
                assert (least >= margin).all(), domain
    assert set(model.__dict__) | set(model._buffers) == before  # reading leaves nothing in the model


class Ends(nn.Module):
    """A vector of scores, and a function of it."""

    def __init__(self, body, function):
        super().__init__()
        self.body, self.function = body, function

    def forward(self, x):
        return self.function(self.body(x))


ENDINGS = {
    "Softmax": nn.Softmax(1),
    "LogSoftmax": nn.LogSoftmax(-1),
    "F.softmax": lambda x: F.softmax(x, dim=1),
    "F.log_softmax": lambda x: F.log_softmax(x, dim=-1),
    "x.softmax": lambda x: x.softmax(-1),
    "torch.log_softmax": lambda x: torch.log_softmax(x, 1),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_softmax_at_the_end_keeps_the_order(engine, ending):
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    x, y = random_images(SHAPE, 6, seed=1)
    x = x.float()
    found, plain = (certify(m, x, y, eps=0.01) for m in (Ends(body, ENDINGS[ending]), body))
    assert torch.equal(found.margin, plain.margin)
    assert torch.equal(found.verified, plain.margin > 2.0**-12)


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_scores_that_a_softmax_may_make_equal_are_not_believed(ending):
    last = nn.Linear(1, 2)
    last.weight.data, last.bias.data = torch.zeros(2, 1), torch.tensor([2.0**-27, 0.0])
    model = nn.Sequential(nn.Flatten(), last, ending)
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    assert certify(nn.Sequential(nn.Flatten(), last), x, y, eps=0.1).verified
    assert model(x)[0, 0] == model(x)[0, 1]
    assert not certify(model, x, y, eps=0.1).verified


def test_torchvisions_normalize_is_ours():
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    mean, std = (0.3, 0.6), (0.2, 0.5)
    x, y = random_images(SHAPE, 3, seed=1)
    x = x.float()
    theirs = certify(nn.Sequential(transforms.Normalize(mean, std), body), x, y, eps=0.01).margin
    assert torch.equal(theirs, certify(nn.Sequential(Normalize(mean, std), body), x, y, eps=0.01).margin)


def test_a_forward_that_begins_with_a_normalisation_is_a_layers(engine):
    """(x - mean) / std, of buffers, of tensors in the code and of numbers."""
    mean, std = (0.3, 0.6), (0.25, 0.5)
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))

    class Begins(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.body, self.function = body, function
            self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
            self.register_buffer("std", torch.tensor(std).reshape(2, 1, 1))

        def forward(self, x):
            return self.body(self.function(self, x))

    x, y = random_images(SHAPE, 3, seed=1)
    x = x.float()
    expected = certify(nn.Sequential(Normalize(mean, std), body), x, y, eps=0.01).margin
    for function in (
        lambda m, x: (x - m.mean) / m.std,
        lambda m, x: (x - torch.tensor([[[0.3]], [[0.6]]])) / torch.tensor([0.25, 0.5])[:, None, None],
        lambda m, x: x.sub(m.mean).div(m.std),
    ):
        torch.testing.assert_close(certify(Begins(function), x, y, eps=0.01).margin, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.2), ((0.3,), (0.2, 0.5)), ((0.3, 0.6), (0.2,))])
def test_one_number_for_all_channels_is_read_as_torchvision_takes_it(mean, std):
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    x, y = random_images(SHAPE, 3, seed=1)
    x = x.float()
    both = [torch.as_tensor(values).expand(2).tolist() for values in (mean, std)]
    found, expected = (
        certify(nn.Sequential(transforms.Normalize(*of), body), x, y, eps=0.01).margin for of in ((mean, std), both)
    )
    assert torch.equal(found, expected)


def test_the_module_of_data_parallel_is_read():
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    x, y = random_images(SHAPE, 3, seed=1)
    x = x.float()
    assert torch.equal(certify(nn.DataParallel(body), x, y, eps=0.01).margin, certify(body, x, y, eps=0.01).margin)


def test_a_batch_norm_of_vectors_is_read(engine):
    norm = nn.BatchNorm1d(5).eval()
    with torch.no_grad():
        for values, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.2, 2), (norm.weight, -1, 2)):
            values.uniform_(low, high)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), norm, nn.ReLU(), nn.Linear(5, 4)).requires_grad_(False)
    x, y = random_images(SHAPE, 3, seed=1)
    x, outputs = x.float(), model(x.float())
    real = outputs.gather(1, y[:, None])[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(certify(model, x, y, eps=0.0).margin, real, rtol=1e-3, atol=1e-3)


def test_what_is_selected_costs_no_sum_of_many_terms():
    """A concatenation of 200 channels rounds nothing: its error does not grow with the channels."""
    wide = nn.Sequential(nn.Conv2d(2, 200, 1), nn.ReLU())
    model = Writes(lambda m, x: x, features=1)
    model.conv, model.function = wide, lambda m, x: torch.cat([x, x], 1).mean((2, 3))
    model.first = nn.Linear(400, 7)
    network = read_network(model.eval().requires_grad_(False), SHAPE)
    assert sum(getattr(node.step, "selects", False) for node in network.nodes) == 2


@pytest.mark.parametrize("size", [[1, 1], [2, None], [None, 1]])
def test_the_size_of_an_adaptive_pooling_may_be_a_list(size):
    class Pools(nn.Module):
        def __init__(self, pool):
            super().__init__()
            self.pool = pool

        def forward(self, x):
            return self.pool(x).flatten(1)

    x = torch.rand(2, 3, 4, 4)
    pools = nn.AdaptiveAvgPool2d(tuple(size)), nn.AdaptiveAvgPool2d(size), lambda x: F.adaptive_avg_pool2d(x, size)
    expected, *found = (certify(Pools(pool), x, torch.zeros(2, dtype=torch.int64), eps=0.01).margin for pool in pools)
    assert all(torch.equal(margin, expected) for margin in found)
