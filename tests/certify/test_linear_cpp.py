"""Layers forwards by the compiled kernel: PyTorch's formulas, with bounds that hold in exact arithmetic."""

import pytest
import torch
from torch import nn

from softadv.certify import backsub_cpp as native
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.rounding import overflow_limit
from softadv.certify.trace import read_network
from tests.networks import seeded

pytestmark = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")

LAYERS = {
    "of several widths": ((3, 9, 7), lambda: nn.Conv2d(3, 17, (2, 3), (1, 2), (0, 2))),
    "dilated": ((2, 8, 9), lambda: nn.Conv2d(2, 5, (3, 2), 2, (2, 1), dilation=(2, 3))),
    "of one pixel": ((33, 1, 1), lambda: nn.Conv2d(33, 40, 1)),
    "larger than its input": ((1, 3, 3), lambda: nn.Conv2d(1, 1, 5, 3, 2, bias=False)),
    "dense": ((37, 1, 1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(37, 70))),
    "of one neuron": ((1, 1, 1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))),
}


def layer(name, dtype):
    shape, build = LAYERS[name]

    def whole():
        first = build()
        return nn.Sequential(first, nn.Flatten(), nn.Linear(first(torch.zeros(1, *shape)).numel(), 2))

    network = read_network(seeded(1, whole).to(dtype), shape)
    return network, next(node.step for node in network.nodes if hasattr(node.step, "weight"))


def inputs(step, count, dtype, *, negative):
    """Bounds, some of which are zero on both sides."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, *step.in_shape)
    middle = torch.rand(shape, generator=generator) - (0.5 if negative else 0.0)
    spread = torch.rand(shape, generator=generator) * 0.2
    dead = torch.rand(shape, generator=generator) < 0.3
    lower, upper = ((middle + sign * spread).masked_fill(dead, 0).to(dtype) for sign in (-1, 1))
    return lower, upper


def in_pytorch(step, lower, upper, arithmetic, *, rectified):
    least, most = step.interval(lower, upper)
    if arithmetic is None:
        return least, most, None
    evaluated = lower.clamp(min=0) if rectified else lower
    errors = step.errors(arithmetic, step.terms(arithmetic, evaluated, upper))
    return least - errors.of_bounds, most + errors.of_bounds, errors.of_forms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_computes_pytorchs_formulas(name, dtype):
    network, step = layer(name, dtype)
    exactly = 1e-5 if dtype == torch.float32 else 1e-13
    for count, negative, rectified in ((1, False, False), (13, True, False), (30, True, True), (5, False, True)):
        lower, upper = inputs(step, count, dtype, negative=negative)
        for arithmetic in (None, CompiledBackSubstitution.arithmetic(network, dtype)):
            (least, most), error = CompiledBackSubstitution.linear(
                step, (lower, upper), rectified=rectified, rounding=arithmetic
            )
            expected = in_pytorch(step, lower, upper, arithmetic, rectified=rectified)
            torch.testing.assert_close(least, expected[0], rtol=exactly, atol=exactly)
            torch.testing.assert_close(most, expected[1], rtol=exactly, atol=exactly)
            assert (error is None) == (arithmetic is None)
            if error is not None:
                assert (error > 0).all()
                torch.testing.assert_close(error, expected[2], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_its_bounds_hold_in_exact_arithmetic(name):
    network, step = layer(name, torch.float32)
    _, exact_step = layer(name, torch.float64)
    lower, upper = inputs(step, 20, torch.float32, negative=True)
    exact = exact_step.interval(lower.double(), upper.double())
    arithmetic = CompiledBackSubstitution.arithmetic(network, torch.float32)
    (least, most), _ = CompiledBackSubstitution.linear(step, (lower, upper), rectified=False, rounding=arithmetic)
    assert (least.double() < exact[0]).all()
    assert (most.double() > exact[1]).all()


def test_what_is_no_number_stays_none_and_what_is_too_large_has_no_finite_bounds():
    network, step = layer("dense", torch.float32)
    arithmetic = CompiledBackSubstitution.arithmetic(network, torch.float32)
    for bad in (torch.nan, torch.inf, overflow_limit(torch.float32) * 2**12):
        lower, upper = inputs(step, 3, torch.float32, negative=False)
        upper[1, 5] = bad
        (least, most), error = CompiledBackSubstitution.linear(
            step, (lower, upper), rectified=False, rounding=arithmetic
        )
        assert not (least[1].isfinite() & most[1].isfinite() & error[1].isfinite()).any()
        assert (least[[0, 2]].isfinite() & most[[0, 2]].isfinite() & error[[0, 2]].isfinite()).all()


def test_the_number_of_threads_changes_no_bit():
    network, step = layer("of several widths", torch.float32)
    known = inputs(step, 50, torch.float32, negative=True)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            arithmetic = CompiledBackSubstitution.arithmetic(network, torch.float32)
            found.append(CompiledBackSubstitution.linear(step, known, rectified=True, rounding=arithmetic))
    finally:
        torch.set_num_threads(before)
    for one, other in zip((*found[0][0], found[0][1]), (*found[1][0], found[1][1]), strict=True):
        assert torch.equal(one, other)
