"""The split that makes the training soft."""

import pytest
import torch

from softadv.certify import DOMAINS, certify
from softadv.training.partition import partition

EPS = 0.03


@pytest.fixture
def some(digits):
    """Images of which each part has some: a few labels are wrong."""
    x, y = digits.test_x[:40], digits.test_y[:40].clone()
    y[:5] = (y[:5] + 1) % 10
    return x, y


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_image_is_in_exactly_one_part(trained_digits, some, domain):
    found = partition(trained_digits, *some, eps=EPS, domain=domain)
    parts = torch.stack([found.misclassified, found.unverified, found.verified])
    assert (parts.sum(0) == 1).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_parts_are_what_the_certifier_says(trained_digits, some, domain):
    x, y = some
    found = partition(trained_digits, x, y, eps=EPS, domain=domain)
    said = certify(trained_digits, x, y, eps=EPS, domain=domain)
    assert torch.equal(found.misclassified, trained_digits(x).argmax(1) != y)
    assert torch.equal(found.unverified, said.correct & ~said.verified)
    assert torch.equal(found.verified, said.verified)


def test_all_but_the_verified_are_attacked(trained_digits, some):
    found = partition(trained_digits, *some, eps=0.1)
    assert all(part.any() for part in (found.misclassified, found.unverified, found.verified))
    assert torch.equal(found.attacked, found.misclassified | found.unverified)
