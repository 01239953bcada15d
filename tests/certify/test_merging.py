"""Evaluators that make one sum of several layers: the certificate holds for them, too."""

import numpy as np
import pytest
import torch
from torch import nn

from softadv.certify import DOMAINS, certify
from softadv.models import Normalize
from tests.certify import evaluation, layers
from tests.networks import CLASSES, Residual, batch_norm, random_images, seeded, with_head

LABEL = torch.tensor([0])
ORDERS = [
    evaluation.blas,
    evaluation.sequential(),
    evaluation.sequential(backwards=True),
    evaluation.sequential(seed=0, fused=True),
    evaluation.pairwise(seed=1),
    evaluation.steered(),
]
NETWORKS = {
    "residual": lambda: with_head((1, 3, 3), nn.Conv2d(1, 3, 2), nn.ReLU(), Residual(nn.Conv2d(3, 3, 3, padding=1))),
    "two branches": lambda: with_head(
        (1, 3, 3), nn.Conv2d(1, 2, 2), nn.ReLU(), Residual(nn.Conv2d(2, 3, 1), shortcut=nn.Conv2d(2, 3, 1)), nn.ReLU()
    ),
    "vectors": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(9, 6),
        nn.ReLU(),
        Residual(nn.Linear(6, 6, bias=False)),
        nn.ReLU(),
        nn.Linear(6, CLASSES),
    ),
    "batch norm": lambda: with_head((1, 3, 3), nn.Conv2d(1, 3, 2, bias=False), batch_norm(3), nn.ReLU()),
    "two batch norms": lambda: with_head((1, 3, 3), nn.Conv2d(1, 3, 2), batch_norm(3), batch_norm(3), nn.ReLU()),
    "normalize behind": lambda: with_head((1, 3, 3), nn.Conv2d(1, 2, 2), Normalize((0.3, 0.5), (0.2, 0.7)), nn.ReLU()),
    "basic block": lambda: with_head(
        (1, 3, 3),
        Normalize((0.3,), (0.2,)),
        nn.Conv2d(1, 2, 2),
        nn.ReLU(),
        Residual(nn.Conv2d(2, 2, 3, padding=1), batch_norm(2), nn.ReLU(), nn.Conv2d(2, 2, 1), batch_norm(2)),
        nn.ReLU(),
    ),
}


class Chain(nn.Module):
    """Residual blocks whose convolutions add many small terms to a large skip value."""

    def __init__(self, *, channels: int = 4096, blocks: int = 4, big: float = 1024.0) -> None:
        super().__init__()
        unit = big * 2.0**-23
        self.skip, self.wide = nn.Conv2d(1, 1, 1), nn.Conv2d(1, channels, 1)
        self.body = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in range(blocks))
        self.head = nn.Linear(1, 2)
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.zero_()
        self.skip.bias.fill_(big)
        self.wide.bias.fill_(1.0)
        for at, layer in enumerate(self.body):
            layer.weight.fill_((0.49 - 0.001 * at) / 8 * unit)
        self.head.weight[0, 0] = 1.0
        self.head.bias[0] = -big - sum(channels * layer.weight[0, 0].item() for layer in self.body) / 2

    def forward(self, x):
        h, z = torch.relu(self.wide(x)), self.skip(x)
        for layer in self.body:
            z = layer(h) + z
        return self.head(torch.flatten(z, 1))

    def in_blocks(self, x):
        """The same with the products of eight channels at a time added to the skip value, as in ONNX Runtime."""
        h, z = torch.relu(self.wide(x)), self.skip(x)
        for layer in self.body:
            for first in range(0, h.shape[1], 8):
                block = slice(first, first + 8)
                z = z + (layer.weight[:, block] * h[:, block]).sum(1, keepdim=True)
        return self.head(torch.flatten(z, 1))


@pytest.mark.parametrize("domain", DOMAINS)
def test_partial_sums_that_meet_a_large_skip_value_are_paid_for(engine, domain):
    model, x = Chain(), torch.full((1, 1, 1, 1), 0.5)
    assert model(x).argmax() == 0
    assert model.in_blocks(x).argmax() == 1
    assert certify(model, x, LABEL, eps=0.1, domain=domain, rounding="none").verified
    assert not certify(model, x, LABEL, eps=0.1, domain=domain).verified


@pytest.mark.parametrize("name", NETWORKS)
def test_no_merged_evaluation_goes_below_the_sound_margin(engine, name):
    shape = (1, 3, 3)
    for seed in range(3):
        model = seeded(seed, NETWORKS[name]).float()
        for parameter in model.parameters():
            parameter.mul_(100.0)
        x, _ = random_images(shape, 1, seed=seed)
        x = x.float()
        label = int(model(x).argmax())
        chain, points = layers.read(model, shape), x.flatten(1).numpy()
        plain = evaluation.evaluate(chain, points, evaluation.blas)
        pushes = evaluation.slopes(chain, plain, np.full(CLASSES, 1.0) - 2 * np.eye(CLASSES)[label])
        merged = [evaluation.evaluate(chain, points, dot, pushes, merge=True)[-1] for dot in ORDERS]
        least = min(evaluation.margins(outputs, label).min() for outputs in merged)
        for domain in DOMAINS:
            assert certify(model, x, torch.tensor([label]), eps=0.0, domain=domain).margin.item() <= least


def test_what_a_fold_cancels_is_paid_for(engine):
    """The convolution's terms cancel; folded, they are rounded before they do."""
    conv, norm = nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    model = nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(1, 2)).eval().requires_grad_(False)
    conv.weight.copy_(torch.tensor([2.0**20, -(2.0**20)]).reshape(1, 2, 1, 1))
    conv.bias.zero_()
    norm.running_var.fill_(3.0)
    model[3].weight.copy_(torch.tensor([[-1.0], [0.0]]))
    model[3].bias.copy_(torch.tensor([1e-4, 0.0]))
    for pixels in ((1 / 3, 1 / 3), (0.7, 0.7), (0.9, 0.9)):
        x = torch.tensor(pixels).reshape(1, 2, 1, 1)
        assert model(x).argmax() == 0
        factor = 1 / norm.running_var.sqrt()
        weight = (conv.weight[0, :, 0, 0] * factor).double()
        fused = (weight[0] * x[0, 0].double()).float().double() + weight[1] * x[0, 1].double()  # one multiply-add
        margin = certify(model, x, LABEL, eps=0.0).margin
        assert margin <= float(1e-4 - fused)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("weight", "variance"), [(1e-25, 1e-37), (1e25, 1e37)])
def test_a_batch_norm_that_overflows_in_some_order_proves_nothing(engine, domain, weight, variance):
    """inf between two factors of which one is tiny: inductor multiplies the image by one after the other."""
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    model = nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(1, 2)).eval().requires_grad_(False)
    conv.weight.fill_(1e21)
    norm.weight.fill_(weight)
    norm.running_var.fill_(variance)
    factor = weight * variance**-0.5
    model[3].weight.copy_(torch.tensor([[1e-21 / factor], [0.0]]))
    model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.full((1, 1, 1, 1), 0.5)
    assert model(x).argmax() == 0
    between = [conv(x) * part for part in (norm.weight[0], 1 / norm.running_var.sqrt()[0])]
    assert not all(values.isfinite().all() for values in between)
    assert not certify(model, x, LABEL, eps=0.1, domain=domain).verified


def test_a_batch_norm_whose_variance_may_be_flushed_proves_nothing(engine):
    norm = nn.BatchNorm2d(1, eps=0.0)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(1, 2)).eval().requires_grad_(False)
    norm.weight.fill_(1e-21)
    model[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
    model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.full((1, 1, 1, 1), 0.5)
    assert certify(model, x, LABEL, eps=0.1).verified
    norm.running_var.fill_(1e-39)
    flushes = torch.set_flush_denormal(True)
    try:
        assert not flushes or not model(x).isfinite().all()
        assert not certify(model, x, LABEL, eps=0.1).verified
    finally:
        torch.set_flush_denormal(False)
    assert not certify(model, x, LABEL, eps=0.1).verified
