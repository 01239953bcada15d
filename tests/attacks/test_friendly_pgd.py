"""Friendly PGD: each image goes on a little after it is misclassified, and no further."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.attacks import PGD, FriendlyPGD
from softadv.attacks.friendly_pgd import stopped_early
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.kernels import build as compiled

EPS, ALPHA, STEPS = 0.1, 0.02, 10


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("compiled_there", [True, False])
def test_with_tau_of_all_steps_it_is_pgd(trained_digits: nn.Module, digits: Dataset, compiled_there: bool) -> None:
    attack = PGD(alpha=ALPHA, steps=STEPS)
    friendly = stopped_early(attack, tau=STEPS)
    assert friendly == FriendlyPGD(alpha=ALPHA, steps=STEPS, tau=STEPS)
    with nullcontext() if compiled_there else compiled.disabled():
        found, expected = (
            a(trained_digits, digits.test_x[:64], digits.test_y[:64], eps=EPS, generator=seeded_generator())
            for a in (friendly, attack)
        )
    assert torch.equal(found, expected)


def by_a_plain_loop(model: nn.Module, image: Tensor, label: Tensor, point: Tensor, *, tau: int) -> tuple[Tensor, int]:
    """Algorithm 1 for one image, (1, C, H, W): where it ends, and after how many steps."""
    left = tau
    for taken in range(STEPS):
        if model(point).argmax(1) != label:
            if left == 0:
                return point, taken
            left -= 1
        point = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(point), label), point)
        point = (point.detach() + ALPHA * slope.sign()).clamp((image - EPS).clamp(min=0), (image + EPS).clamp(max=1))
    return point.detach(), STEPS


@pytest.mark.parametrize("tau", [0, 1, 3])
def test_each_image_stops_tau_steps_after_it_is_misclassified(
    trained_digits: nn.Module, digits: Dataset, tau: int
) -> None:
    model = nn.Sequential(*trained_digits).eval()
    x, y = digits.test_x[:40], digits.test_y[:40]
    attack = FriendlyPGD(alpha=ALPHA, steps=STEPS, tau=tau)
    starts = attack.start(x, eps=EPS, generator=seeded_generator())
    with compiled.disabled():
        found = attack(model, x, y, eps=EPS, generator=seeded_generator())
    steps = []
    for place in range(len(x)):
        only = slice(place, place + 1)
        expected, taken = by_a_plain_loop(model, x[only], y[only], starts[only], tau=tau)
        steps.append(taken)
        # A slope that is nothing but rounding may go either way.
        assert ((found[only] - expected).abs() <= 1e-6).double().mean() >= 0.99
    assert len(set(steps)) > 1  # some stop early, and some go all the way
    assert STEPS in steps


def test_it_goes_less_far_than_pgd_and_fools_as_many(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:100], digits.test_y[:100]
    settings = {"alpha": ALPHA, "steps": STEPS, "random_start": False}
    attacks = FriendlyPGD(**settings), PGD(**settings)
    friendly, plain = (attack(trained_digits, x, y, eps=EPS, generator=None) for attack in attacks)
    fooled = [trained_digits(images).argmax(1) != y for images in (friendly, plain)]
    assert (friendly - x).abs().mean() < (plain - x).abs().mean()
    assert (fooled[0] | ~fooled[1]).all()


def test_a_step_that_nobody_gave_may_be_wider_than_the_range(trained_digits: nn.Module, digits: Dataset) -> None:
    x, y = digits.test_x[:8], digits.test_y[:8]
    found = []
    for model in (trained_digits, nn.Sequential(nn.Identity(), *trained_digits)):  # the kernel takes no Identity
        attack = FriendlyPGD(steps=1, random_start=False)
        found.append(attack(model.eval(), x, y, eps=0.9, generator=None))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("tau", [-1, 1.5])
def test_tau_is_a_count(tau: float) -> None:
    with pytest.raises(SoftadvError, match="tau: "):
        FriendlyPGD(tau=tau)  # type: ignore[arg-type]
