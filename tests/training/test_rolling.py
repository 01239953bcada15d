"""The rolling split: a share of the training images is certified before each epoch, those whose verdicts are oldest."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softadv._io import read_tensors
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial, parse_grid
from softadv.experiments.trial import TrialRun, expected_work, run_trial
from softadv.models import conv_small
from softadv.report.costs import certified_images
from softadv.training.loop import train_epoch
from softadv.training.methods import Soft
from softadv.training.partition import Partition, partition
from softadv.training.state import new_state
from tests.training.methods.runs import CONFIG, equal, quiet, trained

IMAGES = 90
SHARE = 1 / 3
ROLLING = Soft(split="rolling", split_share=SHARE)
EASY: dict[str, Any] = {"eps": 0.02, "epochs": 6}  # a radius at which some images are verified, and not all

TRIAL = Trial(
    setting="rolling", dataset="digits", method="soft", seed=2, eps=0.02, alpha=0.01, steps=2, epochs=5, batch_size=20,
    split="rolling", split_share=0.25, natural_epochs=1, train_images=IMAGES, test_images=20, certified_images=5,
)  # fmt: skip


def told(what: str, work: float, *, before: bool = False, note: str = "") -> None:
    """Tells nobody."""


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.train_x[:IMAGES], digits.train_y[:IMAGES]


@pytest.fixture(scope="module")
def data(digits: Dataset) -> Dataset:
    return digits.first(train=IMAGES, test=20)


def parts(split: Partition) -> Tensor:
    return torch.stack([split.misclassified, split.unverified, split.verified])


def test_the_oldest_verdicts_are_made_anew_and_the_others_stay(images: tuple[Tensor, Tensor]) -> None:
    config = replace(CONFIG, method=ROLLING, **EASY)
    state = new_state(conv_small("digits", seed=0), config)
    changed = 0
    for epoch in range(1, 7):
        now = partition(state.model, *images, eps=config.eps)  # as a full split would be
        last = state.partition
        train_epoch(state, *images, config=config, epoch=epoch, on_progress=quiet)
        split = state.partition
        assert split is not None
        assert split.made_in is not None
        new = split.made_in == epoch
        assert torch.equal(parts(split)[:, new], parts(now)[:, new])
        if last is None:
            assert new.all()
            continue
        assert last.made_in is not None
        assert int(new.sum()) == IMAGES // 3
        assert torch.equal(parts(split)[:, ~new], parts(last)[:, ~new])
        assert last.made_in[new].max() <= last.made_in[~new].min()  # nobody who kept his was older
        assert epoch - int(split.made_in.min()) <= 3
        changed += int((parts(split) != parts(now)).any(0).sum())
    assert changed  # a full split would have been another one


def test_equally_old_verdicts_are_chosen_at_random(images: tuple[Tensor, Tensor]) -> None:
    state, _ = trained(ROLLING, images, **EASY | {"epochs": 2})
    assert state.partition is not None
    assert state.partition.made_in is not None
    new = state.partition.made_in == 2
    assert not new[: IMAGES // 3].all()  # the first images would be of few classes, were the data sorted


def test_a_share_of_all_is_the_full_split(images: tuple[Tensor, Tensor]) -> None:
    full, whole = (trained(method, images, **EASY)[0] for method in (Soft(), Soft(split="rolling", split_share=1.0)))
    assert equal(full, whole)
    assert not equal(full, trained(ROLLING, images, **EASY)[0])


def kept(run: RunFolder) -> list[dict[str, object]]:
    records = [dataclasses.asdict(epoch) for epoch in run.metrics()]
    return [{key: value for key, value in record.items() if not key.endswith("_seconds")} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> RunFolder:
    """The folder of the trial, run without interruption."""
    run = RunFolder(tmp_path_factory.mktemp("rolling") / "whole")
    run_trial(TRIAL, run=run, data=data, report=told)
    return run


def test_an_interrupted_trial_ends_with_the_same_bits(whole: RunFolder, data: Dataset, tmp_path: Path) -> None:
    cut = RunFolder(tmp_path / "cut")
    for _ in range(4):  # each goes on where the last one stopped
        with cut.begun(TRIAL):
            TrialRun.resume(TRIAL, run=cut, data=data, report=told).train_epoch()
    run_trial(TRIAL, run=cut, data=data, report=told)
    one, other = (read_tensors(run.path / "checkpoint.safetensors")[0] for run in (whole, cut))
    assert one.keys() == other.keys()
    assert "partition.made_in" in one
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert kept(cut) == kept(whole)


def test_the_record_says_how_many_were_certified_and_how_old_verdicts_are(whole: RunFolder) -> None:
    epochs = whole.metrics()
    fresh = IMAGES - round(0.25 * IMAGES)
    assert [epoch.stale for epoch in epochs] == [None, 0, fresh, fresh, fresh]
    assert [epoch.oldest_verdict for epoch in epochs] == [None, 0, 1, 2, 3]
    assert epochs[1].certified == IMAGES - (epochs[1].misclassified or 0)
    assert all(0 < (epoch.certified or 0) <= IMAGES - fresh for epoch in epochs[2:])
    assert certified_images(TRIAL, epochs) == [epoch.certified for epoch in epochs[1:]]


def test_the_estimate_of_the_time_left_knows_the_share(data: Dataset) -> None:
    full, natural = (expected_work(replace(TRIAL, split="full", method=name), data) for name in ("soft", "adversarial"))
    rolling = expected_work(TRIAL, data)
    # Four soft epochs: one split whole, and three of a quarter.
    assert rolling - natural == pytest.approx((full - natural) * (1 + 3 * 0.25) / 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_share": 0.0}, "split_share: must be more than 0 and at most 1, got 0"),
        ({"split_share": 1.5}, "split_share: must be more than 0 and at most 1, got 1.5"),
        ({"split": "rollin"}, "split: unknown value 'rollin', expected one of full, rolling"),
        ({"split_every": 2}, "split_every: a rolling split certifies some images before every epoch"),
        ({"eps_warmup_epochs": 1}, 'eps_warmup_epochs: needs split = "full"'),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SoftadvError, match=message):
        replace(TRIAL, **settings)
    if "eps_warmup_epochs" not in settings:
        with pytest.raises(SoftadvError, match=message):
            Soft(**{"split": "rolling"} | settings)


def test_a_share_without_a_rolling_split_is_refused() -> None:
    text = """
    name = "g"
    methods = ["soft"]
    seeds = [0]
    [[setting]]
    setting = "s"
    dataset = "digits"
    eps = 0.1
    alpha = 0.1
    steps = 1
    epochs = 1
    split_share = 0.2
    """
    with pytest.raises(SoftadvError, match='split_share: has no effect without split = "rolling"'):
        parse_grid(text, source="g.toml")
    assert parse_grid(text + 'split = "rolling"', source="g.toml").trials[0].split_share == 0.2
