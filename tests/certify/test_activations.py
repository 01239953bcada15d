"""Activations beside ReLU: their lines, their rounding, and that no point and no program breaks what they prove."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from softadv.certify import Activation, certify, register_operator
from softadv.certify.operators import Clipping, LeakyRelu, Sigmoid, Tanh
from softadv.certify.operators.s_shaped import SIGMOID_ERROR, TANH_ERROR
from softadv.certify.rounding import Arithmetic
from tests.certify import evaluation, evaluators
from tests.certify.test_search import barely_verified
from tests.networks import random_images, seeded

UNIT = 2.0**-24
ONE = (1, 1, 1)
STEPS = {
    "leaky": LeakyRelu(ONE, ONE, torch.tensor([0.1]).double()),
    "steep": LeakyRelu(ONE, ONE, torch.tensor([1.75]).double()),
    "falling": LeakyRelu(ONE, ONE, torch.tensor([-0.5]).double()),
    "clip": Clipping(ONE, ONE, 0.0, 6.0),
    "narrow clip": Clipping(ONE, ONE, -0.25, 0.125),
    "clip below": Clipping(ONE, ONE, -0.5, torch.inf),
    "clip above": Clipping(ONE, ONE, -torch.inf, 0.5),
    "sigmoid": Sigmoid(ONE, ONE),
    "tanh": Tanh(ONE, ONE),
}


class Moving(nn.Module):
    """Channels that are moved, repeated and left out, before a ReLU: the operator Gather."""

    def forward(self, x):
        return torch.cat([x[:, 2:], x[:, :1], x[:, :1]], 1).relu()


LAYERS = {
    "Gather": Moving,
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "PReLU": lambda: nn.PReLU(init=0.3),
    "ReLU6": nn.ReLU6,
    "Hardtanh": lambda: nn.Hardtanh(-0.3, 0.4),
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
}


def float_range(step: int) -> np.ndarray:
    """Finite float32 numbers of all sizes and both signs, every step-th."""
    found = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return found[np.isfinite(found)]


def in_onnxruntime(operator: str, x: np.ndarray) -> np.ndarray:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("step", [40_009, pytest.param(997, marks=pytest.mark.long)])
@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh"])
def test_no_library_is_further_off_than_is_allowed_for(operator, step):
    x = float_range(step)
    function = getattr(torch, operator.lower())
    real = function(torch.from_numpy(x).double()).numpy()
    error = SIGMOID_ERROR * UNIT if operator == "Sigmoid" else TANH_ERROR * UNIT * np.minimum(np.abs(x), 1) + 1e-38
    for found in (function(torch.from_numpy(x)).numpy(), in_onnxruntime(operator, x)):
        assert (np.abs(found - real) <= error / 4 + 1e-38).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_lines_hold_the_function_between_its_bounds(name, parallel, dtype, generator):
    step = STEPS[name]
    ends = torch.randn(400, 2, generator=generator) * torch.logspace(-4, 2, 400)[:, None]
    ends = ends.sort(1).values.to(dtype)
    ends[:5] = torch.tensor([[0, 0], [-1, -1], [0, 3], [-3, 0], [100, 200]])
    lower, upper = (end.reshape(-1, 1, 1, 1) for end in ends.unbind(1))
    lines = step.lines(lower, upper, Arithmetic(dtype, 4, lambda terms, taps: terms * taps), parallel=parallel)
    least, most = step.interval(lower, upper)
    share = torch.linspace(0, 1, 501, dtype=torch.float64)
    x = lower.double() + (upper.double() - lower.double()) * share
    y = step.value(x)
    assert (lines.lower_slope.double() * x + lines.lower_offset.double() <= y).all()
    assert (lines.upper_slope.double() * x + lines.upper_offset.double() >= y).all()
    assert (least.double() <= y).all()
    assert (most.double() >= y).all()
    if parallel:
        assert torch.equal(lines.lower_slope, lines.upper_slope)


def deeppoly(model: nn.Sequential, x: np.ndarray, label: int, eps: float, rule) -> float:
    """The least margin of linear layers with activations between them, in float64: Singh et al. (2019), by hand."""
    linear = [(layer.weight.numpy(), layer.bias.numpy()) for layer in model if isinstance(layer, nn.Linear)]
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    lines: list[tuple[np.ndarray, ...]] = []

    def least(weight, const, depth):
        for (inner, bias), (below, at_below, above, at_above) in zip(
            reversed(linear[:depth]), reversed(lines[:depth]), strict=True
        ):
            plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
            const = const + plus @ at_below + minus @ at_above
            weight = plus * below + minus * above
            weight, const = weight @ inner, const + weight @ bias
        return np.maximum(weight, 0) @ low + np.minimum(weight, 0) @ high + const

    for depth, (weight, bias) in enumerate(linear[:-1]):
        bounds = least(weight, bias, depth), -least(-weight, -bias, depth)
        lines.append(tuple(np.array([rule(a, b) for a, b in zip(*bounds, strict=True)]).T))
    weight, bias = linear[-1]
    others = [j for j in range(len(bias)) if j != label]
    return least(weight[label] - weight[others], bias[label] - bias[others], len(linear) - 1).min()


def through(f, low, high, below, above):
    """Lines of two slopes, the lower one through the lower end, the upper one through the upper end."""
    return below, f(low) - below * low, above, f(high) - above * high


def leaky_rule(low, high, slope=0.1):
    if low >= 0 or high <= 0:
        own = 1.0 if low >= 0 else slope
        return own, 0.0, own, 0.0
    chord = (high - slope * low) / (high - low)
    return (1.0 if high > -low else slope), 0.0, chord, high - chord * high


def hardtanh_rule(low, high, first=-0.3, last=0.4):
    if high <= first or low >= last:
        return 0.0, min(max(low, first), last), 0.0, min(max(low, first), last)
    rising = 1.0 if low >= first else (min(high, last) - first) / (high - first) * (high - first > first - low)
    falling = 1.0 if high <= last else (last - max(low, first)) / (last - low) * (last - low > high - last)
    if low >= first and high > last:
        rising = (last - low) / (high - low)
    if high <= last and low < first:
        rising, falling = float(high - first > first - low), (high - first) / (high - low)
    if low >= first and high > last:
        falling = float(last - low > high - last)
    below = first - rising * first if low < first else low - rising * low
    above = last - falling * last if high > last else high - falling * high
    return rising, below, falling, above


def s_shaped(f, slope):
    def rule(low, high):
        flattest, chord = min(slope(low), slope(high)), (f(high) - f(low)) / (high - low)
        return through(f, low, high, chord if low >= 0 else flattest, chord if high <= 0 else flattest)

    return rule


RULES = {
    "LeakyReLU": leaky_rule,
    "Hardtanh": hardtanh_rule,
    "Sigmoid": s_shaped(lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (2 + np.exp(x) + np.exp(-x))),
    "Tanh": s_shaped(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
}


@pytest.mark.parametrize("name", RULES)
def test_margins_are_those_of_the_rules_computed_by_hand(engine, name):
    for seed, eps in enumerate((0.01, 0.05, 0.2)):
        act = LAYERS[name]
        body = lambda act=act: nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 7), act(), nn.Linear(7, 4))  # noqa: E731
        model = seeded(seed, body)
        x, y = random_images((1, 1, 6), 5, seed=seed)
        x = x.flatten(1)
        if name == "LeakyReLU":  # as float64 has it
            model[1].negative_slope = model[3].negative_slope = 0.1
        found = certify(model, x, y, eps=eps, rounding="none").margin
        by_hand = [
            deeppoly(model, image.numpy(), int(label), eps, RULES[name]) for image, label in zip(x, y, strict=True)
        ]
        np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-8, atol=1e-8)


def classifier(act, shape=(1, 4, 4)):
    return nn.Sequential(nn.Conv2d(1, 3, 2, bias=True), act(), nn.Flatten(), nn.Linear(27, 8), act(), nn.Linear(8, 4))


def hard_points(model, x, label, *, eps, count, seed):
    """Float32 points around the corner that the gradient points to: some pixels elsewhere, or a few floats away."""
    rng = np.random.default_rng(seed)
    lower, upper = evaluation.float_box(x.numpy().ravel(), eps=eps)
    leaf = x.clone().requires_grad_()
    scores = model(leaf)[0]
    (scores[label] - scores[scores.argsort()[-1 - rng.integers(1, 3)]]).backward()
    corner = np.where(leaf.grad.numpy().ravel() > 0, lower, upper)
    points = np.tile(corner, (count, 1))
    flips = rng.random(points.shape) < rng.random((count, 1)) ** 4
    points = np.where(flips, rng.uniform(lower, upper, points.shape).astype(np.float32), points)
    for _ in range(3):
        toward = np.where(rng.random(points.shape) < 0.5, np.float32(-1), np.float32(2))
        points = np.where(rng.random(points.shape) < 0.3, np.nextafter(points, toward), points)
    return np.clip(points, lower, upper).reshape(count, *x.shape[1:])


def sessions(model, example):
    """The model in onnxruntime at each of its levels."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,), file, dynamo=False, input_names=["image"], dynamic_axes={"image": {0: "batch"}}
        )
    for level in evaluators.LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads = level, 1
        yield ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


@pytest.mark.long  # test_campaign.py has a share of all operators
@pytest.mark.parametrize("name", LAYERS)
def test_a_search_finds_no_point_that_breaks_a_certificate(name):
    """10^5 points for each operator, in PyTorch and in onnxruntime at each level, where the least bias is proven."""
    asked = 0
    for seed, eps in enumerate((1e-7, 1e-5, 1e-3, 0.05)):
        model = seeded(seed, lambda: classifier(LAYERS[name])).float()
        x = random_images((1, 4, 4), 1, seed=seed)[0].float()
        y = model(x).argmax(1)
        barely_verified(model, x, y, eps=eps, rounding="sound")
        points = hard_points(model, x, int(y), eps=eps, count=5_000, seed=seed)
        outputs = [model(torch.from_numpy(points)).numpy()]
        outputs += [session.run(None, {"image": points})[0] for session in sessions(model, x)]
        for found in outputs:
            assert (evaluation.margins(found, int(y)) > 0).all(), eps
            asked += len(found)
    assert asked >= 100_000


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_search_breaks_certificates_that_leave_rounding_out(name):
    def breaks(seed):
        model = seeded(seed, lambda: classifier(LAYERS[name])).float()
        x = random_images((1, 4, 4), 1, seed=seed)[0].float()
        y = model(x).argmax(1)
        barely_verified(model, x, y, eps=1e-7, rounding="none")
        points = hard_points(model, x, int(y), eps=1e-7, count=500, seed=seed)
        return (evaluation.margins(model(torch.from_numpy(points)).numpy(), int(y)) <= 0).any()

    assert any(breaks(seed) for seed in range(6))


class Softplus(nn.Module):
    def forward(self, x):
        return nn.functional.softplus(x)


@dataclass(frozen=True)
class SoftplusStep(Activation):
    """log(1 + exp(x)), which is convex: the chord above, the tangent in the middle below."""

    def value(self, x):
        return nn.functional.softplus(x)

    def slopes(self, lower, upper):
        return torch.sigmoid((lower + upper) / 2), self.chord(lower, upper)

    def stationary(self, slope):
        return (torch.log(slope / (1 - slope)),)

    def evaluation_error(self, arithmetic, lower, upper):
        return (1 + torch.maximum(-lower, upper)) * 32 * arithmetic.unit


def test_an_activation_of_ones_own_is_registered_from_outside(engine, generator):
    register_operator(Softplus)(lambda layer, shape: SoftplusStep(shape, shape))
    model = seeded(0, lambda: classifier(Softplus)).float()
    x = random_images((1, 4, 4), 4, seed=0)[0].float()
    y = model(x).argmax(1)
    exact = certify(model, x, y, eps=0.0).margin
    torch.testing.assert_close(exact, torch.tensor(_margins(model(x), y)), rtol=1e-3, atol=1e-3)
    for domain in ("box", "deepzono", "deeppoly"):
        margin = certify(model, x, y, eps=0.03, domain=domain).margin
        for _ in range(100):
            noise = torch.empty_like(x).uniform_(-0.03, 0.03, generator=generator)
            found = torch.tensor(_margins(model((x + noise).clamp(0, 1)), y))
            assert (found >= margin).all()


def _margins(outputs, y):
    own = outputs.gather(1, y[:, None])[:, 0]
    return (own - outputs.scatter(1, y[:, None], -torch.inf).amax(1)).tolist()
