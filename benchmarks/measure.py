"""How every benchmark measures: contenders take turns in one process, beside the machine's own rate."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from softadv.experiments import environment

CPU = torch.device("cpu")


def matrix_rate(device: torch.device = CPU, *, size: int = 2048, rounds: int = 5) -> float:
    """The device's float32 matrix-product rate in GFLOP/s: the best of some rounds."""
    a = torch.randn(size, size, device=device)
    a @ a
    best = float("inf")
    for _ in range(rounds):
        started = _now(device)
        a @ a
        best = min(best, _now(device) - started)
    return 2 * size**3 / best / 1e9


def print_machine(device: torch.device = CPU) -> None:
    """What the figures below it were measured on."""
    about = environment.describe(device)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"commit {about['commit'][:12]}; float32 matrix product {matrix_rate(device):.0f} GFLOP/s"
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes of main memory that a piece of work adds at its peak, as Linux counts pages in use."""
    status = Path("/proc/self/status")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed counts as in use until it is given back
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use
    before = _status_bytes(status, "VmRSS")
    work()
    return _status_bytes(status, "VmHWM") - before


def _status_bytes(status: Path, key: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def take_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device = CPU
) -> dict[str, float]:
    """The median seconds of each contender, run one after another in each round, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for at in range(rounds + 1):
        for name, contender in contenders.items():
            started = _now(device)
            contender()
            if at:
                seconds[name].append(_now(device) - started)
    return {name: median(values) for name, values in seconds.items()}
