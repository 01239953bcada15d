"""Whom the controls attack."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.evaluation import attack_images, predictions
from softadv.training.methods import Confident, Inverted, Method, Random, Soft, Survivors
from softadv.training.partition import partition
from softadv.training.state import new_state
from tests.networks import Dimmed
from tests.training.methods.runs import CONFIG, CPU, trained, whom


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    """Images of which some are misclassified: a few labels are wrong."""
    x, y = digits.train_x[:60], digits.train_y[:60].clone()
    y[:5] = (y[:5] + 1) % 10
    return x, y


@pytest.mark.parametrize("domain", ["deeppoly", "box"])
def test_inverted_attacks_exactly_the_verified_and_soft_all_others(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor], domain: str
) -> None:
    eps = 0.02 if domain == "deeppoly" else 0.005
    expected = partition(trained_digits, *images, eps=eps, domain=domain)
    assert 0 < int(expected.verified.sum()) < 60
    assert torch.equal(whom(Inverted(domain=domain), trained_digits, images, eps=eps), expected.verified)
    assert torch.equal(whom(Soft(domain=domain), trained_digits, images, eps=eps), ~expected.verified)


def test_confident_spares_the_largest_logit_margins(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor]
) -> None:
    logits = trained_digits(images[0]).detach()
    margins = torch.stack(
        [
            row[label] - max(row[j] for j in range(10) if j != label)
            for row, label in zip(logits, images[1], strict=True)
        ]
    )
    attacked = whom(Confident(counts=(23,)), trained_digits, images)
    assert int(attacked.sum()) == 23
    assert margins[attacked].max() < margins[~attacked].min()
    assert (margins < 0).any()  # the misclassified are attacked first
    assert attacked[margins < 0].all()


def test_confident_changes_no_image_where_the_model_works_in_place(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor]
) -> None:
    before = images[0].clone()
    whom(Confident(counts=(23,)), nn.Sequential(Dimmed(), *trained_digits), images)
    assert torch.equal(images[0], before)


def test_of_equal_margins_the_later_images_are_spared(images: tuple[Tensor, Tensor]) -> None:
    same = images[0][:1].expand(10, -1, -1, -1).contiguous(), images[1][:1].expand(10).contiguous()
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))  # of which no rounding depends on the place in the batch
    nn.init.zeros_(model[1].weight)
    assert whom(Confident(counts=(4,)), model, same).tolist() == [True] * 4 + [False] * 6


def test_survivors_spares_what_the_attack_does_not_break(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor]
) -> None:
    attacked = whom(Survivors(), trained_digits, images, epoch=2, eps=0.1)
    found = attack_images(
        trained_digits, *images, attack=partial(CONFIG.attack, eps=0.1),
        generator=CONFIG.generator(2, "method attack", CPU),
    )  # fmt: skip
    assert torch.equal(attacked, predictions(trained_digits, found) != images[1])
    right = predictions(trained_digits, images[0]) == images[1]
    assert (attacked & right).any()  # broken by the attack, and not before
    assert not attacked.all()


def test_random_draws_as_many_as_it_is_told_anew_in_every_epoch(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor]
) -> None:
    method = Random(counts=(20, 20, 7))
    masks = [whom(method, trained_digits, images, epoch=epoch) for epoch in (1, 2, 3)]
    assert [int(mask.sum()) for mask in masks] == [20, 20, 7]
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], whom(method, trained_digits, images, epoch=1))
    assert not torch.equal(masks[0], whom(method, trained_digits, images, epoch=1, seed=4))
    assert int(whom(Random(share=0.25), trained_digits, images).sum()) == 15


@pytest.mark.parametrize("kind", [Random, Confident])
def test_how_many_must_be_known(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor], kind: type[Random | Confident]
) -> None:
    with pytest.raises(SoftadvError, match=r"^counts: .* in epoch 1 is not known \(given: none\)"):
        whom(kind(), trained_digits, images)
    stopped = r"those of a training that stopped after 2 epochs"
    with pytest.raises(SoftadvError, match=rf"^counts: .* in epoch 3 is not known \(given: {stopped}\)"):
        whom(kind(counts=(1, 2)), trained_digits, images, epoch=3)
    with pytest.raises(SoftadvError, match=r"^counts: 61 images to attack in epoch 1, of 60$"):
        whom(kind(counts=(61,)), trained_digits, images)
    with pytest.raises(SoftadvError, match=r"^counts, share: only one"):
        kind(counts=(1,), share=0.5)
    with pytest.raises(SoftadvError, match=r"^counts: must be at least 0, got -1$"):
        kind(counts=(2, -1))
    with pytest.raises(SoftadvError, match=r"^share: must be in \[0, 1\], got 1.5$"):
        kind(share=1.5)


@pytest.mark.parametrize("method", [Soft(split_every=2), Inverted(split_every=2)])
def test_splits_are_counted_from_the_methods_own_first_epoch(
    trained_digits: nn.Sequential, images: tuple[Tensor, Tensor], method: Method
) -> None:
    config = replace(CONFIG, method=method, natural_epochs=1, eps=0.02)
    state = new_state(trained_digits, config)
    splits = []
    for epoch in (1, 2, 3, 4):
        attacked = whom(method, trained_digits, images, epoch=epoch, state=state, natural_epochs=1, eps=0.02)
        splits.append(state.partition)
        if epoch == 1:
            assert not attacked.any()
    first, second, third, fourth = splits
    assert first is None
    assert second is third is not None
    assert fourth is not third
    assert [config.splits_before(epoch) for epoch in (1, 2, 3, 4)] == [False, True, False, True]


class Answers(Method):
    """A method that says whatever it is told to."""

    title, color = "Answers", "#000000"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def attacked(self, epoch: object) -> Tensor:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (torch.ones(60), r"torch\.float32 of shape \(60,\)"),
        (torch.ones(59, dtype=torch.bool), r"torch\.bool of shape \(59,\)"),
        (torch.ones(60, 1, dtype=torch.bool), r"torch\.bool of shape \(60, 1\)"),
        (torch.arange(60), r"torch\.int64 of shape \(60,\)"),
        ([True] * 60, "list"),
        (None, "NoneType"),
    ],
)
def test_a_method_that_returns_no_mask_is_named_in_one_line(
    images: tuple[Tensor, Tensor], answer: object, got: str
) -> None:
    expected = rf"^method Answers: attacked\(\) must return a bool tensor \(60,\), got {got}$"
    with pytest.raises(SoftadvError, match=expected):
        trained(Answers(answer), images)


class OwnLoss(Answers):
    """A method whose loss is whatever it is told to be."""

    def __init__(self, answer: object) -> None:
        super().__init__(torch.zeros(60, dtype=torch.bool))
        self.loss = lambda model, x, x_adv, y: answer if answer != "each" else model(x_adv)[:, 0]


@pytest.mark.parametrize(
    ("answer", "got"),
    [(0.5, "float"), (None, "NoneType"), ("each", r"one of shape \(32,\)"), (torch.tensor(1.0), r"one of shape \(\)")],
)
def test_a_loss_that_is_none_is_named_in_one_line(images: tuple[Tensor, Tensor], answer: object, got: str) -> None:
    expected = rf"^method OwnLoss: loss\(\) must return a tensor \(\) that depends on the model, got {got}$"
    with pytest.raises(SoftadvError, match=expected):
        trained(OwnLoss(answer), images)
