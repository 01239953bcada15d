"""Models that do something else than they seem to, and numbers at the edge: each once had a wrong verdict."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.certify import certify
from softadv.errors import SoftadvError
from softadv.models import Normalize


def ask(model, x, *, y=0, eps=0.1, **options):
    return certify(model, x, torch.tensor([y] * len(x)), eps=eps, **options)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def test_a_view_whose_size_is_taken_does_not_hide_what_is_overwritten():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(1, 1, 1), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            a = self.conv(x)
            v = a.flatten(1)
            r = F.relu(v, inplace=True)
            return self.one(r.view(v.size(0), -1)) + self.two(a.flatten(1))

    with pytest.raises(SoftadvError, match="works in place on a value that is used again"):
        ask(Overwrites(), torch.rand(1, 1, 1, 2))


def test_a_call_of_its_own_is_refused():
    class Shifted(nn.Sequential):
        def __call__(self, x):
            return super().__call__(x - 0.15)

    model = Shifted(nn.Flatten(), linear([[1.0], [-1.0]], [-0.5, 0.5]))
    with pytest.raises(SoftadvError, match="__call__ of its own"):
        ask(model, torch.full((1, 1, 1, 1), 0.7))


@pytest.mark.parametrize("rows", [2, 5])
def test_the_weights_count_and_not_what_the_layer_says_of_them(engine, rows):
    pruned = nn.Linear(4, 3)
    torch.manual_seed(0)
    pruned.weight.data, pruned.bias.data = torch.randn(rows, 4), torch.randn(rows)
    real = nn.Linear(4, rows)
    real.load_state_dict(pruned.state_dict())
    x = torch.rand(5, 1, 2, 2)
    answers = [ask(nn.Sequential(nn.Flatten(), layer), x, eps=0.02).margin for layer in (pruned, real)]
    assert torch.equal(*answers)


def test_as_many_biases_as_outputs(engine):
    layer = nn.Linear(4, 3)
    layer.bias.data = torch.zeros(2)
    with pytest.raises(SoftadvError, match="has 3 outputs but 2 biases"):
        ask(nn.Sequential(nn.Flatten(), layer), torch.rand(1, 1, 2, 2))


def test_a_batch_norm_with_weights_is_affine_whatever_it_says(engine):
    norm = nn.BatchNorm2d(1)
    norm.weight.data, norm.bias.data = torch.tensor([2.0]), torch.tensor([0.3])
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(4, 1, 2, 2)
    before = ask(model, x).margin
    norm.affine = False
    assert torch.equal(ask(model, x).margin, before)


@pytest.mark.parametrize("domain", ["box", "deeppoly"])
def test_a_model_without_parameters_is_analysed_in_the_type_of_its_images(engine, domain):
    model = nn.Sequential(Normalize((0.3, 0.6), (0.2, 0.5)), nn.Flatten())
    x = torch.tensor([[[[0.5]], [[0.4]]]], dtype=torch.float64)
    margin = ask(model, x, eps=0.01, domain=domain).margin
    assert margin.dtype == torch.float64
    expected = (0.5 - 0.01 - 0.3) / 0.2 - (0.4 + 0.01 - 0.6) / 0.5
    assert 0 < expected - float(margin) < 1e-6  # the statistics are float32


@pytest.mark.parametrize("rounding", ["sound", "none"])
def test_bounds_that_overflow_before_a_pooling_are_no_proof_and_no_crash(engine, rounding):
    conv = nn.Conv2d(1, 64, 1)
    conv.weight.data.fill_(3e38)
    conv.bias.data.fill_(-3e38)
    model = nn.Sequential(conv, nn.MaxPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(64 * 4, 3))
    assert not ask(model, torch.rand(2, 1, 4, 4), rounding=rounding).verified.any()


def test_settings_changed_inside_the_model_are_seen():
    class Shortened(nn.Sequential):
        def forward(self, x):
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            try:
                return super().forward(x)
            finally:
                torch.set_float32_matmul_precision(before)

    with pytest.raises(SoftadvError, match="changes how PyTorch computes"):
        ask(Shortened(nn.Flatten(), nn.Linear(4, 3)), torch.rand(1, 1, 2, 2))


def test_a_model_that_computes_something_else_than_is_read_is_found_out(engine):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.last = 0, nn.Linear(4, 3)

        def forward(self, x):
            self.calls += 1  # torch.fx runs this code, too
            x = x.flatten(1)
            return self.last(x) if self.calls == 1 else self.last(x + x + x + x)

    with pytest.raises(SoftadvError, match="computes something else"):
        ask(Counting(), torch.ones(1, 1, 2, 2), eps=0.01)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.flatten(input=x, start_dim=1),
        lambda x: F.max_pool2d(x, (2,)).flatten(1),
        lambda x: F.avg_pool2d(x, x.shape[2]).flatten(1),
    ],
)
def test_arguments_that_cannot_be_read_are_one_line(function):
    class Computes(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(SoftadvError, match=r"flatten|max_pool2d|avg_pool2d|boolean_dispatch|fn"):
        ask(Computes(), torch.rand(1, 3, 4, 4))
