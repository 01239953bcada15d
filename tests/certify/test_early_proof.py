"""Verdicts alone: what stops at the proof verifies no image less, and nothing that can be broken."""

import importlib

import pytest
import torch
from torch import nn

from softadv.attacks import pgd
from softadv.certify import ROUNDINGS, certify
from softadv.certify import backsub_cpp as native
from softadv.certify.api import EFFORTS
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.backsub_torch import TorchBackSubstitution
from softadv.certify.counterexample import broken
from softadv.certify.early_proof import last_hidden
from softadv.certify.rounding import box
from softadv.certify.trace import read_network
from softadv.errors import SoftadvError
from tests.networks import NETWORKS, random_images, seeded, with_head

needs_kernel = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")
api = importlib.import_module("softadv.certify.api")


def dense(hidden, *, seed=0, dtype=torch.float32):
    """A network with some neurons in the last hidden layer, and its answers to random images as labels."""
    model = seeded(seed, lambda: with_head((1, 9, 9), nn.Conv2d(1, 3, 3, 2), nn.ReLU(), hidden=hidden)).to(dtype)
    x, _ = random_images((1, 9, 9), 67, seed=seed)
    x = x.to(dtype)
    return model, x, model(x).argmax(1)


@pytest.fixture
def sparing_torch(monkeypatch):
    """Back-substitution in PyTorch, told to ask in the same order as the compiled one."""
    monkeypatch.setattr(TorchBackSubstitution, "sparing", True)
    with native.disabled():
        yield


def without_counterexamples(monkeypatch):
    monkeypatch.setattr(api, "broken", lambda model, x, *_: torch.zeros(len(x), dtype=torch.bool))


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 16, 17, 33, 70])
def test_no_verified_image_is_lost_and_exact_is_the_domains_own(monkeypatch, hidden, dtype):
    model, x, y = dense(hidden, seed=hidden, dtype=dtype)
    without_counterexamples(monkeypatch)
    seen = 0
    for rounding in ROUNDINGS:
        for domain in ("deeppoly", "deepzono"):
            for eps in (0.005, 0.02, 0.2):
                question = {"eps": eps, "domain": domain, "rounding": rounding}
                own = certify(model, x, y, **question)
                exact = certify(model, x, y, **question, margins=False, effort="exact")
                least = certify(model, x, y, **question, margins=False)
                assert torch.equal(exact.verified, own.verified)
                # PyTorch's products may differ in the last bit from call to call.
                torch.testing.assert_close(exact.margin, own.margin, rtol=1e-6, atol=1e-6)
                assert (least.verified >= own.verified).all()
                assert (least.verified & ~own.verified).sum() <= 2
                # Unless it is proven early, an image has the domain's bounds, or larger ones.
                assert (least.margin >= own.margin.clamp(max=0) - 1e-6).all()
                seen |= 1 << int(own.verified.any()) | 4 << int((~own.verified).any())
    assert seen & 2
    assert seen & 8


@needs_kernel
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_its_verified_images(name):
    shape, build = NETWORKS[name]
    model = seeded(5, build)
    x, _ = random_images(shape, 40, seed=5)
    y = model(x).argmax(1)
    for eps in (0.001, 0.02, 0.1):
        least = certify(model, x, y, eps=eps, margins=False).verified
        assert (least >= certify(model, x, y, eps=eps).verified).all()


@needs_kernel
@pytest.mark.parametrize("hidden", [7, 40])
def test_both_engines_stop_alike(monkeypatch, sparing_torch, hidden):
    model, x, y = dense(hidden, dtype=torch.float64)
    for eps in (0.005, 0.02, 0.05):
        plain = certify(model, x, y, eps=eps, rounding="none", margins=False)
        with monkeypatch.context() as patch:
            patch.setattr(native, "available", lambda: True)
            compiled = certify(model, x, y, eps=eps, rounding="none", margins=False)
        assert torch.equal(plain.verified, compiled.verified)
        torch.testing.assert_close(plain.margin, compiled.margin, rtol=1e-9, atol=1e-9)


@needs_kernel
@pytest.mark.parametrize("effort", ["least", "exact"])
def test_no_point_breaks_a_verdict(generator, trained_digits, digits, effort):
    x, y = digits.test_x[:150], digits.test_y[:150]
    for eps in (0.02, 0.06, 0.1):
        verified = certify(trained_digits, x, y, eps=eps, margins=False, effort=effort).verified
        for start in (False, True):
            points = pgd(
                trained_digits, x, y, eps=eps, alpha=eps / 4, steps=10, random_start=start, generator=generator
            )
            assert (trained_digits(points).argmax(1) == y)[verified].all()
    assert verified.any()


@needs_kernel
def test_the_number_of_threads_changes_no_bit_however_images_are_shared_out():
    model, x, y = dense(33)
    x, y = x.repeat(3, 1, 1, 1), y.repeat(3)
    before, answers = torch.get_num_threads(), []
    try:
        for threads, count in ((1, 201), (2, 201), (5, 201), (2, 65), (3, 100)):
            torch.set_num_threads(threads)
            found = [
                certify(model, x[:count], y[:count], eps=0.02, margins=margins, effort=effort)
                for margins, effort in ((True, "exact"), (False, "exact"), (False, "least"))
            ]
            answers.append(found)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for found in answers[1:]:
        for one, other in zip(found, answers[0], strict=True):
            torch.testing.assert_close(one.margin, other.margin[: len(one.margin)], rtol=0, atol=0, equal_nan=True)


@needs_kernel
def test_less_is_asked(monkeypatch, trained_digits, digits):
    """Of each unstable neuron of a vector one side first; and fewer neurons for verdicts alone."""
    x, y = digits.test_x[:60], digits.test_y[:60]
    y = trained_digits(x).argmax(1)
    asked = {}

    def bounds(relaxed, activation, sides, known):
        if relaxed.network.shapes[activation][1:] == (1, 1):
            asked[effort] = asked.get(effort, 0) + int(sides[0].sum() + sides[1].sum())
            if effort == "two sides":
                sides = (sides[0] | sides[1],) * 2
        return answer(relaxed, activation, sides, known)

    answer = CompiledBackSubstitution.bounds
    monkeypatch.setattr(CompiledBackSubstitution, "bounds", staticmethod(bounds))
    without_counterexamples(monkeypatch)
    for effort in ("exact", "least"):
        certify(trained_digits, x, y, eps=0.03, margins=False, effort=effort)
    with monkeypatch.context() as patch:
        effort = "two sides"
        patch.setattr(CompiledBackSubstitution, "sparing", False)
        certify(trained_digits, x, y, eps=0.03, margins=False)
    assert asked["least"] < asked["exact"] < asked["two sides"]


@needs_kernel
def test_what_is_called_broken_is_broken_within_its_box(trained_digits, digits):
    x, y = digits.test_x[:200], digits.test_y[:200]
    correct = trained_digits(x).argmax(1) == y
    x, y = x[correct], y[correct]
    for eps in (0.03, 0.1, 0.2):
        lower, upper = box(x, eps=eps, clip=(0.0, 1.0), dtype=x.dtype, sound=True)
        found = broken(trained_digits, x, y, lower, upper)
        assert found.any()
        assert not certify(trained_digits, x, y, eps=eps).verified[found].any()
    nothing = broken(trained_digits, x, y, x, x)
    assert not nothing.any()


@needs_kernel
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_counterexamples_are_looked_for_in_sound_verdicts_alone(monkeypatch, trained_digits, digits, rounding):
    calls = []
    monkeypatch.setattr(api, "broken", lambda model, x, *_: calls.append(1) or torch.ones(len(x), dtype=torch.bool))
    x, y = digits.test_x[:20], digits.test_y[:20]
    assert certify(trained_digits, x, y, eps=0.01, rounding=rounding).verified.any()
    assert not calls
    found = certify(trained_digits, x, y, eps=0.01, rounding=rounding, margins=False)
    assert bool(calls) == (rounding == "sound")
    assert found.verified.any() == (rounding == "none")
    assert found.margin.isnan().all() == (rounding == "sound")


def test_where_a_network_has_a_last_hidden_layer():
    def found(*layers):
        return last_hidden(read_network(nn.Sequential(nn.Flatten(), *layers), (1, 2, 2)))

    assert found(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) == 3
    assert found(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)) == 5
    assert found(nn.Linear(4, 2)) is None
    assert found(nn.ReLU(), nn.Linear(4, 2)) is None
    assert found(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU()) is None


def test_an_effort_that_there_is_not_is_named(trained_digits, digits):
    with pytest.raises(SoftadvError, match="effort: unknown name 'more', expected one of least, exact"):
        certify(trained_digits, digits.test_x[:1], digits.test_y[:1], eps=0.1, effort="more")


@pytest.mark.parametrize("sparing", ["kernel", "torch"])
@pytest.mark.parametrize("ending", [nn.Softmax, nn.LogSoftmax])
def test_where_scores_must_be_further_apart_no_verified_image_is_lost(request, ending, sparing):
    if sparing == "torch":
        request.getfixturevalue("sparing_torch")
    elif not native.available():
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4))
    with torch.no_grad():
        body[4].weight *= 5e-3
        body[4].bias.zero_()
    model, x = nn.Sequential(*body, ending(1)).eval(), torch.rand(400, 16)
    y = model(x).argmax(1)
    exact, least = (certify(model, x, y, eps=0.01, margins=False, effort=effort).verified for effort in EFFORTS[::-1])
    assert 10 < exact.sum() < 390
    assert (least >= exact).all()
