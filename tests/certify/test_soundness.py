"""What is certified cannot be broken: no point of a box goes below the margin that was proven for it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from softadv.attacks import pgd
from softadv.certify import DOMAINS, certify
from softadv.errors import SoftadvError
from tests.certify.conftest import engines
from tests.networks import NETWORKS, batch_norm, has_max_pool, networks, random_images, seeded

DTYPES = (torch.float32, torch.float64)


def points_of_boxes(model, x, y, *, eps, generator, samples, restarts=4):
    """Points of the boxes around images, one of each box at a time: PGD, uniform points, corners."""
    if eps == 0:
        yield x
        return
    for restart in range(restarts):
        yield pgd(model, x, y, eps=eps, alpha=eps / 4, steps=12, random_start=restart > 0, generator=generator)
    for _ in range(samples):
        noise = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
        yield (x + noise).clamp(0, 1)
        yield (x + noise.sign() * eps).clamp(0, 1)


def output_margins(outputs: Tensor, y: Tensor) -> Tensor:
    others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    return outputs.gather(1, y[:, None])[:, 0].double() - others.double()


@torch.no_grad()
def least_margin(model: nn.Module, points, y: Tensor) -> Tensor:
    """The least o_y - o_j that any of the points has, image by image, in float64 where it is exact enough."""
    return torch.stack([output_margins(model(point), y) for point in points]).amin(0)


def domains_of(model: nn.Module):
    return [domain for domain in DOMAINS if domain != "deepzono" or not has_max_pool(model)]


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_point_of_a_box_breaks_its_certificate(engine, trained_digits, digits, generator, domain):
    x, y = digits.test_x[:20], digits.test_y[:20]
    for eps in (0.02, 0.1):
        found = certify(trained_digits, x, y, eps=eps, domain=domain)
        points = points_of_boxes(trained_digits, x, y, eps=eps, generator=generator, samples=30)
        least = least_margin(trained_digits, points, y)
        assert (least >= found.margin).all()
        assert (least[found.verified] > 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_breaks_the_certificate_of_any_operator(generator, name, dtype):
    shape, build = NETWORKS[name]
    model = seeded(3, build).to(dtype)
    x, y = random_images(shape, 6, seed=3)
    x = x.to(dtype)
    for eps in (0.0, 1e-7, 1e-3, 0.05):
        least = least_margin(model, points_of_boxes(model, x, y, eps=eps, generator=generator, samples=20), y)
        for engine in engines():
            with engine:
                for domain in domains_of(model):
                    assert (least >= certify(model, x, y, eps=eps, domain=domain).margin).all(), (domain, eps)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    network=networks(operators=True),
    eps=st.floats(0, 0.4) | st.floats(0, 1e-6),
    seed=st.integers(0, 2**31 - 1),
    dtype=st.sampled_from(DTYPES),
)
def test_no_point_of_a_box_breaks_the_certificate_of_any_network(engine, network, eps, seed, dtype):
    model, shape = network
    model = model.to(dtype)
    x, y = random_images(shape, 4, seed=seed)
    x = x.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    least = least_margin(model, points_of_boxes(model, x, y, eps=eps, generator=generator, samples=20), y)
    for domain in domains_of(model):
        assert (least >= certify(model, x, y, eps=eps, domain=domain).margin).all(), domain


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
def test_a_batch_norm_holds_however_it_is_arranged(engine, generator, mean, dtype):
    """(x - mean) * scale + shift, x * alpha + beta, or folded into the convolution before it."""
    conv, norm = nn.Conv2d(1, 3, 2), batch_norm(3)
    with torch.no_grad():
        conv.bias += mean
        norm.running_mean += mean
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).to(dtype).eval().requires_grad_(False)
    x = torch.rand(8, 1, 4, 4, generator=generator).to(dtype)
    found = certify(model, x, torch.zeros(8, dtype=torch.int64), eps=0.0).margin
    columns = (slice(None), None, None)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    entered = conv(x)
    for value in (
        norm(entered),
        (entered - norm.running_mean[columns]) * scale[columns] + norm.bias[columns],
        (entered - norm.running_mean[columns]) / (norm.running_var + norm.eps).sqrt()[columns] * norm.weight[columns]
        + norm.bias[columns],
        entered * scale[columns] + (norm.bias - norm.running_mean * scale)[columns],
        folded(x),
    ):
        outputs = model[4](value.relu().flatten(1))
        assert (output_margins(outputs, torch.zeros(8, dtype=torch.int64)) >= found).all()


@pytest.mark.parametrize("eps", [0.03, 0.1])
def test_deeppoly_verifies_most_and_box_least(trained_digits, digits, eps):
    x, y = digits.test_x[:100], digits.test_y[:100]
    count = {domain: int(certify(trained_digits, x, y, eps=eps, domain=domain).verified.sum()) for domain in DOMAINS}
    assert count["deeppoly"] >= count["deepzono"] >= count["box"]
    assert count["deeppoly"] > 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_margins_fall_as_the_radius_grows(engine, trained_digits, digits, domain):
    x, y = digits.test_x[:10], digits.test_y[:10]
    margins = [certify(trained_digits, x, y, eps=eps, domain=domain).margin for eps in (0.0, 0.01, 0.03, 0.1)]
    for smaller, larger in pairwise(margins):
        assert (larger <= smaller + 1e-4).all()


@pytest.mark.parametrize("eps", [0.03, 0.1])
@pytest.mark.parametrize("domain", DOMAINS)
def test_soundness_costs_next_to_no_verified_image(trained_digits, digits, domain, eps):
    x, y = digits.test_x, digits.test_y
    sound = certify(trained_digits, x, y, eps=eps, domain=domain)
    fast = certify(trained_digits, x, y, eps=eps, domain=domain, rounding="none")
    assert (sound.margin <= fast.margin).all()
    assert not (sound.verified & ~fast.verified).any()
    assert int(fast.verified.sum()) - int(sound.verified.sum()) <= 1


def test_the_bounds_of_a_box_hold_all_that_its_real_points_are_rounded_to(engine):
    """x + eps is no float32, and rounds to one that is further away than eps; weights of 1e7 see it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[0.0], [2.0**24]]))
    for pixel, eps in ((0.3, 1e-9), (0.3, 2.0**-25), (0.7, 0.1), (0.5, 3e-8), (0.9, 2 / 255)):
        x = torch.tensor(pixel).reshape(1, 1, 1, 1)
        # The real end of the box, with one rounding.
        end = torch.tensor(x.double().item() + eps, dtype=torch.float64).float()
        model[1].bias.copy_(torch.tensor([model(end.reshape(1, 1, 1, 1))[0, 1].item() + 1e-3, 0.0]))
        found = certify(model, x, torch.tensor([0]), eps=eps)
        outputs = model(end.reshape(1, 1, 1, 1))[0]
        assert outputs[0] - outputs[1] >= found.margin


def test_images_finer_than_the_model_keep_their_box(engine):
    """A float64 pixel just below the middle of two float32 numbers: with eps its box rounds to both."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[-(2.0**26)], [2.0**26]]))
    low = 0.5
    high = torch.tensor(0.5).nextafter(torch.tensor(1.0)).item()
    pixel = (low + high) / 2 - 1e-12
    model[1].bias.copy_(torch.tensor([2.0**26 + 2.0, 0.0]))
    x = torch.tensor([[[[pixel]]]], dtype=torch.float64)
    assert x.float().item() == low
    least = (model(torch.full((1, 1, 1, 1), high))[0] @ torch.tensor([1.0, -1.0])).item()
    assert certify(model, x, torch.tensor([0]), eps=1e-11).margin.item() <= least


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_clip_that_is_no_float_is_rounded_outwards(engine, domain, dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).to(dtype).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
    model[1].bias.copy_(torch.tensor([0.0, 0.0]))
    x = torch.full((1, 1, 1, 1), 0.2, dtype=dtype)
    assert certify(model, x, torch.tensor([0]), eps=0.15, domain=domain, clip=(0.1, 0.3)).margin <= 0.1
    assert certify(model, x, torch.tensor([0]), eps=0.15, domain=domain, clip=(0.1, 0.3)).margin > 0.0999


def test_pixels_at_the_ends_of_clip_stay_there(engine):
    """No point of the box is below 0 or above 1, so that a network that is right up to there is verified."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    model[1].bias.copy_(torch.tensor([1.001, 0.0]))
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert certify(model, x, torch.tensor([0]), eps=0.5).verified
    assert not certify(model, x, torch.tensor([0]), eps=0.5, clip=(-0.01, 1.01)).verified


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_winograd_convolution_is_refused_or_covered(engine, generator):
    """Without oneDNN, PyTorch leaves 3x3 convolutions of 16 images or more to NNPACK, which takes Winograd's way.

    It mixes a tile's pixels, so that bright ones make errors where the window sees nothing but dark ones.
    """
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(256, 2))
    model.requires_grad_(False)[2].bias.copy_(torch.tensor([1e-9, 0.0]))
    x, y = torch.zeros(16, 1, 16, 16), torch.zeros(16, dtype=torch.int64)
    x[:, :, :, 0] = torch.rand(16, 1, 16, generator=generator)
    with torch.backends.mkldnn.flags(enabled=False):
        for pixel in range(2, 256, 16):
            for sign in (1.0, -1.0):
                model[2].weight.zero_()
                model[2].weight[0, pixel] = sign
                try:
                    found = certify(model, x, y, eps=0.0)
                except SoftadvError as error:
                    reason = str(error)
                    assert reason.startswith("rounding: ")
                    return
                assert (output_margins(model(x), y) >= found.margin).all()
