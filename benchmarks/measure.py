"""How every benchmark measures: contenders take turns in one process, beside the machine's own rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from statistics import median

import torch

from softadv import environment


def matrix_rate(*, size: int = 2048, rounds: int = 5) -> float:
    """The machine's float32 matrix-product rate in GFLOP/s: the best of some rounds."""
    a = torch.randn(size, size)
    a @ a
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def print_machine() -> None:
    """What the figures below it were measured on."""
    about = environment.describe(torch.device("cpu"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"commit {about['commit'][:12]}; float32 matrix product {matrix_rate():.0f} GFLOP/s"
    )


def take_turns(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The median seconds of each contender, run one after another in each round, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for at in range(rounds + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender()
            if at:
                seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}
