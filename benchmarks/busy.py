"""What a busy machine costs certification, attack and training, with each number of threads."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, print_machine
from softadv import PGD, certify, load_dataset, pgd
from softadv.experiments.load_model import load_saved
from softadv.training.config import TrainConfig
from softadv.training.loop import train_epoch
from softadv.training.methods import Adversarial, Method, Natural, Trades
from softadv.training.state import new_state

WEIGHTS = (
    Path(__file__).parents[1] / "expected_results/reference/mnist/weights/mnist-eps0.1-adversarial-seed0.safetensors"
)
OTHERS = (0, 8)  # processes that compute all the time
BATCH, EPOCH = 128, 1024  # images
SECONDS = 3


def main() -> None:
    """Print images/s of each, by threads and other processes."""
    print_machine()
    model = load_saved(WEIGHTS, dataset="mnist", device=CPU)
    data = load_dataset("mnist")
    x, y = data.test_x[:BATCH], data.test_y[:BATCH]
    work = {
        "certification": (partial(certify, model, x, y, eps=0.1), BATCH),
        "attack of 20 steps": (partial(pgd, model, x, y, eps=0.1, alpha=0.01, steps=20), BATCH),
    }
    for method in (Natural(), Adversarial(), Trades()):
        epoch = epoch_of(method, model, data.train_x[:EPOCH], data.train_y[:EPOCH])
        work[f"{type(method).__name__} epoch"] = epoch, EPOCH
    most = torch.get_num_threads()
    for others in OTHERS:
        busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(others)]
        try:
            for threads in sorted({1, most}):
                torch.set_num_threads(threads)
                speeds = ", ".join(f"{name} {speed(*what):,.0f} images/s" for name, what in work.items())
                print(f"  beside {others} busy processes, threads {threads}: {speeds}", flush=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()


def epoch_of(method: Method, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """An epoch, which leaves the weights nearly as they are."""
    attack = PGD(steps=20, alpha=0.01)
    config = TrainConfig(method=method, attack=attack, eps=0.1, epochs=1, batch_size=BATCH, lr=1e-9)
    state = new_state(copy.deepcopy(model), config)
    return partial(train_epoch, state, x, y, config=config, epoch=1, on_progress=lambda *_: None)


def speed(what: Callable[[], object], images: int) -> float:
    """Images/s: the median of some seconds of calls."""
    what()
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while not found or time.perf_counter() < end:
        started = time.perf_counter()
        what()
        found.append(images / (time.perf_counter() - started))
    return median(found)


if __name__ == "__main__":
    main()
