"""Epochs of training: adversarial against the loop that a user would write, and soft against adversarial."""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
import torchattacks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import print_machine, take_turns
from softadv import conv_small, load_dataset
from softadv.attacks import make_attack
from softadv.data import ImageData, find_dataset
from softadv.partition import partition
from softadv.spec import Method, Trial
from softadv.training import Learner, new_learner, train_epoch

EPOCHS_BEFORE = 5  # of adversarial training; the soft epoch after them is measured
EPS, ALPHA, STEPS = 0.1, 0.01, 20


def main() -> None:
    """Print the seconds of the epochs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="take only so many training images (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each contender (default: 3)")
    arguments = parser.parse_args()
    print_machine()
    data = load_dataset("mnist" if find_dataset("mnist") is not None else "digits")
    data = _first(data, arguments.images or len(data.train_x))
    print(f"{data.name}, {len(data.train_x):,} training images, batches of {_trial('adversarial', data).batch_size}")
    learner = new_learner(conv_small(data.name, seed=0), _trial("adversarial", data))
    _against_a_plain_loop(learner, data, arguments.rounds)
    for epoch in range(1, EPOCHS_BEFORE + 1):
        _epoch(learner, data, "adversarial", epoch)
    _soft_against_adversarial(learner, data, arguments.rounds)


def _against_a_plain_loop(learner: Learner, data: ImageData, rounds: int) -> None:
    ours, theirs = copy.deepcopy(learner), copy.deepcopy(learner)
    seconds = take_turns(
        {
            "a plain loop": partial(_plain_epoch, theirs.model, theirs.optimizer, data),
            "softadv": partial(_epoch, ours, data, "adversarial", 1),
        },
        rounds=rounds,
    )
    plain, own = seconds.values()
    print(f"an adversarial epoch: a plain loop {plain:.2f} s, softadv {own:.2f} s; {plain / own:.2f} times as fast")


def _plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: ImageData) -> None:
    """What a user would write with PyTorch's and Torchattacks' manuals beside."""
    batches = DataLoader(
        TensorDataset(data.train_x, data.train_y), batch_size=_trial("adversarial", data).batch_size, shuffle=True
    )
    attack = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS)
    model.train()
    for x, y in batches:
        found = attack(x, y)
        optimizer.zero_grad()
        F.cross_entropy(model(found), y).backward()
        optimizer.step()


def _soft_against_adversarial(learner: Learner, data: ImageData, rounds: int) -> None:
    learner.partition = partition(learner.model, data.train_x, data.train_y, eps=EPS)
    share = float(learner.partition.attacked.double().mean())

    def contend(method: Method) -> None:
        _epoch(copy.deepcopy(learner), data, method, EPOCHS_BEFORE + 1)

    seconds = take_turns(
        {"adversarial": partial(contend, "adversarial"), "soft": partial(contend, "soft")}, rounds=rounds
    )
    ratio = seconds["soft"] / seconds["adversarial"]
    print(
        f"after {EPOCHS_BEFORE} epochs: adversarial {seconds['adversarial']:.2f} s, soft without a new split "
        f"{seconds['soft']:.2f} s; {ratio:.3f} of it, with {share:.3f} of the images attacked: "
        f"{ratio - share:+.3f} beside the share"
    )


def _epoch(learner: Learner, data: ImageData, method: Method, epoch: int) -> None:
    attack = make_attack("pgd", eps=EPS, alpha=ALPHA, steps=STEPS)
    train_epoch(
        learner, data.train_x, data.train_y, trial=_trial(method, data), epoch=epoch, attack=attack,
        on_progress=lambda what, done: None,
    )  # fmt: skip


def _trial(method: Method, data: ImageData) -> Trial:
    # One split at the start: the epochs measured have none.
    return Trial(
        setting="benchmark", dataset=data.name, method=method, seed=0, eps=EPS, alpha=ALPHA, steps=STEPS,
        epochs=EPOCHS_BEFORE + 1, split_every=EPOCHS_BEFORE + 1,
    )  # fmt: skip


def _first(data: ImageData, count: int) -> ImageData:
    return replace(data, train_x=data.train_x[:count], train_y=data.train_y[:count])


if __name__ == "__main__":
    main()
