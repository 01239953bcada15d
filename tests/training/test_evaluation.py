"""Accuracies are the counts that anyone can make by hand."""

import pytest
import torch

from softadv.attacks import pgd
from softadv.certify import certify
from softadv.training.evaluation import adversarial_accuracy, attack_images, certified_accuracy, natural_accuracy

COUNT = 1234  # more than two batches, the last one partial


@pytest.fixture
def many(digits):
    return digits.train_x[:COUNT], digits.train_y[:COUNT]


def blacken(_model, x, _y, *, generator):
    """An attack that darkens images by a random amount."""
    return x * torch.rand(len(x), 1, 1, 1, generator=generator)


def test_natural_accuracy_is_the_fraction_classified_correctly(trained_digits, many):
    x, y = many
    right = sum(int(trained_digits(image[None]).argmax()) == int(label) for image, label in zip(x, y, strict=True))
    assert 0 < right < COUNT
    assert natural_accuracy(trained_digits, x, y) == right / COUNT


def test_adversarial_accuracy_is_the_fraction_correct_after_the_attack(trained_digits, many):
    x, y = many
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    done = []
    found = adversarial_accuracy(trained_digits, x, y, attack=blacken, generator=generators[0], on_progress=done.append)
    attacked = attack_images(trained_digits, x, y, attack=blacken, generator=generators[1])
    assert attacked.shape == x.shape
    assert found == float((trained_digits(attacked).argmax(1) == y).double().mean())
    assert found < natural_accuracy(trained_digits, x, y)
    assert done == sorted(done)
    assert done[-1] == COUNT


def test_attacks_meet_each_image_with_its_own_label(trained_digits, many):
    met = []

    def record(_model, x, y, *, generator):
        met.append((x, y))
        return x

    attacked = attack_images(trained_digits, *many, attack=record, generator=torch.Generator())
    assert torch.equal(torch.cat([x for x, _ in met]), many[0])
    assert torch.equal(torch.cat([y for _, y in met]), many[1])
    assert torch.equal(attacked, many[0])


def test_certified_accuracy_is_the_fraction_verified(trained_digits, digits):
    x, y = digits.test_x[:30], digits.test_y[:30]
    found = certified_accuracy(trained_digits, x, y, eps=0.05, domain="deeppoly")
    verified = int(certify(trained_digits, x, y, eps=0.05, domain="deeppoly").verified.sum())
    assert (found.domain, found.images, found.verified) == ("deeppoly", 30, verified)
    assert found.accuracy == verified / 30


def test_certified_never_exceeds_adversarial_nor_adversarial_natural_accuracy(trained_digits, digits, generator):
    x, y = digits.test_x[:30], digits.test_y[:30]

    def attack(model, images, labels, *, generator):
        return pgd(model, images, labels, eps=0.05, alpha=0.01, steps=10, generator=generator)

    certified = certified_accuracy(trained_digits, x, y, eps=0.05, domain="deeppoly").accuracy
    adversarial = adversarial_accuracy(trained_digits, x, y, attack=attack, generator=generator)
    assert 0 < certified <= adversarial <= natural_accuracy(trained_digits, x, y)
