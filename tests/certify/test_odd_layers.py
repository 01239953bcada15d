"""Layers that are not what their class, or their attributes, say of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from softadv.errors import SoftadvError
from softadv.kernels.input_gradients import plain_chain
from tests.certify.asked import ask, linear


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


class Halved(torch.Tensor):
    """A weight that says one thing and multiplies with another."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            image, weight, bias = (a.as_subclass(torch.Tensor) if isinstance(a, Halved) else a for a in args)
            return F.linear(image, weight / 2, bias)
        return super().__torch_function__(func, types, args, kwargs)


def changed(change):
    """A network with a layer of each kind, and a change to one of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    change(model)
    return model


def negative(model):
    model[4].weight = nn.Parameter(torch._neg_view(model[4].weight.detach()))


def without_memory(model):
    model[4].weight = nn.Parameter(torch._efficientzerotensor((3, 8)))


def conjugate(model):
    values = torch.complex(model[4].weight.detach(), model[4].weight.detach())
    model[4].weight = nn.Parameter(values.conj().imag)


def quantized(model):
    model[4].weight = nn.Parameter(model[4].weight.detach().as_subclass(Halved))


def statistics(model):
    model[1].running_mean = model[1].running_mean.as_subclass(Halved)


def pruned(model):
    prune.l1_unstructured(model[4], "weight", 0.5)


def shadowed(model):
    weight = model[4].weight.detach()
    del model[4].weight
    model[4].weight = 2 * weight


REPLACED = {
    "forward": lambda model: setattr(model[4], "forward", lambda x: -x),
    "_conv_forward": lambda model: setattr(model[0], "_conv_forward", lambda x, weight, bias: -x.repeat(1, 2, 1, 1)),
    "_check_input_dim": lambda model: setattr(model[1], "_check_input_dim", lambda x: x.neg_()),
    "_call_impl": lambda model: setattr(model[4], "_call_impl", lambda x: nn.Linear.forward(model[4], -x)),
    "_slow_forward": lambda model: setattr(model[2], "_slow_forward", lambda x: -x),
    "_compiled_call_impl": lambda model: setattr(model[2], "_compiled_call_impl", lambda x: -x),
    "_call_impl of the model": lambda model: setattr(model, "_call_impl", lambda x: nn.Sequential.forward(model, -x)),
    "an attribute": lambda model: setattr(model[4], "scale", 2.0),
    "negative": negative,
    "without memory": without_memory,
    "conjugate": conjugate,
    "quantised": quantized,
    "statistics": statistics,
    "pruned": pruned,
    "shadowed": shadowed,
    "a part": lambda model: model[4].add_module("inner", nn.ReLU()),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_layer_is_what_its_class_makes_it_or_is_refused(name):
    model, x = changed(REPLACED[name]), torch.rand(2, 1, 2, 2)
    with pytest.raises(SoftadvError) as caught:
        ask(model, x)
    message = str(caught.value)
    assert message.startswith(("layer ", "model "))
    assert "\n" not in message


@pytest.mark.parametrize(
    "name", sorted(REPLACED.keys() - {"_check_input_dim", "statistics", "_call_impl of the model"})
)
def test_the_attack_takes_no_odd_layer_for_a_plain_one(name):
    model = changed(REPLACED[name])
    assert plain_chain(nn.Sequential(model[0], *model[2:])) is None


def test_zero_padding_that_pads_with_another_number_is_refused():
    pad = nn.ZeroPad2d((0, 1, 0, 0))
    pad.value = 1.0
    model = nn.Sequential(pad, nn.Flatten(), linear([[1.0, -0.1], [0.0, 0.0]], [0.0, 0.5]))
    x = torch.full((1, 1, 1, 1), 0.7)
    with torch.no_grad():
        assert model(x - 0.14).argmax() == 1  # and without the padded number it is 0 within all of the box
    with pytest.raises(SoftadvError, match="pads with 1, not with zeros"):
        ask(model, x, eps=0.15)


def test_a_variance_that_cancels_is_no_proof(engine):
    """The float32 sum of eps and a negative variance is off by far more than its own rounding."""
    norm = nn.BatchNorm2d(1)
    norm.running_var.fill_(-9.99e-6)
    norm.running_mean.fill_(0.5)
    model = nn.Sequential(norm, nn.Flatten(), linear([[1.0], [0.0]], [0.0, 0.0])).eval()
    x = torch.full((1, 1, 1, 1), 0.6)
    with torch.no_grad():
        evaluated = model(x)[0, 0].double()
    exact = (x.double() - 0.5).squeeze() / (norm.running_var.double() + norm.eps).sqrt().squeeze()
    assert abs(evaluated - exact) > 1e-5 * abs(exact)
    assert not ask(model, x, eps=0.0).verified
