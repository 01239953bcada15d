"""Images a second of each domain, on the paper's networks after a little adversarial training."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.measure import print_machine, take_turns
from softadv import ImageData, certify, conv_small, load_dataset
from softadv.attacks import make_attack
from softadv.certify import DOMAINS
from softadv.data import find_dataset
from softadv.spec import Trial
from softadv.training import new_learner, train_epoch

IMAGES = 256
ROUNDS = 5
# Dataset: eps, alpha, steps, epochs, batch size and training images of the training before.
SETTINGS = {"mnist": (0.1, 0.01, 20, 2, 128, 20_000), "cifar10": (2 / 255, 0.001, 15, 2, 128, 10_000)}
WITHOUT_DATA = {"digits": (0.1, 0.01, 20, 4, 32, 1437)}


def main() -> None:
    """Print images/s and verified counts for each network and domain."""
    print_machine()
    there = {name: setting for name, setting in SETTINGS.items() if find_dataset(name) is not None}
    for dataset, setting in (there or WITHOUT_DATA).items():
        eps, alpha, steps, epochs, batch_size, images = setting
        trial = Trial(
            setting="benchmark", dataset=dataset, method="adversarial", seed=0, eps=eps, alpha=alpha, steps=steps,
            epochs=epochs, batch_size=batch_size,
        )  # fmt: skip
        data = load_dataset(dataset).first(train=images)
        model = trained(trial, data)
        x, y = data.test_x[:IMAGES], data.test_y[:IMAGES]
        contenders = {domain: partial(certify, model, x, y, eps=eps, domain=domain) for domain in DOMAINS}
        for domain, seconds in take_turns(contenders, rounds=ROUNDS).items():
            verified = int(certify(model, x, y, eps=eps, domain=domain).verified.sum())
            print(
                f"{domain} on the {dataset} network, eps {eps:.4g}, margins for all: {len(x) / seconds:,.0f} images/s; "
                f"{verified} of {len(x)} test images verified"
            )


def trained(trial: Trial, data: ImageData) -> torch.nn.Module:
    """The trial's network after its training, without evaluation or a run folder."""
    learner = new_learner(conv_small(trial.dataset, seed=trial.seed), trial)
    attack = make_attack(trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps)
    for epoch in range(1, trial.epochs + 1):
        train_epoch(
            learner, data.train_x, data.train_y, trial=trial, epoch=epoch, attack=attack,
            on_progress=lambda what, done: None,
        )  # fmt: skip
    return learner.model


if __name__ == "__main__":
    main()
