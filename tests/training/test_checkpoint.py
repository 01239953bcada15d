"""A training's file: what it starts from again, whatever optimizer step the machine has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softadv.data import Dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.models import conv_small
from softadv.training.checkpoint import load_checkpoint, save_checkpoint
from softadv.training.loop import train_epoch
from softadv.training.state import TrainState, new_state

CPU = torch.device("cpu")
TRIAL = Trial(
    setting="tests",
    dataset="digits",
    method="adversarial",
    seed=0,
    eps=0.1,
    alpha=0.03,
    steps=2,
    epochs=2,
    batch_size=32,
)


def state(*, fused: bool) -> TrainState:
    """fused: as new_state makes it on a CPU; else Adam's plain step, as elsewhere."""
    made = new_state(conv_small("digits", seed=0), train_config(TRIAL))
    assert made.optimizer.param_groups[0]["fused"]
    if fused:
        return made
    return replace(made, optimizer=torch.optim.Adam(made.model.parameters(), lr=TRIAL.lr))


def train(trained: TrainState, images: Dataset, *, epoch: int) -> None:
    x, y = images.train_x[:128], images.train_y[:128]
    train_epoch(trained, x, y, config=train_config(TRIAL), epoch=epoch, on_progress=lambda _what, _done: None)


@pytest.mark.parametrize("first", [True, False], ids=["fused first", "plain first"])
def test_a_checkpoint_goes_on_with_another_kind_of_step(first: bool, digits: Dataset, tmp_path: Path) -> None:
    # As where a trial moves between a processor, whose step is fused, and a GPU, whose step is not.
    begun = state(fused=first)
    train(begun, digits, epoch=1)
    save_checkpoint(tmp_path / "checkpoint", begun, epoch=1, about={"data": "images"})
    moved = state(fused=not first)
    assert load_checkpoint(tmp_path / "checkpoint", moved, device=CPU)[0] == 1
    assert bool(moved.optimizer.param_groups[0]["fused"]) is not first  # the machine's own, not the file's
    for both in (begun, moved):
        train(both, digits, epoch=2)
    for one, other in zip(begun.model.parameters(), moved.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    steps = [{int(entry["step"]) for entry in both.optimizer.state.values()} for both in (begun, moved)]
    assert steps == [{8}, {8}]
