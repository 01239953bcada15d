"""Where an epoch's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class EpochSeconds:
    """An epoch's seconds by activity; complete after settle()."""

    device: torch.device
    attack: float = 0.0
    certification: float = 0.0
    update: float = 0.0
    _spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list, repr=False)

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Add a block's time to the field of this name: wall-clock time, or on a GPU the device's time."""
        if self.device.type == "cuda":
            span = (what, self._now(), torch.cuda.Event(enable_timing=True))
            yield
            span[2].record(torch.cuda.current_stream(self.device))
            self._spans.append(span)
        else:
            started = time.perf_counter()
            yield
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)

    def settle(self) -> None:
        """Wait for the GPU and add up its measurements: the epoch's only synchronisation."""
        for what, started, ended in self._spans:
            ended.synchronize()
            setattr(self, what, getattr(self, what) + started.elapsed_time(ended) / 1000)
        self._spans.clear()

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
