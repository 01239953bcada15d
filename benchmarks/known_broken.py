"""What it saves not to certify images that their adversarial example of the epoch before still breaks."""

from __future__ import annotations

import argparse
import copy
import time

import torch

from benchmarks.attack import SETTINGS
from benchmarks.measure import print_machine
from softadv import PGD, Dataset, load_dataset
from softadv.experiments.expected import expected_folder
from softadv.experiments.load_model import find_saved
from softadv.training.config import TrainConfig
from softadv.training.evaluation import predictions
from softadv.training.loop import train_epoch
from softadv.training.methods import Soft
from softadv.training.state import TrainState, new_state

# Soft training's weights to go on from.
WEIGHTS = {
    "mnist": "reference/mnist/weights/mnist-eps0.1-soft-seed0.safetensors",
    "cifar10": "reference/paper-short/weights/cifar10-eps8-short-soft-seed0.safetensors",
}
EPOCHS = 3


def main() -> None:
    """Print how many images each split need not certify, and the processor's seconds, with and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000, help="training images (default: 5000)")
    parser.add_argument("--dataset", choices=list(WEIGHTS), default="cifar10", help="default: cifar10, at 8/255")
    arguments = parser.parse_args()
    print_machine()
    eps, alpha, steps = SETTINGS[arguments.dataset]
    data = load_dataset(arguments.dataset).first(train=arguments.images)
    model = find_saved(expected_folder() / WEIGHTS[arguments.dataset]).model(
        data, device=torch.device("cpu"), name="conv_small"
    )
    config = TrainConfig(method=Soft(), attack=PGD(alpha=alpha, steps=steps), eps=eps, epochs=EPOCHS)
    states = {known: new_state(copy.deepcopy(model), config) for known in (True, False)}
    print(f"{arguments.dataset}, {len(data.train_x):,} training images, eps {eps:g}")
    for epoch in range(1, EPOCHS + 1):
        for known, state in states.items():  # in turns
            if not known:
                state.examples = None
            of_them = _known(state, data, eps=eps)
            started = time.process_time()
            train_epoch(
                state, data.train_x, data.train_y, config=config, epoch=epoch, on_progress=lambda what, done: None
            )
            seconds = time.process_time() - started
            print(
                f"  epoch {epoch}, {'with' if known else 'without'}: {seconds:.2f} s of processors, {_split(state)}, "
                f"{of_them:,} known"
            )
    same = all(
        torch.equal(one, other)
        for one, other in zip(states[True].model.parameters(), states[False].model.parameters(), strict=True)
    )
    print(f"  the weights are the same, bit for bit: {'yes' if same else 'no'}")


def _known(state: TrainState, data: Dataset, *, eps: float) -> int:
    """How many images that are classified correctly need no certificate, as their last example still breaks them."""
    if state.examples is None:
        return 0
    x, y = data.train_x, data.train_y
    broken = state.examples.breaking(state.model, torch.arange(len(y)), x, y, eps=eps)
    return int((broken & (predictions(state.model, x) == y)).sum())


def _split(state: TrainState) -> str:
    split = state.partition
    assert split is not None
    correct = int((~split.misclassified).sum())
    return f"{correct:,} images classified correctly, {int(split.verified.sum()):,} verified"


if __name__ == "__main__":
    main()
