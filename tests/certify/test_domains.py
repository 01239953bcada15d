"""The domains against their plain definitions, and the options that must not change an answer."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from softadv.certify import DOMAINS, ROUNDINGS, Certificates, certify
from softadv.certify import backsub_cpp as native
from tests import reference
from tests.certify import layers
from tests.certify.conftest import engines
from tests.networks import NETWORKS, has_max_pool, networks, random_images, seeded

EPSILONS = (0.0, 0.02, 0.15, 0.6)

# Every network in every domain that has it.
CASES = [
    (name, domain)
    for name, (_, build) in NETWORKS.items()
    for domain in DOMAINS
    if domain != "deepzono" or not has_max_pool(build())
]


def margins_by_definition(model, x, y, **question):
    chain = layers.read(model, x.shape[1:])
    return np.array(
        [reference.margin_of(chain, a.numpy(), int(b), **question) for a, b in zip(x.double(), y, strict=True)]
    )


def margins_by_engines(model, x, y, **question):
    """The same as certify has it, by each of its engines, as float64."""
    for engine in engines():
        with engine:
            margin = certify(model, x, y, **question).margin
        assert margin.dtype == x.dtype
        yield margin.double().numpy()


def architecture(name, *, seed=0, count=3):
    shape, build = NETWORKS[name]
    return seeded(seed, build), *random_images(shape, count, seed=seed)


def output_margins(outputs, y):
    others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    return outputs.gather(1, y[:, None])[:, 0] - others


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_computes_the_network_itself(name):
    model, x, _ = architecture(name)
    chain = layers.read(model, x.shape[1:])
    outputs = np.stack([layers.forward(chain, image.numpy().ravel()) for image in x])
    np.testing.assert_allclose(outputs, model(x).numpy(), atol=1e-12)


@pytest.mark.parametrize(("name", "domain"), CASES)
def test_margins_are_those_of_the_definition(name, domain):
    model, x, y = architecture(name)
    for eps in EPSILONS:
        expected = margins_by_definition(model, x, y, eps=eps, domain=domain)
        for margin in margins_by_engines(model, x, y, eps=eps, domain=domain, rounding="none"):
            np.testing.assert_allclose(margin, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "domain"), CASES)
def test_margins_in_single_precision_are_those_of_the_definition(name, domain):
    model, x, y = architecture(name, seed=1)
    model, x = model.float(), x.float()
    expected = margins_by_definition(model, x, y, eps=0.1, domain=domain)
    for margin in margins_by_engines(model, x, y, eps=0.1, domain=domain, rounding="none"):
        np.testing.assert_allclose(margin, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "domain"), CASES)
def test_sound_margins_are_a_little_below_the_definition(name, domain, dtype):
    model, x, y = architecture(name, seed=2)
    model, x = model.to(dtype), x.to(dtype)
    for eps in EPSILONS:
        expected = margins_by_definition(model, x, y, eps=eps, domain=domain)
        for margin in margins_by_engines(model, x, y, eps=eps, domain=domain):
            lost = expected - margin
            assert (lost > 0).all()
            assert (lost <= 20_000 * torch.finfo(dtype).eps * (1 + np.abs(expected))).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    network=networks(operators=True),
    eps=st.floats(0, 0.5),
    seed=st.integers(0, 2**31 - 1),
    domain=st.sampled_from(DOMAINS),
)
def test_margins_of_any_network_are_those_of_the_definition(engine, network, eps, seed, domain):
    model, shape = network
    domain = "deeppoly" if has_max_pool(model) and domain == "deepzono" else domain
    x, y = random_images(shape, 2, seed=seed)
    if has_max_pool(model):
        # Where the ball is cut, bounds of several pixels are equal, and a pooling may take any of them for the largest.
        eps = min(eps, 0.4)
        x = eps + (1 - 2 * eps) * x
    margin = certify(model, x, y, eps=eps, domain=domain, rounding="none").margin
    expected = margins_by_definition(model, x, y, eps=eps, domain=domain)
    np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-5, atol=1e-5)
    if not has_max_pool(model):  # rounding decides which of equal bounds a pooling takes: the other line may be better
        assert (certify(model, x, y, eps=eps, domain=domain).margin <= margin + 1e-9 * (1 + margin.abs())).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_box_is_cut_to_clip(engine, domain):
    model, x, y = architecture("padding")
    x = 4 * x - 2
    margin = certify(model, x, y, eps=0.5, domain=domain, clip=(-2.0, 2.0), rounding="none").margin
    expected = margins_by_definition(model, x, y, eps=0.5, domain=domain, clip=(-2.0, 2.0))
    np.testing.assert_allclose(margin.numpy(), expected, rtol=1e-9, atol=1e-9)
    uncut = certify(model, x, y, eps=0.5, domain=domain, clip=(-9.0, 9.0), rounding="none").margin
    assert (uncut < margin).any()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("name", "domain"), CASES)
def test_without_a_radius_the_margin_is_that_of_the_outputs(name, domain, rounding):
    model, x, y = architecture(name)
    expected = output_margins(model(x), y)
    margin = certify(model, x, y, eps=0.0, domain=domain, rounding=rounding).margin
    torch.testing.assert_close(margin, expected)
    assert rounding == "none" or (margin < expected).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_verified_means_correct_with_a_positive_margin(engine, trained_digits, digits, domain, rounding):
    x, y = digits.test_x[:40], digits.test_y[:40]
    found = certify(trained_digits, x, y, eps=0.03, domain=domain, rounding=rounding)
    assert torch.equal(found.correct, trained_digits(x).argmax(1) == y)
    assert torch.equal(found.verified, found.correct & (found.margin > 0))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_chunks_do_not_change_the_answer(engine, trained_digits, digits, domain, rounding):
    x, y = digits.test_x[:5], digits.test_y[:5]
    question = {"eps": 0.03, "domain": domain, "rounding": rounding}
    done = []
    whole = certify(trained_digits, x, y, **question, memory_budget=2**34, on_progress=done.append)
    assert done[-1] == 5
    done.clear()
    single = certify(trained_digits, x, y, **question, memory_budget=1, on_progress=done.append)
    assert done == list(range(1, 6))
    assert_same(single, whole)


@pytest.mark.parametrize("domain", DOMAINS)
def test_many_classes_count_towards_the_memory(domain):
    """An image asks for the differences of all pairs of scores, which are far more numbers than the network has."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 300)), torch.rand(20, 4)
    classes, budget = 300, 2**23
    done = [0]
    certify(model, x, model(x).argmax(1), eps=0.0, domain=domain, memory_budget=budget, on_progress=done.append)
    assert done[-1] == 20
    at_once = max(after - before for before, after in pairwise(done))
    assert 1 <= at_once <= budget / (4 * 3 * classes**2)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_leaving_margins_out_changes_no_verdict(engine, trained_digits, digits, domain, rounding):
    x, y = digits.test_x[:80], digits.test_y[:80].clone()
    y[::3] = (y[::3] + 1) % 10
    everything = certify(trained_digits, x, y, eps=0.03, domain=domain, rounding=rounding)
    some = certify(trained_digits, x, y, eps=0.03, domain=domain, rounding=rounding, margins=False)
    assert (~everything.correct).any()
    assert torch.equal(some.correct, everything.correct)
    assert torch.equal(some.verified, everything.verified)
    assert some.margin[~some.correct].isnan().all()
    assert everything.margin.isfinite().all()
    assert (some.margin[some.verified] > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_leaving_margins_out_changes_no_verdict_of_any_network(engine, name):
    model, x, y = architecture(name, count=40)
    y = model(x).argmax(1)
    for eps in (0.001, 0.01, 0.03):
        for rounding in ROUNDINGS:
            everything = certify(model, x, y, eps=eps, rounding=rounding)
            some = certify(model, x, y, eps=eps, rounding=rounding, margins=False)
            assert torch.equal(some.verified, everything.verified)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_images_have_no_certificates(trained_digits, domain):
    nothing = certify(
        trained_digits, torch.empty(0, 1, 28, 28), torch.empty(0, dtype=torch.int64), eps=0.1, domain=domain
    )
    assert nothing.correct.shape == nothing.verified.shape == nothing.margin.shape == (0,)


def test_both_engines_give_the_same_margins(trained_digits, digits):
    if not native.available():
        pytest.skip("needs a C++ compiler")
    x, y = digits.test_x[:100], digits.test_y[:100]
    for eps in (0.03, 0.1):
        compiled = certify(trained_digits, x, y, eps=eps, rounding="none")
        with native.disabled():
            assert_same(certify(trained_digits, x, y, eps=eps, rounding="none"), compiled)


def assert_same(a: Certificates, b: Certificates) -> None:
    assert torch.equal(a.correct, b.correct)
    assert torch.equal(a.verified, b.verified)
    torch.testing.assert_close(a.margin, b.margin, rtol=1e-4, atol=1e-4, equal_nan=True)
