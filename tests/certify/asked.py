"""What the tests of models that are read wrongly, or not at all, need."""

import torch
from torch import nn

from softadv.certify import certify


def ask(model, x, *, y=0, eps=0.1, **options):
    return certify(model, x, torch.tensor([y] * len(x)), eps=eps, **options)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer
