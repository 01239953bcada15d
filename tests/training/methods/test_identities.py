"""Methods that are another one at the end of their range, bit for bit; and not before."""

from __future__ import annotations

import pytest
from torch import Tensor

from softadv.data import Dataset
from softadv.training.methods import (
    Adversarial,
    Confident,
    Fat,
    Inverted,
    Method,
    Natural,
    Random,
    Soft,
    Trades,
)
from tests.training.methods.runs import CONFIG, STEPS, both_engines, engine, equal, trained


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.train_x[:80], digits.train_y[:80]  # the last batch is smaller


@both_engines
@pytest.mark.parametrize(
    ("method", "same", "not_yet"),
    [
        (Random(share=1.0), Adversarial(), Random(share=0.5)),
        (Random(counts=(80, 80)), Adversarial(), Random(counts=(80, 79))),
        (Random(share=0.0), Natural(), Random(share=0.5)),
        (Confident(share=1.0), Adversarial(), Confident(share=0.5)),
        (Fat(tau=STEPS), Adversarial(), Fat(tau=0)),
        (Trades(beta=0.0), Natural(), Trades(beta=1.0)),
        (Adversarial(train_eps=CONFIG.eps), Adversarial(), Adversarial(train_eps=CONFIG.eps / 2)),
    ],
)
def test_at_the_end_of_its_range_a_method_is_another_one(
    images: tuple[Tensor, Tensor], method: Method, same: Method, not_yet: Method, kernels: bool
) -> None:
    with engine(kernels):
        found, expected, other = (trained(one, images) for one in (method, same, not_yet))
    assert equal(found[0], expected[0])
    assert [(e.loss, e.attacked) for e in found[1]] == [(e.loss, e.attacked) for e in expected[1]]
    assert not equal(other[0], expected[0])


class OwnLoss(Trades):
    """TRADES that keeps its own loss, whatever beta is."""

    @property
    def loss(self):  # type: ignore[no-untyped-def,override]
        return self._loss


def test_trades_without_its_second_term_is_natural_by_its_own_loss_too(images: tuple[Tensor, Tensor]) -> None:
    with engine(False):
        assert equal(trained(OwnLoss(beta=0.0), images)[0], trained(Natural(), images)[0])


@both_engines
def test_where_nothing_is_verified_soft_is_adversarial_and_inverted_natural(
    images: tuple[Tensor, Tensor], kernels: bool
) -> None:
    """Claim 6 of the paper."""
    with engine(kernels):
        for method, same in ((Soft(), Adversarial()), (Inverted(), Natural())):
            found, expected = (trained(one, images, eps=0.5)[0] for one in (method, same))
            assert found.partition is not None
            assert not found.partition.verified.any()
            assert equal(found, expected)
