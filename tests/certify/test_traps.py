"""Models that do something else than they seem to, and numbers at the edge: each once had a wrong verdict."""

import threading
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.certify import DOMAINS, certify, layers
from softadv.certify.operators import LeakyRelu
from softadv.errors import SoftadvError
from softadv.models import Normalize
from tests.certify.asked import ask, linear


def test_a_call_of_its_own_is_refused():
    class Shifted(nn.Sequential):
        def __call__(self, x):
            return super().__call__(x - 0.15)

    model = Shifted(nn.Flatten(), linear([[1.0], [-1.0]], [-0.5, 0.5]))
    with pytest.raises(SoftadvError, match="__call__ of its own"):
        ask(model, torch.full((1, 1, 1, 1), 0.7))


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
        def __init__(self, traced):
            super().__init__()
            self.calls, self.traced, self.last = 0, traced, nn.Linear(4, 3)

        def forward(self, x):
            self.calls += 1  # torch.fx runs this code, too
            x = x.flatten(1)
            return self.last(x) if self.calls <= self.traced else self.last(x + x + x + x)

    for traced in (1, 4):  # in one mode, in all
        with pytest.raises(SoftadvError, match="computes something else"):
            ask(Counting(traced), torch.ones(1, 1, 2, 2), eps=0.01)


class Asks(nn.Module):
    """Two networks, of which a question about anything but the image chooses one."""

    def __init__(self, question):
        super().__init__()
        self.question, self.first, self.second = (
            question,
            linear([[0.0], [0.0]], [1.0, 0.0]),
            linear([[10.0], [0.0]], [-5.8, 0.0]),
        )

    def forward(self, x):
        return (self.first if self.question(self) else self.second)(x.flatten(1))


@pytest.mark.parametrize(
    "question",
    [
        lambda _: torch.is_grad_enabled(),
        lambda _: torch.is_inference_mode_enabled(),
        lambda model: model.training,
        lambda _: torch.fx._symbolic_trace.is_fx_symbolic_tracing(),
    ],
    ids=["gradients", "inference mode", "training", "tracing"],
)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_model_that_asks_for_the_mode_is_refused_or_read_as_it_is_evaluated(question, gradients):
    model, x = Asks(question), torch.full((1, 1, 1, 1), 0.68)
    with torch.set_grad_enabled(gradients):
        try:
            assert not ask(model, x, eps=0.3).verified
        except SoftadvError as error:
            reason = str(error)
            assert "computes something else" in reason


class Negated(torch.utils._python_dispatch.TorchDispatchMode):
    """Every linear layer's output with another sign, below what torch.fx sees."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return -found if func is torch.ops.aten.addmm.default else found


def test_what_works_below_the_trace_is_not_overlooked():
    class Below(nn.Sequential):
        def forward(self, x):
            with Negated():
                return super().forward(x)

    with pytest.raises(SoftadvError, match="changes how PyTorch computes"):
        ask(Below(nn.Flatten(), nn.Linear(4, 3)), torch.rand(1, 1, 2, 2))


class Named(nn.Module):
    """A part of any name, used for what it does in place, or as a weight; what it returns is dropped."""

    def __init__(self, name, part):
        super().__init__()
        self.name, self.first = name, linear([[1.0], [-1.0]], [-0.5, 0.5])
        self.last = linear([[-5.0, -5.0], [0.0, 0.0]], [1.0, 0.0])
        self.add_module(name, part)

    def forward(self, x):
        h = self.first(x.flatten(1))
        self.get_submodule(self.name)(h)
        return self.last(h)


@pytest.mark.parametrize("name", ["size", "shape", "view", "reshape", "flatten", "relu", "add", "dim", "output", "x"])
def test_a_layer_with_the_name_of_a_method_is_a_layer(name):
    model, x = Named(name, nn.ReLU(inplace=True)), torch.full((1, 1, 1, 1), 0.5)
    assert model(x + 0.4).argmax() == 1
    with pytest.raises(SoftadvError, match="in place"):
        ask(model, x, eps=0.4)


def test_a_weight_with_the_name_of_a_method_is_a_weight():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.size, self.last = nn.Parameter(torch.ones(4, 2)), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(x.view(self.size[0], -1))

    with pytest.raises(SoftadvError, match=r"getitem|view|size"):
        ask(Weighted(), torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.flatten(input=x, start_dim=1),
        lambda x: F.max_pool2d(x, (2,)).flatten(1),
        lambda x: F.avg_pool2d(x, x.shape[2]).flatten(1),
        lambda x: F.adaptive_avg_pool2d(x, (x.shape[2], 1)).flatten(1),
        lambda x: F.adaptive_avg_pool2d(x, (1, 1, 1)).flatten(1),
        lambda x: F.pad(x, (1, 1), value=torch.tensor(1.0)).flatten(1),
        lambda x: F.pad(x, (0, x.shape[3])).flatten(1),
        lambda x: F.pad(x, 1).flatten(1),
    ],
)
def test_arguments_that_cannot_be_read_are_one_line(function):
    class Computes(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(SoftadvError, match=r"flatten|max_pool2d|avg_pool2d|boolean_dispatch|fn|pad"):
        ask(Computes(), torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("pad", [(1, 1, 1, 1), (0, 0, 0, 0, 0, 1)])
def test_padding_with_what_is_no_number_is_named(value, pad):
    class Pads(nn.Module):
        def forward(self, x):
            return F.max_pool2d(F.pad(x, pad, value=value), 2).flatten(1)

    with pytest.raises(SoftadvError, match=r"pad.*not with a finite number; MaxPool2d has padding of its own"):
        ask(Pads(), torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_make_no_image_correct(engine, domain, bad):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model[1].bias.data.fill_(bad)
    for label in range(3):
        found = ask(model, torch.rand(5, 1, 2, 2), y=label, domain=domain)
        assert not found.correct.any()
        assert not found.verified.any()


def test_a_model_that_knows_a_symbol_from_a_tensor_is_found_out_at_the_image_itself(engine):
    class Tells(nn.Module):
        def __init__(self):
            super().__init__()
            self.real, self.shown = (
                linear([[2.0], [0.0]], [-0.75, 0.45]),
                linear([[1.0], [0.0]], [0.0, 0.45]),
            )

        def forward(self, x):
            return (self.real if isinstance(x, torch.Tensor) else self.shown)(x.flatten(1))

    model, x = Tells(), torch.full((1, 1, 1, 1), 0.7)
    with torch.no_grad():
        assert model(x - 0.2).argmax() == 1  # the scores of x itself are within the bounds of what is shown
    with pytest.raises(SoftadvError, match="computes something else"):
        ask(model, x, eps=0.2)


def test_a_model_that_keeps_what_it_computes_is_evaluated_on_one_thread():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.together = nn.Linear(4, 8), nn.Linear(8, 3), threading.Barrier(2)

        def forward(self, x):
            self.kept = self.first(x.flatten(1))
            if isinstance(x, torch.Tensor):
                # Two threads at once would meet here, after both have written.
                with suppress(threading.BrokenBarrierError):
                    self.together.wait(0.05)
            return self.last(self.kept)

    torch.manual_seed(0)
    model, x = Keeps(), torch.rand(64, 1, 2, 2)
    with torch.no_grad():
        y = model(x).argmax(1)
    model.together.reset()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert certify(model, x, y, eps=0.0).correct.all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_model_of_no_steps_at_all_is_certified(engine, domain):
    x = torch.tensor([[0.9, 0.1, 0.2]])
    margin = ask(nn.Sequential(nn.Flatten()), x, eps=0.1, domain=domain).margin
    assert 0 <= 0.5 - float(margin) < 1e-5


class Scaled(nn.Module):
    """x times a factor, 1 unless the call says otherwise."""

    def forward(self, x, factor=1.0):
        return x * factor


class Calls(nn.Module):
    def __init__(self, *more, **named):
        super().__init__()
        self.scaled, self.last = Scaled(), linear([[1.0], [0.0]], [0.0, 0.55])
        self.more, self.named = more, named

    def forward(self, x):
        return self.last(self.scaled(x.flatten(1), *self.more, **self.named))


def test_a_layer_of_ones_own_that_is_called_with_more_than_one_activation_is_refused(engine, monkeypatch):
    monkeypatch.setattr(layers, "_REGISTERED", dict(layers._REGISTERED))
    layers.register_operator(Scaled)(lambda layer, shape: LeakyRelu(shape, shape, torch.ones(1, dtype=torch.float64)))
    x = torch.full((1, 1, 1, 1), 0.7)
    assert ask(Calls(), x, eps=0.14).verified
    for model in (Calls(0.9), Calls(factor=0.9)):
        with torch.no_grad():
            assert model(x - 0.14).argmax() == 1
        with pytest.raises(SoftadvError, match=r"layer scaled \(Scaled\): .*one activation alone"):
            ask(model, x, eps=0.14)
