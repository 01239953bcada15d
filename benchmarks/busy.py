"""What a busy machine costs: certification and attack with each number of threads, alone and beside other processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.measure import CPU, print_machine
from softadv import certify, load_dataset, pgd
from softadv.experiments.load_model import load_saved

WEIGHTS = (
    Path(__file__).parents[1] / "expected_results/reference/mnist/weights/mnist-eps0.1-adversarial-seed0.safetensors"
)
OTHERS = (0, 8)  # processes that compute all the time
IMAGES = 128
SECONDS = 3


def main() -> None:
    """Print images/s of both, by threads and other processes."""
    print_machine()
    model = load_saved(WEIGHTS, dataset="mnist", device=CPU)
    data = load_dataset("mnist")
    x, y = data.test_x[:IMAGES], data.test_y[:IMAGES]
    work = {
        "certification": partial(certify, model, x, y, eps=0.1),
        "attack of 20 steps": partial(pgd, model, x, y, eps=0.1, alpha=0.01, steps=20),
    }
    most = torch.get_num_threads()
    for others in OTHERS:
        busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(others)]
        try:
            for threads in sorted({1, most}):
                torch.set_num_threads(threads)
                speeds = ", ".join(f"{name} {speed(what):,.0f} images/s" for name, what in work.items())
                print(f"  beside {others} busy processes, threads {threads}: {speeds}", flush=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()


def speed(what: Callable[[], object]) -> float:
    """Images/s: the median of some seconds of calls."""
    what()
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while not found or time.perf_counter() < end:
        started = time.perf_counter()
        what()
        found.append(IMAGES / (time.perf_counter() - started))
    return median(found)


if __name__ == "__main__":
    main()
