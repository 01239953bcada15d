"""A grid: all of its trials, whatever happens to one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softadv import grid as grids
from softadv.entries import read_entries
from softadv.errors import SoftadvError
from softadv.grid import Prepared, grid_command, grid_name, prepare, run_grid
from softadv.runs import RunFolder
from softadv.spec import Grid, parse_grid

TINY = """
name = "tiny"
methods = ["natural", "adversarial", "soft"]
seeds = [0]

[[setting]]
setting = "digits-tiny"
dataset = "digits"
eps = 0.02
alpha = 0.01
steps = 2
epochs = 1
batch_size = 32
train_images = 64
test_images = 32
"""


@pytest.fixture
def tiny() -> Grid:
    return parse_grid(TINY, source="tiny")


def prepared(grid: Grid, folder: Path, *, fresh: bool = False) -> Prepared:
    return prepare(grid, folder=folder, data_root=None, device=torch.device("cpu"), fresh=fresh, command="again")


def test_every_trial_has_its_result_and_its_work_is_reported(tiny: Grid, tmp_path: Path) -> None:
    ready = prepared(tiny, tmp_path / "tiny")
    done: list[float] = []
    ran = run_grid(ready, report=lambda trial, what, work, before=False: done.append(work))
    assert ran.finished == tuple(trial.name for trial in tiny.trials)
    assert [(entry.trial, entry.state) for entry in read_entries(tmp_path / "tiny")] == [
        (trial, "finished") for trial in tiny.trials
    ]
    assert sum(done) == ready.work
    assert (grid_name(tmp_path / "tiny"), grid_command(tmp_path / "tiny")) == ("tiny", "again")


def test_a_failed_trial_leaves_its_traceback_and_loses_no_other(
    tiny: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(tiny, tmp_path)
    run_trial = grids.run_trial

    def failing(trial, **rest):
        if trial.method == "adversarial":
            raise RuntimeError("the machine hiccupped")
        return run_trial(trial, **rest)

    monkeypatch.setattr(grids, "run_trial", failing)
    ran = run_grid(ready, report=lambda trial, what, work, before=False: None)
    assert ran.failed == ("digits-tiny-adversarial-seed0",)
    assert len(ran.finished) == 2
    traceback = tmp_path / "digits-tiny-adversarial-seed0" / "traceback.txt"
    assert "the machine hiccupped" in traceback.read_text()
    # The next run takes the failed trial up again, and the traceback goes.
    monkeypatch.undo()
    again = run_grid(prepared(tiny, tmp_path), report=lambda trial, what, work, before=False: None)
    assert again.failed == ()
    assert not traceback.exists()


def test_another_run_in_the_folder_is_refused_before_any_work(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny, tmp_path)
    with pytest.raises(SoftadvError, match="holds a run with epochs = 1, not 2; use --fresh or another folder"):
        prepared(tiny.select(epochs=2), tmp_path)
    prepared(tiny.select(epochs=2), tmp_path, fresh=True)
    assert RunFolder(tmp_path / tiny.trials[0].name).trial().epochs == 2


def test_fresh_deletes_no_folder_that_softadv_did_not_make(tiny: Grid, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SoftadvError, match="not a folder that softadv made"):
        prepared(tiny, tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_too_many_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    grid = parse_grid(TINY.replace("train_images = 64", "train_images = 2000"), source="tiny")
    with pytest.raises(SoftadvError, match="asked for 2000 train images, there are 1437"):
        prepared(grid, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_two_grids_do_not_share_a_folder(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny, tmp_path)
    other = parse_grid(TINY.replace('"tiny"', '"other"'), source="other")
    with pytest.raises(SoftadvError, match="holds the grid tiny, not other"):
        prepared(other, tmp_path)


def test_bad_input_to_one_trial_loses_no_other(tiny: Grid, tmp_path: Path) -> None:
    ready = prepared(tiny, tmp_path)
    damaged = tmp_path / tiny.trials[0].name / "checkpoint.safetensors"
    damaged.write_text("nonsense")
    ran = run_grid(ready, report=lambda trial, what, work, before=False: None)
    assert ran.finished == tuple(trial.name for trial in tiny.trials[1:])
    (message,) = ran.refused.values()
    assert str(damaged) in message


def test_a_refused_command_changes_nothing(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny.select(methods=["soft"]), tmp_path)
    with pytest.raises(SoftadvError, match="epochs = 1, not 2"):
        prepared(tiny.select(epochs=2), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["digits-tiny-soft-seed0"]
