"""What a soft epoch costs against an adversarial one: all training images, certification included."""

from __future__ import annotations

import copy

from benchmarks.measure import print_machine
from softadv import conv_small, load_dataset
from softadv.data import ImageData, find_dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.training.loop import train_epoch
from softadv.training.state import TrainState, new_state
from softadv.training.timing import EpochSeconds

EPOCHS_BEFORE = 2  # of adversarial training; the epoch after them is measured
ROUNDS = 2
EVERY = 5


def main() -> None:
    """Print the seconds of an epoch by what they are spent on, and the ratios."""
    print_machine()
    data = load_dataset("mnist" if find_dataset("mnist") is not None else "digits")
    adversarial, soft = _trial("adversarial", data), _trial("soft", data)
    state = new_state(conv_small(data.name, seed=0), train_config(adversarial))
    for epoch in range(1, EPOCHS_BEFORE + 1):
        _train(state, data, adversarial, epoch)
    epochs: dict[str, list[EpochSeconds]] = {"adversarial": [], "soft, split anew": [], "soft, as split before": []}
    split = None
    for _ in range(ROUNDS):  # contenders take turns
        for name, seconds in epochs.items():
            contender = copy.deepcopy(state)
            contender.partition = split if name == "soft, as split before" else None
            trial = soft if name.startswith("soft") else adversarial
            # Soft training splits in epochs 1, 6, 11, …
            epoch = EVERY + 1 if name == "soft, split anew" else EVERY
            seconds.append(_train(contender, data, trial, epoch))
            split = contender.partition or split
    assert split is not None
    print(f"\n{data.name}, {len(data.train_x):,} training images, {int(split.verified.sum()):,} of them verified")
    best = {name: min(seconds, key=_total) for name, seconds in epochs.items()}
    for name, s in best.items():
        print(
            f"  {name}: {_total(s):.1f} s = {s.attack:.1f} s attack + {s.certification:.1f} s certification + "
            f"{s.update:.1f} s update"
        )
    whole, anew, before = (_total(best[name]) for name in epochs)
    print(f"  a soft epoch takes {anew / whole:.2f} times an adversarial one with a new split every epoch,")
    print(f"  {(anew + (EVERY - 1) * before) / EVERY / whole:.2f} times with one every {EVERY}")


def _trial(method: str, data: ImageData) -> Trial:
    return Trial(
        setting="benchmark", dataset=data.name, method=method, seed=0, eps=0.1, alpha=0.01, steps=20, epochs=10,
        split_every=EVERY,
    )  # fmt: skip


def _train(state: TrainState, data: ImageData, trial: Trial, epoch: int) -> EpochSeconds:
    return train_epoch(
        state, data.train_x, data.train_y, config=train_config(trial), epoch=epoch,
        on_progress=lambda what, done: None,
    ).seconds  # fmt: skip


def _total(seconds: EpochSeconds) -> float:
    return seconds.attack + seconds.certification + seconds.update


if __name__ == "__main__":
    main()
