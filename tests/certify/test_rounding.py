"""Networks made to fool a verifier by rounding: sound mode must not believe them."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softadv.certify import DOMAINS, ROUNDINGS, certify
from softadv.models import Normalize
from tests import reference
from tests.certify import evaluation, layers

LABEL = torch.tensor([0])
ORDERS = [
    evaluation.blas,
    evaluation.pairwise(seed=0),
    *(evaluation.sequential(seed=seed, backwards=backwards) for seed in (None, 0, 1, 2) for backwards in (False, True)),
]
FUSED = [evaluation.sequential(seed=seed, fused=True) for seed in (None, 0, 1)]


def linear(weight, bias=None, *, dtype=torch.float32) -> nn.Linear:
    weight = torch.as_tensor(weight, dtype=dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype).requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias, dtype=dtype))
    return layer


def perceptron(*parts: nn.Linear) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    body = [layer for part in parts for layer in (part, nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *body[:-1])


def image(*pixels: float, dtype=torch.float32) -> Tensor:
    return torch.tensor(pixels, dtype=dtype).reshape(1, 1, 1, -1)


def least_in_any_order(model: nn.Sequential, points: Tensor, label: int = 0) -> float:
    """The least margin of points (N, 1, 1, D) when sums are taken in many orders."""
    chain, pixels = layers.read(model, tuple(points.shape[1:])), points.flatten(1).numpy()
    orders = ORDERS + (FUSED if points.dtype == torch.float32 else [])
    with np.errstate(over="ignore", invalid="ignore"):
        return min(evaluation.margins(evaluation.evaluate(chain, pixels, dot)[-1], label).min() for dot in orders)


def exact_margin(model: nn.Module, x: Tensor, *, eps: float, domain: str = "deeppoly") -> Fraction:
    return reference.margin(model, x[0].numpy(), 0, eps=eps, domain=domain, number=Fraction)


def verified(model: nn.Module, x: Tensor, **question) -> bool:
    return bool(certify(model, x, LABEL, **question).verified)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_sum_that_loses_the_pixel_is_not_believed(engine, domain):
    """x + 2^23 - 2^23 is x for the mathematician and a whole number for float32."""
    model = perceptron(linear([[1.0]], [2.0**23]), linear([[1.0]], [-(2.0**23)]), linear([[1.0], [0.0]], [0.0, 0.3]))
    x = image(0.6)
    assert exact_margin(model, x, eps=0.2) > Fraction(9, 100)
    assert model(x).argmax() == 0
    assert model(image(0.45)).argmax() == 1
    assert not verified(model, x, eps=0.2, domain=domain)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(
    ("dtype", "big"), [(torch.float32, 2.0**25), (torch.float32, 2.0**60), (torch.float64, 2.0**54)]
)
def test_a_switch_that_some_orders_lose_is_not_believed(engine, domain, dtype, big):
    """Zombori et al. (2021) hide a neuron behind big + x - big: some orders see x, some see zero."""
    hidden = linear([[1.0], [0.0], [0.0]], [0.0, 1.0, 1.0], dtype=dtype)
    switch = linear([[1.0, big, -big]], dtype=dtype)
    needs_switch = perceptron(hidden, switch, linear([[1.0], [0.0]], [0.0, 0.25], dtype=dtype))
    hates_switch = perceptron(hidden, switch, linear([[-1.0], [0.0]], [0.25, 0.0], dtype=dtype))
    x = image(0.75, dtype=dtype)
    assert exact_margin(needs_switch, x, eps=0.125) == Fraction(3, 8)
    assert least_in_any_order(needs_switch, x) < 0
    assert not verified(needs_switch, x, eps=0.125, domain=domain)
    assert exact_margin(hates_switch, x, eps=0.125) < 0
    assert not verified(hates_switch, x, eps=0.125, domain=domain)
    assert not verified(hates_switch, image(0.2, dtype=dtype), eps=0.1, domain=domain)


@pytest.mark.parametrize("domain", ["deepzono", "deeppoly"])
@pytest.mark.parametrize("seed", range(3))
def test_large_weights_that_cancel_are_not_believed(engine, domain, seed):
    """3e6 h - 1e6 (3 h) is zero, but h and 3 h round differently: their difference decides, not the bias."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 2**20, 12) / 2**20
    model = perceptron(linear(np.stack([weight, 3 * weight])), linear([[3e6, -1e6], [0.0, 0.0]], [0.01, 0.0]))
    x = image(*rng.uniform(0.3, 0.7, 12))
    assert 0.009 < exact_margin(model, x, eps=0.05, domain=domain) < 0.011
    points = x + torch.empty(2000, 1, 1, 12).uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(seed))
    assert least_in_any_order(model, points) < -0.5
    right = points[(model(points).argmax(1) == 0)][:1]
    assert not verified(model, right, eps=0.04, domain=domain)


def test_an_image_close_to_the_boundary_is_not_believed(engine, trained_digits, digits):
    """Jia and Rinard (2021) bring an image so near to the boundary that the verifier's own rounding decides."""
    x, y = digits.test_x[:6], digits.test_y[:6]
    for at in range(len(x)):
        one, label = x[at : at + 1], y[at : at + 1]
        low, high = 0.0, 0.3
        for _ in range(40):
            middle = (low + high) / 2
            fits = certify(trained_digits, one, label, eps=middle, rounding="none").verified
            low, high = (middle, high) if fits else (low, middle)
        assert certify(trained_digits, one, label, eps=low, rounding="none").verified
        assert not certify(trained_digits, one, label, eps=low).verified


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("hidden", [0, 1])
def test_a_margin_of_a_few_units_in_the_last_place_is_judged_exactly(engine, domain, hidden, dtype):
    rng = np.random.default_rng(hidden)
    tight = 0
    for _ in range(8):
        x = image(*rng.uniform(0.2, 0.8, 6), dtype=dtype)
        first = [linear(rng.uniform(0.1, 1, (5, 6)), dtype=dtype)] * hidden
        last = linear(rng.normal(size=(2, 5 if hidden else 6)), dtype=dtype)
        model = perceptron(*first, last)
        exact = exact_margin(model, x, eps=0.1, domain=domain)
        last.bias[1] += float(exact)
        for _ in range(9):
            last.bias[1] = last.bias[1].nextafter(torch.tensor(torch.inf, dtype=dtype))
        for _ in range(18):
            margin = exact - Fraction(last.bias[1].item())  # which was zero
            tight += abs(margin) < 1e-5
            found = certify(model, x, LABEL, eps=0.1, domain=domain)
            assert Fraction(found.margin.item()) <= margin
            assert margin > 0 or not found.verified
            last.bias[1] = last.bias[1].nextafter(torch.tensor(-torch.inf, dtype=dtype))
        assert exact_margin(model, x, eps=0.1, domain=domain) == exact - Fraction(last.bias[1].item())
        last.bias[1] -= 1e-3
        assert certify(model, x, LABEL, eps=0.1, domain=domain).verified
    assert tight > 100


@pytest.mark.parametrize("domain", DOMAINS)
def test_equal_outputs_are_not_strictly_larger(engine, domain):
    model = perceptron(linear([[0.5, 0.5], [0.5, 0.5]], [0.25, 0.25]))
    assert not verified(model, image(0.5, 0.5), eps=0.0, domain=domain)
    flat = perceptron(linear(np.zeros((2, 2)), [0.5, 0.5 - 2.0**-25]))
    assert flat[1].bias[0] > flat[1].bias[1]
    found = certify(flat, image(0.5, 0.5), LABEL, eps=0.5, domain=domain)
    assert found.margin <= 2.0**-25


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_prove_nothing(engine, domain, rounding, bad):
    for at in range(6):
        model = perceptron(linear(np.ones((3, 2))), linear(np.ones((3, 3))), linear([[1.0] * 3, [0.0] * 3]))
        assert verified(model, image(0.6, 0.5), eps=0.1, domain=domain, rounding=rounding)
        parameter = list(model.parameters())[at]
        parameter.view(-1)[-1] = bad
        assert not verified(model, image(0.6, 0.5), eps=0.1, domain=domain, rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_an_overflow_proves_nothing(engine, domain, rounding):
    """The hidden neuron is between 0 and infinity, but its bounds overflow."""
    model = perceptron(linear([[3e38] * 4], [-1.0]), linear([[0.0], [1.0]], [1.0, 0.0]))
    x = image(0.0, 0.0, 0.0, 0.0)
    assert model(x).argmax() == 0
    assert model(x + 0.1).argmax() == 1
    assert not verified(model, x, eps=1.0, domain=domain, rounding=rounding)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_sum_that_overflows_in_some_order_proves_nothing(engine, domain):
    """The sum is x, but 2e38 + 2e38 is infinite before -4e38 brings it back."""
    hidden = linear(np.eye(4, 1), [0.0, 1.0, 1.0, 1.0])
    model = perceptron(hidden, linear([[1.0, 2e38, 2e38, -2e38]], [-2e38]), linear([[1.0], [0.0]], [0.0, 0.1]))
    assert exact_margin(model, image(0.5), eps=0.1) > 0.29
    assert not verified(model, image(0.5), eps=0.1, domain=domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_mean_whose_sum_overflows_proves_nothing(engine, domain):
    """AvgPool2d adds before it divides."""
    conv = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)
    conv.weight.fill_(2e38)
    model = nn.Sequential(conv, nn.AvgPool2d(2), nn.Flatten(), linear([[0.0], [1e-20]], [2e18, 0.0]))
    x = torch.full((1, 1, 2, 2), 0.4)
    assert model(x).argmax() == 0
    label, other = model(x + 0.15)[0]
    assert not label > other
    assert not verified(model, x, eps=0.2, domain=domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_difference_that_overflows_before_it_is_scaled_proves_nothing(engine, domain):
    """Normalize subtracts the mean before it divides."""
    model = nn.Sequential(Normalize((3e38,), (1e20,)), nn.Flatten(), linear([[1e-4], [0.0]], [7e14, 0.0]))
    x = image(-3e37)
    assert model(x).argmax() == 0
    assert model(image(-5.9e37)).isnan().any()
    assert not verified(model, x, eps=3e37, domain=domain, clip=(-1e38, 1e38))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("power", [-149, -140, -130, -127])
def test_numbers_too_small_for_float32_prove_nothing(engine, domain, power):
    """The true margin is zero or below at weights of 2^power, and what it consists of underflows."""
    small = 2.0**power
    zero = perceptron(linear([[small, small], [small, small]]))
    below = perceptron(linear([[small, 0.0], [0.0, small]]))
    shifted = perceptron(linear([[small, 0.0], [0.0, small]]), linear([[small, 0.0], [0.0, small]]))
    for model in (zero, below, shifted):
        assert exact_margin(model, image(0.6, 0.5), eps=0.1, domain=domain) <= 0
        assert not verified(model, image(0.6, 0.5), eps=0.1, domain=domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_underflows_and_is_magnified_again_is_not_believed(engine, domain):
    """2^-100 x 2^-100 is zero in float32, and 2^120 x 2^80 times it is 1 for the mathematician."""
    model = perceptron(
        linear([[2.0**-100]]), linear([[2.0**-60]]), linear([[2.0**90]]), linear([[2.0**70], [0.0]], [0.0, 0.3])
    )
    x = image(0.6)
    assert exact_margin(model, x, eps=0.1, domain=domain) > 0.19
    assert model(x).argmax() == 1  # float32 sees nothing
    swapped = perceptron(
        linear([[2.0**-100]]), linear([[2.0**-60]]), linear([[2.0**90]]), linear([[-(2.0**70)], [0.0]], [0.7, 0.0])
    )
    assert swapped(x).argmax() == 0
    assert exact_margin(swapped, x, eps=0.2, domain=domain) < 0
    assert not verified(swapped, x, eps=0.2, domain=domain)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="needs a processor that can flush to zero")
@pytest.mark.parametrize("domain", DOMAINS)
def test_small_numbers_that_are_flushed_to_zero_are_not_believed(engine, domain):
    model = perceptron(linear([[2.0**-127]]), linear([[2.0**127], [0.0]], [0.0, 0.3]))
    x = image(0.7)
    assert model(x).argmax() == 0
    torch.set_flush_denormal(True)
    try:
        assert model(x).argmax() == 1
    finally:
        torch.set_flush_denormal(False)
    assert not verified(model, x, eps=0.1, domain=domain)
