"""What training costs: the attack, an epoch against a plain loop, a soft epoch. Whole trials: benchmarks/grid.py."""

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

from benchmarks.attack import SETTINGS, compare_attacks, flops_of_a_step
from benchmarks.measure import matrix_rate, print_machine, take_turns
from softadv import conv_small, load_dataset
from softadv.data import Dataset, find_dataset
from softadv.experiments.environment import pick_device
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.models import IMAGE_SHAPES
from softadv.training.loop import train_epoch
from softadv.training.partition import partition
from softadv.training.state import TrainState, new_state

EPOCHS_BEFORE = 5  # of adversarial training; the soft epoch after them is measured
BATCH = 128


def main() -> None:
    """Print the seconds of every case and their ratios, beside the device's matrix-product rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--images", type=int, help="take only so many training images (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each contender (default: 3)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    print_machine(device)
    for dataset in SETTINGS:
        compare_attacks(dataset, batch=BATCH, device=device)
    for dataset in [name for name in SETTINGS if find_dataset(name) is not None] or ["digits"]:
        data = load_dataset(dataset)
        data = _first(data, arguments.images or len(data.train_x)).to(device)
        print(f"{data.name}, {len(data.train_x):,} training images, batches of {BATCH}")
        state = new_state(conv_small(dataset, seed=0).to(device), train_config(_trial("adversarial", data)))
        _against_a_plain_loop(state, data, rounds=arguments.rounds)
        for epoch in range(1, EPOCHS_BEFORE + 1):
            _epoch(state, data, "adversarial", epoch)
        _soft_against_adversarial(state, data, rounds=arguments.rounds)


def _against_a_plain_loop(state: TrainState, data: Dataset, *, rounds: int) -> None:
    ours, theirs = copy.deepcopy(state), copy.deepcopy(state)
    device = data.train_x.device
    seconds = take_turns(
        {
            "a plain loop": partial(_plain_epoch, theirs.model, theirs.optimizer, data),
            "softadv": partial(_epoch, ours, data, "adversarial", 1),
        },
        rounds=rounds,
        device=device,
    )
    plain, own = seconds.values()
    steps = SETTINGS.get(data.name, SETTINGS["mnist"])[2]
    step = flops_of_a_step(state.model, torch.zeros(1, *IMAGE_SHAPES[data.name], device=device))
    # An update is a step of the attack, and the products once more for the gradients of the weights.
    work = len(data.train_x) * step * (steps + 1.5)
    whole = matrix_rate(device)
    print(
        f"  an adversarial epoch: a plain loop {plain:.2f} s, softadv {own:.2f} s, {plain / own:.2f} times as fast; "
        f"{work / own / 1e9 / whole:.0%} of the matrix-product rate ({whole:.0f} GFLOP/s)"
    )


def _plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: Dataset) -> None:
    """What a user would write with PyTorch's and Torchattacks' manuals beside."""
    eps, alpha, steps = SETTINGS.get(data.name, SETTINGS["mnist"])
    device = data.train_x.device
    batches = DataLoader(TensorDataset(data.train_x.cpu(), data.train_y.cpu()), batch_size=BATCH, shuffle=True)
    attack = torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps)
    model.train()
    for images, labels in batches:
        x, y = images.to(device), labels.to(device)
        found = attack(x, y)
        optimizer.zero_grad()
        F.cross_entropy(model(found), y).backward()
        optimizer.step()


def _soft_against_adversarial(state: TrainState, data: Dataset, *, rounds: int) -> None:
    eps = _trial("soft", data).eps
    state.partition = partition(state.model, data.train_x, data.train_y, eps=eps)
    share = float(state.partition.attacked.double().mean())

    def contend(method: str) -> None:
        _epoch(copy.deepcopy(state), data, method, EPOCHS_BEFORE + 1)

    seconds = take_turns(
        {"adversarial": partial(contend, "adversarial"), "soft": partial(contend, "soft")},
        rounds=rounds,
        device=data.train_x.device,
    )
    ratio = seconds["soft"] / seconds["adversarial"]
    print(
        f"  after {EPOCHS_BEFORE} epochs: adversarial {seconds['adversarial']:.2f} s, soft without a new split "
        f"{seconds['soft']:.2f} s, {ratio:.3f} of it, with {share:.3f} of the images attacked: "
        f"{ratio - share:+.3f} beside the share"
    )


def _epoch(state: TrainState, data: Dataset, method: str, epoch: int) -> None:
    trial = _trial(method, data)
    train_epoch(
        state, data.train_x, data.train_y, config=train_config(trial), epoch=epoch,
        on_progress=lambda what, done: None,
    )  # fmt: skip


def _trial(method: str, data: Dataset) -> Trial:
    eps, alpha, steps = SETTINGS.get(data.name, SETTINGS["mnist"])
    # One split at the start: the epochs measured have none.
    return Trial(
        setting="benchmark", dataset=data.name, method=method, seed=0, eps=eps, alpha=alpha, steps=steps,
        epochs=EPOCHS_BEFORE + 1, split_every=EPOCHS_BEFORE + 1, batch_size=BATCH,
    )  # fmt: skip


def _first(data: Dataset, count: int) -> Dataset:
    return replace(data, train_x=data.train_x[:count], train_y=data.train_y[:count])


if __name__ == "__main__":
    main()
