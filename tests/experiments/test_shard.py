"""Parts of a grid: each trial in one, and several at once in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softadv._locks import held
from softadv.errors import SoftadvError
from softadv.experiments.executors.choose import Chosen
from softadv.experiments.grid import Prepared, prepare
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import read_entries
from softadv.experiments.shard import Shard, parse_shard
from softadv.experiments.shared_training import trained_by
from softadv.experiments.spec import Grid, load_grid, parse_grid
from tests.experiments.test_grid import TINY, silent


def part_of(grid: Grid, folder: Path, shard: str | None, *, fresh: bool = False) -> Prepared:
    return prepare(
        grid, folder=folder, data_root=None, device=torch.device("cpu"), command="again", fresh=fresh,
        shard=None if shard is None else parse_shard(shard),
    )  # fmt: skip


@pytest.fixture
def grid() -> Grid:
    return parse_grid(TINY, source="tiny")


@pytest.mark.parametrize("parts", [1, 2, 7, 100])
def test_every_trial_is_in_one_part_and_replays_one_of_its_own_part(parts: int) -> None:
    trials = load_grid("controls").trials
    dealt = [Shard(number, parts).of(trials) for number in range(1, parts + 1)]
    assert sorted(trial.name for part in dealt for trial in part) == sorted(trial.name for trial in trials)
    for part in dealt:
        for trial in part:
            if trial.method in ("random", "confident"):
                assert replace(trial, method="soft") in part
    if parts == 2:  # the order in which a grid names its trials does not matter
        assert set(Shard(1, 2).of(trials[::-1])) == set(dealt[0])


@pytest.mark.parametrize("parts", [2, 7])
def test_trials_that_share_a_training_are_in_one_part_whatever_their_order(parts: int) -> None:
    trials = load_grid("paper").trials
    for number in range(1, parts + 1):
        part = Shard(number, parts).of(trials)
        assert set(part) == set(Shard(number, parts).of(trials[::-1]))
        for trial in trials:
            first = trained_by(trial, trials)
            assert first is None or (trial in part) == (first in part)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3", "1 /2", "1/9999999"])
def test_what_is_no_part_is_one_line(text: str) -> None:
    with pytest.raises(SoftadvError, match="--shard"):
        parse_shard(text)


def test_parts_in_one_folder_add_up_to_the_grid(grid: Grid, tmp_path: Path) -> None:
    first, second = part_of(grid, tmp_path, "1/2"), part_of(grid, tmp_path, "2/2")
    assert len(first.trials) + len(second.trials) == len(grid.trials)
    with held(second.lock, what=tmp_path):  # as while the second runs
        assert run_grid(first, report=silent).finished == tuple(trial.name for trial in first.trials)
        with pytest.raises(SoftadvError, match="in use by process"):
            part_of(grid, tmp_path, None)
        with pytest.raises(SoftadvError, match="in use by process"):
            run_grid(second, report=silent)
        kept = part_of(grid, tmp_path, "1/2", fresh=True)
        assert [entry.state for entry in read_entries(tmp_path)] == ["unfinished"] * 3
    assert run_grid(second, report=silent).refused == {}
    assert run_grid(kept, report=silent).refused == {}
    assert [entry.state for entry in read_entries(tmp_path)] == ["finished"] * 3
    assert list(tmp_path.rglob(".lock*")) == []


def test_a_lock_that_a_killed_part_left_blocks_nobody(grid: Grid, tmp_path: Path) -> None:
    part_of(grid, tmp_path, "1/2")
    (tmp_path / ".lock-1-of-2").write_text("1\nelsewhere\n")
    assert part_of(grid, tmp_path, None, fresh=True).left == ()
    assert list(tmp_path.rglob(".lock*")) == []


def test_a_part_waits_while_another_sets_up_its_folders(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softadv.experiments.grid._PATIENCE", 0.2)
    with held(tmp_path / ".lock", what=tmp_path), pytest.raises(SoftadvError, match="in use"):
        part_of(grid, tmp_path, "1/2")


def test_here_an_executor_is_none() -> None:
    with Chosen(threads=2).opened(None, lambda _: pytest.fail("asked for images")) as (executor, threads):
        assert (executor, threads) == (None, 2)
