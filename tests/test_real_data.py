"""The real MNIST and CIFAR-10, where they are."""

import pytest
import torch

from softadv.data import KNOWN, load_dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.models import conv_small
from softadv.training.evaluation import natural_accuracy
from softadv.training.loop import train_epoch
from softadv.training.partition import partition
from softadv.training.state import new_state


@pytest.fixture(scope="module")
def mnist(real_data):
    return load_dataset("mnist", real_data)


@pytest.fixture(scope="module")
def mnist_after_one_epoch(mnist):
    """The paper's network after one epoch on the clean images."""
    trial = Trial(setting="mnist", dataset="mnist", method="natural", seed=0, eps=0.1, alpha=0.01, steps=20, epochs=1)
    config = train_config(trial)
    state = new_state(conv_small("mnist", seed=0), config)
    train_epoch(state, mnist.train_x, mnist.train_y, config=config, epoch=1, on_progress=lambda _what, _done: None)
    return state.model


def test_mnist_is_whole(mnist):
    assert mnist.train_x.shape == (60_000, 1, 28, 28)
    assert mnist.test_x.shape == (10_000, 1, 28, 28)
    assert mnist.train_y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert_statistics("mnist", mnist.train_x)


def test_cifar10_is_whole(real_data):
    cifar10 = load_dataset("cifar10", real_data)
    assert cifar10.train_x.shape == (50_000, 3, 32, 32)
    assert cifar10.test_x.shape == (10_000, 3, 32, 32)
    assert cifar10.train_y.bincount().tolist() == [5000] * 10
    assert cifar10.test_y.bincount().tolist() == [1000] * 10
    assert_statistics("cifar10", cifar10.train_x)


def assert_statistics(name: str, x: torch.Tensor) -> None:
    mean, std = KNOWN[name].mean, KNOWN[name].std
    assert x.mean((0, 2, 3)).tolist() == pytest.approx(mean, abs=1e-4)
    assert x.std((0, 2, 3)).tolist() == pytest.approx(std, abs=1e-4)


def test_one_epoch_on_mnist_learns_it(mnist, mnist_after_one_epoch):
    assert natural_accuracy(mnist_after_one_epoch, mnist.test_x, mnist.test_y) >= 0.95


def test_the_partition_of_mnist_has_each_image_once(mnist, mnist_after_one_epoch):
    x, y = mnist.train_x[:2000], mnist.train_y[:2000]
    found = partition(mnist_after_one_epoch, x, y, eps=0.01)
    counts = [int(part.sum()) for part in (found.misclassified, found.unverified, found.verified)]
    assert sum(counts) == 2000
    assert all(counts)
