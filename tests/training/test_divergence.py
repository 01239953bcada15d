"""Training that ends in NaN or infinity has failed, with epoch and step: alone, side by side, in grids and commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softadv.attacks import PGD, Attack
from softadv.data import Dataset
from softadv.errors import DivergedError
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.spec import Trial, parse_grid
from softadv.experiments.train_config import train_config
from softadv.experiments.trial import TrialRun, train_side_by_side
from softadv.kernels import build as compiled
from softadv.models import conv_small
from softadv.training.loop import TrainedEpoch, train_epoch
from softadv.training.stacked import MembersDivergedError, Team
from softadv.training.state import new_state
from tests.cli.command import run
from tests.experiments.test_grid import TINY, prepared, silent
from tests.networks import seeded

TRIAL = Trial(
    setting="tests", dataset="digits", method="natural", seed=0, eps=0.02, alpha=0.01, steps=2, epochs=4,
    batch_size=20, optimizer="sgd", lr=0.01,
)  # fmt: skip
DIVERGES = replace(TRIAL, lr=1e30)


@pytest.fixture
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.train_x[:100], digits.train_y[:100]


def one_epoch(
    model: nn.Module, images: tuple[Tensor, Tensor], trial: Trial, *, attack: Attack | None = None, epoch: int = 2
) -> TrainedEpoch:
    """attack: one of the test's own in place of the trial's."""
    config = train_config(trial)
    config = replace(config, attack=attack or config.attack)
    return train_epoch(
        new_state(model, config), *images, config=config, epoch=epoch, on_progress=lambda _what, _done: None
    )


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
@pytest.mark.parametrize("kernels", [True, False])
def test_an_epoch_that_diverges_says_at_which_step(
    images: tuple[Tensor, Tensor], method: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(compiled, "load", lambda source: "no C++ compiler found")
    with pytest.raises(
        DivergedError, match=r"^training diverged in epoch 2, step 2 of 5: the loss is (nan|inf)$"
    ) as caught:
        one_epoch(conv_small("digits", seed=0), images, replace(DIVERGES, method=method))
    assert (caught.value.epoch, caught.value.step) == (2, 2)


@pytest.mark.parametrize("name", ["torchattacks:PGD", "torchattacks:FGSM"])
def test_an_attack_that_fails_for_it_is_not_blamed(images: tuple[Tensor, Tensor], name: str) -> None:
    trial = replace(DIVERGES, method="adversarial", attack=name)
    with pytest.raises(DivergedError, match=r"epoch 2, step [1-5] of 5") as caught:
        one_epoch(conv_small("digits", seed=0), images, trial)
    assert "attack" not in str(caught.value)


def test_weights_that_no_loss_shows_end_the_epoch(images: tuple[Tensor, Tensor]) -> None:
    """A neuron whose bias is minus infinity is off, and the loss is as fine as ever."""
    model = conv_small("digits", seed=0)
    with torch.no_grad():
        model[2].bias[3] = -torch.inf
    with pytest.raises(DivergedError, match=r"epoch 2, step 5 of 5: 2\.bias is NaN or infinite"):
        one_epoch(model, images, TRIAL)


def test_losses_whose_sum_is_infinite_end_the_epoch(images: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].bias.copy_(torch.linspace(-1e38, 1e38, 10))
    with pytest.raises(DivergedError, match="the sum of the losses is inf"):
        one_epoch(model, images, replace(TRIAL, batch_size=100, lr=1e-30))


def test_the_learning_rate_that_is_fine_does_not_fail(images: tuple[Tensor, Tensor]) -> None:
    assert 0 < one_epoch(conv_small("digits", seed=0), images, TRIAL).loss < 10


def grid_text(*, seeds: str = "[0]", epochs: int = 2) -> str:
    text = TINY.replace("seeds = [0]", f"seeds = {seeds}").replace("epochs = 1", f"epochs = {epochs}")
    return text.replace("steps = 2", 'steps = 2\noptimizer = "sgd"\nlr = 1e30')


def test_a_trial_that_diverges_fails_in_a_grid_and_leaves_no_figure(tmp_path: Path) -> None:
    grid = parse_grid(grid_text(), source="tiny")
    ran = run_grid(prepared(grid, tmp_path), report=silent)
    assert ran.failed == tuple(trial.name for trial in grid.trials)
    assert (ran.finished, ran.refused) == ((), {})
    for trial in grid.trials:
        folder = tmp_path / trial.name
        assert (folder / "traceback.txt").read_text().startswith("training diverged in epoch 1, step ")
        assert not (folder / "result.json").exists()
        assert RunFolder(folder).metrics() == []
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)  # which is called for NaN and Infinity


def test_a_model_whose_scores_overflow_is_a_trial_that_failed(tmp_path: Path) -> None:
    """The loss and the weights may be finite where a test image's scores are not."""
    grid = parse_grid(TINY, source="tiny").select(methods=["natural"])
    ready = prepared(grid, tmp_path)
    ready.datasets[grid.trials[0]].test_x[3, 0, 5, 5] = torch.inf
    ran = run_grid(ready, report=silent)
    assert ran.failed == (grid.trials[0].name,)
    written = (tmp_path / grid.trials[0].name / "traceback.txt").read_text()
    assert written.startswith("training diverged in epoch 1: the scores of image 3 are NaN or infinite")


def test_train_says_so_in_one_line_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("optimizer=sgd", "lr=1e30", "train_images=64", "test_images=32", "batch_size=32")
    options = [word for setting in settings for word in ("--set", setting)]
    code = run("train", str(tmp_path / "r"), "--method", "natural", "--epochs", "2", *options, "--device", "cpu")
    assert code == 1
    assert "training diverged in epoch 1, step 2 of 2: the loss is" in capsys.readouterr().err
    assert not (tmp_path / "r" / "result.json").exists()


def test_side_by_side_the_one_that_diverges_is_named_and_nobody_is_changed(images: tuple[Tensor, Tensor]) -> None:
    trials = [replace(TRIAL, seed=seed) for seed in range(3)]
    configs = [train_config(trial) for trial in trials]
    states = [new_state(conv_small("digits", seed=config.seed), config) for config in configs]
    with torch.no_grad():
        states[1].model[-1].weight[0, 0] = torch.nan
    before = [[p.clone() for p in state.model.parameters()] for state in states]
    told = [lambda _what, _done: None] * 3
    with pytest.raises(MembersDivergedError) as caught:
        Team(states, configs).train_epoch(*images, epoch=1, on_progress=told)
    assert {place: error.step for place, error in caught.value.errors.items()} == {1: 1}
    for state, weights in zip(states, before, strict=True):
        for parameter, was in zip(state.model.parameters(), weights, strict=True):
            torch.testing.assert_close(parameter, was, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["natural", "soft"])
def test_side_by_side_the_others_go_on_as_if_it_had_not_been_there(
    digits: Dataset, tmp_path: Path, method: str
) -> None:
    data = digits.first(train=60, test=20)
    trial = replace(TRIAL, method=method, epochs=3, certified_images=20)

    def begun(folder: Path, *seeds: int) -> list[TrialRun]:
        runs = []
        for seed in seeds:
            run_folder = RunFolder(folder / str(seed))
            run_folder.begin(replace(trial, seed=seed))
            told = lambda what, work, before=False, note="": None  # noqa: E731
            runs.append(TrialRun.resume(replace(trial, seed=seed), run=run_folder, data=data, report=told))
        return runs

    three, two = begun(tmp_path / "three", 0, 1, 2), begun(tmp_path / "two", 0, 2)
    with torch.no_grad():
        three[1].trainer.state.model[-1].bias[0] = torch.nan
    train_side_by_side(three)
    train_side_by_side(two)
    assert [run.epoch for run in three] == [3, 0, 3]
    for ours, theirs in zip(three[::2], two, strict=True):
        assert [epoch.loss for epoch in ours.trainer.metrics] == [epoch.loss for epoch in theirs.trainer.metrics]


def moving() -> nn.Sequential:
    """A network that minds the mode, and the same each time."""

    def build() -> nn.Sequential:
        body = (nn.Conv2d(1, 4, 5, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 10))
        return nn.Sequential(*body)

    return seeded(0, build).float().requires_grad_()


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
def test_a_network_with_batch_norm_trains_alike_whichever_mode_it_came_in(
    images: tuple[Tensor, Tensor], method: str
) -> None:
    found = []
    for training in (True, False):
        model = moving().train(training)
        model[1].train()
        model[3].eval()  # one layer is in another mode than the whole
        modes = [layer.training for layer in model.modules()]
        torch.manual_seed(0)  # of the dropout
        one_epoch(model, images, replace(TRIAL, method=method))
        assert [layer.training for layer in model.modules()] == modes
        # Once a step, however often the network was attacked and certified.
        assert int(model[1].num_batches_tracked) == 5
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_an_attack_of_training_finds_the_model_in_eval_mode(images: tuple[Tensor, Tensor]) -> None:
    model, seen = moving(), []

    def attack(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        seen.append(any(layer.training for layer in model.modules()))
        return x

    one_epoch(model, images, replace(TRIAL, method="adversarial"), attack=attack)
    assert seen == [False] * 5


def test_batch_norms_side_by_side_learn_what_they_learn_alone(images: tuple[Tensor, Tensor]) -> None:
    trials = [replace(TRIAL, method="adversarial", seed=seed) for seed in (0, 1)]

    def models() -> list[nn.Sequential]:
        return [nn.Sequential(*(layer for layer in moving() if not isinstance(layer, nn.Dropout))) for _ in trials]

    alone, together = models(), models()
    attack = PGD(alpha=0.0, steps=1)
    for model, trial in zip(alone, trials, strict=True):
        one_epoch(model, images, trial, attack=attack, epoch=1)
    configs = [replace(train_config(trial), attack=attack) for trial in trials]
    team = Team([new_state(model, config) for model, config in zip(together, configs, strict=True)], configs)
    team.train_epoch(*images, epoch=1, on_progress=[lambda _what, _done: None] * 2)
    for ours, theirs in zip(together, alone, strict=True):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-3, atol=1e-4)
