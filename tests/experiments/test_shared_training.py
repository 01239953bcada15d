"""Natural training does not depend on the radius: a grid does it once, and evaluates the weights at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from softadv.experiments.run_folder import CHECKPOINT, RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import read_entries
from softadv.experiments.shared_training import trained_by, trains_alike
from softadv.experiments.spec import Grid, parse_grid
from softadv.experiments.trial import run_trial
from tests.experiments.test_grid import prepared, silent

TWO_RADII = """
name = "radii"
methods = ["natural", "adversarial"]
seeds = [0]

[defaults]
dataset = "digits"
alpha = 0.01
steps = 2
epochs = 2
batch_size = 32
train_images = 64
test_images = 32
autoattack_images = 8

[[setting]]
setting = "near"
eps = 0.02

[[setting]]
setting = "far"
eps = 0.2
"""
NEAR, FAR = "near-natural-seed0", "far-natural-seed0"


@pytest.fixture
def grid() -> Grid:
    return parse_grid(TWO_RADII, source="radii")


def test_the_second_radius_is_evaluated_with_the_weights_of_the_first(grid: Grid, tmp_path: Path) -> None:
    """Every figure is that of a training of its own, but for the attacks after epochs before the last."""
    ready = prepared(grid, tmp_path / "radii")
    trial = next(trial for trial in grid.trials if trial.name == FAR)
    alone = run_trial(
        trial, run=RunFolder(tmp_path / "alone"), data=ready.datasets[trial], report=lambda *_, **__: None
    )
    assert set(run_grid(ready, report=silent).finished) == {trial.name for trial in grid.trials}
    _, epochs, result = RunFolder(ready.folder / FAR).read()
    own = RunFolder(tmp_path / "alone").metrics()
    assert result is not None
    assert result.weights_sha256 == alone.weights_sha256
    assert result.adversarial_accuracy == alone.adversarial_accuracy
    assert result.autoattack is not None
    assert alone.autoattack is not None
    assert result.autoattack.correct == alone.autoattack.correct
    assert [epoch.trained_by for epoch in epochs] == [NEAR, NEAR]
    assert [epoch.natural_accuracy for epoch in epochs] == [epoch.natural_accuracy for epoch in own]
    assert [epoch.adversarial_accuracy for epoch in epochs] == [None, own[-1].adversarial_accuracy]
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in own]
    assert {entry.state for entry in read_entries(ready.folder)} == {"finished"}
    # A method that attacks is trained at each radius.
    assert [epoch.trained_by for epoch in RunFolder(ready.folder / "far-adversarial-seed0").metrics()] == [None, None]


def test_a_training_that_has_begun_goes_on_by_itself(grid: Grid, tmp_path: Path) -> None:
    ready = prepared(grid, tmp_path / "radii")
    run_grid(ready, report=silent)
    far = ready.folder / FAR
    trial = next(trial for trial in grid.trials if trial.name == FAR)
    for path in far.iterdir():
        path.unlink()
    run_trial(trial, run=RunFolder(far), data=ready.datasets[trial], report=lambda *_, **__: None)
    (far / "result.json").unlink()
    assert (far / CHECKPOINT).exists()
    run_grid(ready, report=silent)
    assert [epoch.trained_by for epoch in RunFolder(far).metrics()] == [None, None]


def test_where_the_first_fails_the_second_trains(grid: Grid, tmp_path: Path) -> None:
    ready = prepared(grid, tmp_path / "radii")
    (ready.folder / NEAR / "metrics.json").write_text("{")
    (ready.folder / NEAR / CHECKPOINT).write_text("no checkpoint")
    ran = run_grid(ready, report=silent)
    assert NEAR in ran.refused
    assert FAR in ran.finished
    assert [epoch.trained_by for epoch in RunFolder(ready.folder / FAR).metrics()] == [None, None]


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"eps": 0.3, "alpha": 0.02, "steps": 9, "setting": "other"}, True),
        ({"certified_images": 5, "domain": "box", "certified_domains": ("box",)}, True),
        ({"seed": 1}, False),
        ({"epochs": 3}, False),
        ({"lr": 0.1}, False),
        ({"model": "mlp"}, False),
        ({"tf32": True}, False),
        ({"normalize": True}, False),
        ({"validation_images": 8}, False),
        ({"method": "adversarial"}, False),
    ],
    ids=str,
)
def test_what_decides_whether_a_training_is_shared(grid: Grid, change: dict[str, object], shared: bool) -> None:
    first = next(trial for trial in grid.trials if trial.name == NEAR)
    other = replace(first, **change)  # type: ignore[arg-type]
    assert trained_by(other, [first, other]) == (first if shared else None)
    assert trained_by(first, [first, other]) is None
    assert (trains_alike(other) == trains_alike(first)) is shared
