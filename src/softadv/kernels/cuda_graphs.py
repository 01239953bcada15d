"""Work on a GPU that is recorded once for each shape, and then repeated in one launch.

The paper's networks are so small that a GPU computes a layer faster than a processor can ask for it. A CUDA graph asks
for a whole attack, or a whole update, at once. It repeats the same kernels on the same memory: what it reads is copied
to where the recorded kernels look for it, and weights and optimizer states must be changed in place.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

# Libraries set themselves up in their first calls, which cannot be recorded; PyTorch's manual makes so many.
WARM_UP = 3
_BUCKET = 16

_Run = Callable[[], Tensor]


class Recorder(Protocol):
    """How work without arguments is recorded; tests have one that needs no GPU."""

    def warm_up(self, run: _Run) -> Tensor:
        """Do the work as it will be done when it is recorded. Returns what it returns."""

    def record(self, run: _Run) -> _Run:
        """Record the work, without doing it. Returns what does it; raises RuntimeError where it cannot be recorded."""


class CudaRecorder:
    """Records CUDA graphs on a device, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, run: _Run) -> Tensor:
        """Do the work on the stream on which it will be recorded, after all before it and before all after it."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # Of an optimizer that is made to be recorded, and is not yet.
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            found = run()
        here.wait_stream(self._stream)
        return found

    def record(self, run: _Run) -> _Run:
        """Record the work as a graph with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        # The outer block goes back to the caller's stream even where the inner one fails at its end.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
            found = run()

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay


@dataclass
class _Entry:
    """One function at one shape: the memory it reads, and how to repeat it once it is recorded."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    replay: _Run | None = None


class Replays:
    """Functions of tensors, each recorded once for each shape of its inputs and then repeated."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        """recorder: None records nothing, and calls every function as it is."""
        self._recorder = recorder
        self._entries: dict[Hashable, _Entry] = {}

    @classmethod
    def on(cls, device: torch.device) -> Replays:
        """Replays of CUDA graphs on a GPU; on another device, plain calls."""
        return cls(CudaRecorder(device) if device.type == "cuda" else None)

    def __deepcopy__(self, memo: object) -> Replays:
        # A recording works on the weights of the learner that it was made with.
        return Replays(self._recorder)

    def run(self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, rows: int | None = None) -> Tensor:
        """What function(*inputs) returns, in memory of its own.

        key: names the function and all that it depends on, but for the inputs and the values of tensors it knows.
        inputs: with N rows each; the function may change them. It must not ask the device for values.
        rows: N or more, where rows are computed each on its own: so many are computed, whatever is in the others, so
            that fewer shapes are recorded. The N rows asked for are returned.

        The first calls with a shape are made as they are, the next one is recorded. Where that is refused, a warning
        is logged, and from then on everything is called as it is.
        """
        if self._recorder is None:
            return function(*inputs)
        count = len(inputs[0])
        entry = self._entry(key, inputs, count if rows is None else rows)
        for buffer, given in zip(entry.inputs, inputs, strict=True):
            buffer[:count].copy_(given)

        def work() -> Tensor:
            return function(*entry.inputs)

        entry.calls += 1
        if entry.calls <= WARM_UP:
            found = self._recorder.warm_up(work)
        else:
            if entry.replay is None:
                try:
                    entry.replay = self._recorder.record(work)
                except RuntimeError as error:
                    reason = " ".join(str(error).split())
                    _LOG.warning("CUDA graphs are not used: %s could not be recorded (%s)", key, reason)
                    self.forget()
                    self._recorder = None
                    return function(*inputs)
            found = entry.replay()
        return (found if rows is None else found[:count]).clone()

    def forget(self) -> None:
        """Drop what was recorded: to be called when weights or an optimizer's state are put elsewhere in memory."""
        self._entries.clear()

    def _entry(self, key: Hashable, inputs: tuple[Tensor, ...], rows: int) -> _Entry:
        shapes = tuple((rows, *given.shape[1:], given.dtype) for given in inputs)
        if (key, shapes) not in self._entries:
            buffers = tuple(given.new_zeros(rows, *given.shape[1:]) for given in inputs)
            self._entries[key, shapes] = _Entry(buffers)
        return self._entries[key, shapes]


def bucket(count: int, *, most: int) -> int:
    """The rows to compute for so many: the next multiple of 16, or `most`, of which there are never more."""
    return min(-(-count // _BUCKET) * _BUCKET, most)
