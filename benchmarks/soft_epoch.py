"""What a soft epoch costs against an adversarial one: all training images, certification included.

Soft training with a new split, with the split of the epoch before, and with a rolling split, of which a tenth is new.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

from benchmarks.measure import print_machine
from softadv import conv_small, load_dataset
from softadv.data import Dataset, find_dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.training.loop import train_epoch
from softadv.training.state import TrainState, new_state
from softadv.training.timing import EpochSeconds

EPOCHS_BEFORE = 2  # of adversarial training; the epoch after them is measured
ROUNDS = 2
EVERY = 5
SETTINGS = {"digits": (0.1, 0.01, 20), "mnist": (0.1, 0.01, 20), "cifar10": (8 / 255, 0.005, 15)}
ADVERSARIAL, ANEW, BEFORE, ROLLING = "adversarial", "soft, split anew", "soft, as split before", "soft, a tenth anew"


def main() -> None:
    """Print the seconds of an epoch by what they are spent on, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = "mnist" if find_dataset("mnist") is not None else "digits"
    parser.add_argument("--dataset", choices=list(SETTINGS), default=usual, help=f"(default here: {usual})")
    parser.add_argument("--eps", type=float, help="the radius (default: the data set's of this benchmark)")
    arguments = parser.parse_args()
    print_machine()
    data = load_dataset(arguments.dataset)
    trial = _trial(data, arguments.eps)
    trials = {
        ADVERSARIAL: replace(trial, method="adversarial", split_every=1),
        ANEW: trial,
        BEFORE: trial,
        ROLLING: replace(trial, split="rolling", split_every=1),
    }
    state = new_state(conv_small(data.name, seed=0), train_config(trials[ADVERSARIAL]))
    for epoch in range(1, EPOCHS_BEFORE + 1):
        _train(state, data, trials[ADVERSARIAL], epoch)
    epochs: dict[str, list[EpochSeconds]] = {name: [] for name in trials}
    split = None
    for _ in range(ROUNDS):  # contenders take turns
        for name, seconds in epochs.items():
            contender = copy.deepcopy(state)
            contender.partition = split if name in {BEFORE, ROLLING} else None
            # Soft training splits in epochs 1, 6, 11, …
            seconds.append(_train(contender, data, trials[name], EVERY + 1 if name == ANEW else EVERY))
            split = contender.partition if name == ANEW else split
    assert split is not None
    verified = f"{int(split.verified.sum()):,} of them verified"
    print(f"\n{data.name}, eps {trial.eps:.4g}, {len(data.train_x):,} training images, {verified}")
    best = {name: min(seconds, key=_total) for name, seconds in epochs.items()}
    for name, s in best.items():
        print(
            f"  {name}: {_total(s):.1f} s = {s.attack:.1f} s attack + {s.certification:.1f} s certification + "
            f"{s.update:.1f} s update; {_total(s) / _total(best[ADVERSARIAL]):.2f} times an adversarial one"
        )
    several = (_total(best[ANEW]) + (EVERY - 1) * _total(best[BEFORE])) / EVERY / _total(best[ADVERSARIAL])
    print(f"  with a new split every {EVERY} epochs: {several:.2f} times")


def _trial(data: Dataset, eps: float | None) -> Trial:
    usual, alpha, steps = SETTINGS[data.name]
    return Trial(
        setting="benchmark", dataset=data.name, method="soft", seed=0, eps=usual if eps is None else eps, alpha=alpha,
        steps=steps, epochs=10, split_every=EVERY,
    )  # fmt: skip


def _train(state: TrainState, data: Dataset, trial: Trial, epoch: int) -> EpochSeconds:
    return train_epoch(
        state, data.train_x, data.train_y, config=train_config(trial), epoch=epoch,
        on_progress=lambda what, done: None,
    ).seconds  # fmt: skip


def _total(seconds: EpochSeconds) -> float:
    return seconds.attack + seconds.certification + seconds.update


if __name__ == "__main__":
    main()
