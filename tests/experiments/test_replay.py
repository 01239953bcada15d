"""Controls of a grid attack as many images as the soft trial of the same setting and seed, epoch by epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE, read_reference
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.spec import Grid, Trial, load_grid, parse_grid
from softadv.experiments.train_config import attacked_counts, train_config
from softadv.training.methods import Random
from softadv.training.records import EpochMetrics
from tests.experiments.test_grid import TINY, prepared, silent

METHODS = ("soft", "random", "confident")


def grid_of(*methods: str) -> Grid:
    text = TINY.replace('["natural", "adversarial", "soft"]', str(list(methods)).replace("'", '"'))
    text = text.replace("seeds = [0]", "seeds = [0, 1]").replace("epochs = 1", "epochs = 4\nnatural_epochs = 1")
    return parse_grid(text.replace("eps = 0.02", "eps = 0.002"), source="controls")


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid with soft and its controls, finished. Shared: tests must not change it."""
    folder = tmp_path_factory.mktemp("controls")
    ran = run_grid(prepared(grid_of(*METHODS), folder), report=silent)
    assert (ran.failed, ran.refused) == ((), {})
    return folder


def metrics_of(folder: Path, trial: Trial) -> list[EpochMetrics]:
    return RunFolder(folder / trial.name).metrics()


def test_they_attack_as_many_as_the_soft_trial_did(controls: Path) -> None:
    counts = {}
    for trial in grid_of(*METHODS).trials:
        counts[trial.seed, trial.method] = [epoch.attacked for epoch in metrics_of(controls, trial)]
    for seed in (0, 1):
        soft = counts[seed, "soft"]
        assert soft[0] == 0  # a natural epoch
        assert any(0 < attacked < 64 for attacked in soft[1:])
        assert counts[seed, "random"] == counts[seed, "confident"] == soft
    assert counts[0, "soft"] != counts[1, "soft"]  # each replays its own seed's


def test_only_soft_makes_a_split_and_attacks_what_it_does_not_verify(controls: Path) -> None:
    for trial in grid_of(*METHODS).trials:
        first, *others = metrics_of(controls, trial)
        assert first.verified is None
        for epoch in others:
            assert (epoch.verified is not None) == (trial.method == "soft")
            if epoch.verified is not None:
                assert epoch.attacked == epoch.misclassified + epoch.unverified == 64 - epoch.verified


def test_one_seed_after_another_or_side_by_side_the_counts_are_the_soft_trials(tmp_path: Path) -> None:
    ran = run_grid(prepared(grid_of("soft", "random"), tmp_path), report=silent, side_by_side=True)
    assert (ran.failed, ran.refused) == ((), {})
    for trial in grid_of("random").trials:
        soft = replace(trial, method="soft")
        attacked = [[epoch.attacked for epoch in metrics_of(tmp_path, one)] for one in (trial, soft)]
        assert attacked[0] == attacked[1]


def test_without_the_soft_trial_they_are_refused_in_one_line(tmp_path: Path) -> None:
    ran = run_grid(prepared(grid_of("random"), tmp_path), report=silent)
    trial = next(trial for trial in grid_of("random").trials if trial.seed == 0)
    soft = replace(trial, method="soft").name
    message = ran.refused[trial.name]
    assert message.startswith(f"{trial.name}: attacks as many images as {soft} did, but neither {tmp_path} nor ")
    assert message.endswith("run it first")
    assert "\n" not in message


def test_named_before_the_soft_trial_they_wait_for_it(tmp_path: Path) -> None:
    grid = grid_of("random", "soft")
    begun: list[str] = []

    def report(trial: str, what: str, work: float, **_: object) -> None:
        if trial not in begun:
            begun.append(trial)

    assert run_grid(prepared(grid, tmp_path), report=report).finished == tuple(trial.name for trial in grid.trials)
    for trial in grid.trials:
        if trial.method == "random":
            assert begun.index(replace(trial, method="soft").name) < begun.index(trial.name)


def test_a_soft_trial_of_another_setting_is_not_replayed(controls: Path) -> None:
    trial = next(trial for trial in grid_of("random").trials if trial.seed == 0)
    config = train_config(trial, beside=controls)
    assert isinstance(config.method, Random)
    soft = metrics_of(controls, replace(trial, method="soft"))
    assert config.method.counts == tuple(epoch.attacked for epoch in soft)
    with pytest.raises(SoftadvError, match="run it first"):
        train_config(replace(trial, batch_size=16), beside=controls)
    share = train_config(replace(trial, method="random(share=0.5)", batch_size=16), beside=controls)
    assert share.method == Random(share=0.5)


def test_old_records_of_soft_training_attacked_all_but_the_verified(controls: Path) -> None:
    trial = next(trial for trial in grid_of("soft").trials)
    own = metrics_of(controls, trial)[1:]
    old = [replace(epoch, attacked=None) for epoch in own]
    assert attacked_counts(old, train_images=64) == attacked_counts(own, train_images=64)


def test_a_soft_trial_that_is_only_stored_is_replayed_and_one_beside_comes_first(tmp_path: Path) -> None:
    """Of the grid `controls`, whose soft trials are stored as those of paper-short."""
    wanted = next(trial for trial in load_grid("controls").trials if trial.method == "random" and trial.seed == 3)
    record = next(
        record
        for record in read_reference(expected_folder() / REFERENCE, grid="paper-short")
        if record.trial == replace(wanted, method="soft")
    )
    config = train_config(wanted, beside=tmp_path)
    assert config.method == Random(counts=attacked_counts(record.epochs, train_images=50_000))
    with pytest.raises(SoftadvError, match="nor the stored reference has its 7 epochs; run it first"):
        train_config(replace(wanted, epochs=7), beside=tmp_path)


def test_a_soft_trial_beside_comes_before_the_stored_one(tmp_path: Path) -> None:
    records = read_reference(expected_folder() / REFERENCE, grid="smoke")
    stored = next(record for record in records if record.trial.method == "soft")
    run = RunFolder(tmp_path / stored.trial.name)
    with run.begun(stored.trial):
        run.write_metrics([replace(epoch, attacked=number) for number, epoch in enumerate(stored.epochs)])
        config = train_config(replace(stored.trial, method="random"), beside=tmp_path)
    assert config.method == Random(counts=tuple(range(len(stored.epochs))))


def test_the_stored_controls_attacked_as_many_as_the_stored_soft_trials() -> None:
    records = read_reference(expected_folder() / REFERENCE, grid="controls")
    counts = {
        (record.trial.setting, record.trial.seed, record.trial.method): attacked_counts(
            record.epochs, train_images=50_000
        )
        for record in records
    }
    replayed = [key for key in counts if key[2] in ("random", "confident")]
    assert replayed
    for setting, seed, method in replayed:
        assert counts[setting, seed, method] == counts[setting, seed, "soft"]


def test_a_soft_trial_that_stopped_early_is_replayed(tmp_path: Path) -> None:
    """With so small a rate no epoch is better than the first."""
    grid = grid_of("soft", "random")
    early = [
        replace(trial, patience=1, validation_images=16, lr=1e-12, natural_epochs=0)
        for trial in grid.trials
        if trial.seed == 0
    ]
    ran = run_grid(prepared(replace(grid, trials=tuple(early)), tmp_path), report=silent)
    assert (ran.failed, ran.refused) == ((), {})
    soft, random = (metrics_of(tmp_path, trial) for trial in early)
    assert len(soft) == len(random) == 2
    assert [epoch.attacked for epoch in random] == [epoch.attacked for epoch in soft]


@pytest.mark.parametrize("setting", ["split_every=3", "split_share=0.5"])
def test_a_key_of_the_setting_is_no_setting_of_a_method(setting: str) -> None:
    """A report reads it in the setting, where it would say otherwise."""
    trial = replace(grid_of("soft").trials[0], method=f"soft({setting})")
    with pytest.raises(SoftadvError, match=f"{setting.partition('=')[0]} is a key of the setting; give it there"):
        train_config(trial)
