"""The paper's network and its normalisation."""

import pytest
import torch

from softadv.data import KNOWN
from softadv.errors import SoftadvError
from softadv.models import IMAGE_SHAPES, Normalize, conv_small, count_neurons


@pytest.mark.parametrize(("dataset", "neurons"), [("mnist", 3614), ("cifar10", 4862)])
@pytest.mark.parametrize("normalize", [False, True])
def test_neurons_are_those_of_table_1(dataset, neurons, normalize):
    assert count_neurons(conv_small(dataset, normalize=normalize), IMAGE_SHAPES[dataset]) == neurons


@pytest.mark.parametrize("dataset", IMAGE_SHAPES)
def test_a_score_for_each_of_ten_classes(dataset):
    assert conv_small(dataset)(torch.zeros(2, *IMAGE_SHAPES[dataset])).shape == (2, 10)


def test_the_seed_decides_the_weights():
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in conv_small("digits", seed=seed).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_a_seeded_model_leaves_the_global_random_numbers_as_they_were():
    before = torch.get_rng_state()
    conv_small("digits", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_a_seed_draws_from_the_global_random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = conv_small("digits")
    seeded = conv_small("digits", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), seeded.parameters(), strict=True))


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    x = torch.rand(2, 3, 4, 4)
    layer = Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    expected = torch.stack([(x[:, 0] - 0.1) / 0.5, x[:, 1] - 0.2, (x[:, 2] - 0.3) / 2], 1)
    torch.testing.assert_close(layer(x), expected)
    assert not list(layer.parameters())


def test_the_statistics_of_the_digits_are_theirs(digits):
    (mean,), (std,) = KNOWN["digits"].mean, KNOWN["digits"].std
    assert float(digits.train_x.mean()) == pytest.approx(mean, abs=5e-5)
    assert float(digits.train_x.std()) == pytest.approx(std, abs=5e-5)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.1,), (0.0,)), ((0.1,), (-1.0,)), ((0.1, 0.2), (1.0,)), ((0.1,), (float("nan"),))]
)
def test_normalize_needs_a_positive_deviation_for_each_mean(mean, std):
    with pytest.raises(SoftadvError, match="Normalize"):
        Normalize(mean, std)


def test_an_unknown_dataset_is_named_beside_the_known_ones():
    with pytest.raises(SoftadvError, match=r"'svhn'.*digits, mnist, cifar10"):
        conv_small("svhn")
