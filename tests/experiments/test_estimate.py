"""About how long trials take, by stored costs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from softadv._progress import CERTIFICATION_COST
from softadv.data import Dataset
from softadv.experiments.estimate import estimate_time
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE, read_reference
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial, load_grid
from softadv.experiments.trial import expected_work
from softadv.training.records import EpochMetrics
from tests.cli.command import run


def test_costs_are_those_of_the_reference(tmp_path: Path) -> None:
    grid = load_grid("smoke")
    records = read_reference(expected_folder() / REFERENCE, grid="smoke")
    whole = estimate_time(grid.trials, folder=tmp_path, records=records)
    assert (whole.left, whole.known) == (6, 6)
    assert whole.seconds > whole.longest > 0
    assert whole.spread(1) == whole.seconds
    assert whole.spread(1000) == whole.longest
    assert whole.machines
    half = estimate_time([replace(trial, epochs=3) for trial in grid.trials], folder=tmp_path, records=records)
    assert (half.left, half.known, half.seconds) == (6, 0, 0)  # another training: nothing is known of it


def test_costs_of_the_folder_itself_come_first_and_what_is_finished_costs_nothing(tiny: Path) -> None:
    trials = [run.trial() for run in map(RunFolder, sorted(tiny.glob("digits-*")))]
    assert estimate_time(trials, folder=tiny, records=[]).left == 0
    others = [replace(trial, seed=1) for trial in trials]
    found = estimate_time([*trials, *others], folder=tiny, records=[])
    assert (found.left, found.known) == (3, 3)
    again = estimate_time([*trials, *others], folder=tiny, records=[], anew={trials[0].name})
    assert again.left == 4
    assert again.seconds > found.seconds


def test_a_slow_machines_reference_is_adapted_to_the_pace_of_epochs_here(tmp_path: Path) -> None:
    """Two epochs of a trial that has not finished say how fast this machine is, for the others as well."""
    trials = load_grid("smoke").select(seeds=1).trials
    records = [r for r in read_reference(expected_folder() / REFERENCE, grid="smoke") if r.trial in trials]
    whole = estimate_time(trials, folder=tmp_path, records=records)
    assert not whole.paced
    begun, *_ = records
    run = RunFolder(tmp_path / begun.trial.name)
    run.begin(begun.trial)
    spent = [field.name for field in fields(EpochMetrics) if field.name.endswith("_seconds")]
    run.write_metrics([replace(e, **{name: getattr(e, name) / 10 for name in spent}) for e in begun.epochs[:2]])
    found = estimate_time(trials, folder=tmp_path, records=records)
    assert (found.left, found.known, found.paced) == (3, 3, True)
    assert found.seconds == pytest.approx((whole.seconds - sum(epoch.seconds for epoch in begun.epochs[:2])) / 10)


def test_natural_training_is_paid_for_once(tmp_path: Path) -> None:
    """A second radius costs what its last evaluation does."""
    records = read_reference(expected_folder() / REFERENCE, grid="paper-short")
    grid = load_grid("paper-short").select(methods=["natural"], seeds=1)
    one, two = (estimate_time(grid.trials[:count], folder=tmp_path, records=records) for count in (1, 2))
    alone = estimate_time(grid.trials[1:], folder=tmp_path, records=records)
    assert (one.left, two.left, alone.left) == (1, 2, 1)
    assert one.seconds < two.seconds < one.seconds + alone.seconds


def test_a_dry_run_says_how_many_and_how_long_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert run("reproduce", "smoke", "--dry-run", "--jobs", "2", "--out", str(out), "--device", "cpu") == 0
    assert not out.exists()
    assert capsys.readouterr().out.startswith("6 trials to run: about ")
    assert run("reproduce", "smoke", "--dry-run", "--epochs", "2", "--out", str(out), "--device", "cpu") == 0
    assert capsys.readouterr().out == "6 trials to run; no costs of such trials are stored\n"


def test_the_work_of_epochs_that_attack_nothing_is_that_of_natural_training(digits: Dataset) -> None:
    data = digits.first(train=64, test=32)

    def work(method: str, natural_epochs: int) -> float:
        trial = Trial(
            setting="a", dataset="digits", method=method, seed=0, eps=0.1, alpha=0.01, steps=7, epochs=5,
            natural_epochs=natural_epochs,
        )  # fmt: skip
        return expected_work(trial, data)

    assert work("adversarial", 0) - work("adversarial", 3) == pytest.approx(3 * 64 * 7)
    assert work("soft", 4) - work("adversarial", 4) == pytest.approx(64 * CERTIFICATION_COST["deeppoly"])
    assert work("natural", 0) == work("adversarial", 0) - 5 * 64 * 7


def test_what_is_for_training_is_refused_for_stored_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--shard", "1/2"], ["--dry-run"]):
        assert run("reproduce", "smoke", "--from-weights", "--out", str(tmp_path / "r"), *option) == 2
        assert "not for --from-weights" in capsys.readouterr().err
    assert run("reproduce", "smoke", "--jobs", "2", "--ray", "local") == 2
    assert "only one of them" in capsys.readouterr().err


def test_a_part_ends_without_a_page(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tiny.parent / "tiny.toml"
    words = ["reproduce", str(grid), "--out", str(tmp_path), "--device", "cpu", "--shard"]
    for part in ("1/2", "2/2"):
        assert run(*words, part) == 0
    told = capsys.readouterr().out
    assert f"part 1/2: 2 finished; when all parts are done: softadv compare {tmp_path}" in told
    assert not (tmp_path / "report").exists()
    assert run("compare", str(tmp_path)) == 0
