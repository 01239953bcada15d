"""One answer per image from a worker process that may crash, hang or send invalid lines.

- Time limit: an image that exceeds it is answered "timeout", and the worker is killed.
- Memory: a worker that has grown too large (ERAN keeps up to 14 MB of every image) is replaced between two images.
- Crash: the worker is restarted and the image is tried once more. If it crashes there again, the image is "failed".
- The run ends with SoftadvError when a worker crashes twice before its first answer, fails on many images in
  succession, or sends a line that is no answer.

Answers may come in any order, since each names its image. A crash or a timeout counts for the first image that is not
answered yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from softadv.certify.eran.proc import resident_bytes
from softadv.certify.eran.process import Worker, WorkerDied, WorkerLate, worker_command
from softadv.certify.eran.protocol import EngineAnswer, EngineName, Offer, read_answer, read_hello, read_ready
from softadv.errors import SoftadvError

# After so many failures in succession the engine is to blame, not the images.
_MOST_FAILURES = 10

# A worker that needs more than its limit for the model alone may grow to this multiple of that before it is ended.
_LEAST_GROWTH = 1.5

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which images to answer. model: an ONNX file; boxes: a folder with arrays; images: rows of them.

    memory_limit: the resident size, in bytes, past which a worker is ended between two images.
    """

    model: Path
    boxes: Path
    images: Sequence[int]
    sound: bool
    memory_limit: int


class EngineClient:
    """One engine's worker, started on demand and restarted when needed. The caller must call stop()."""

    def __init__(self, engine: EngineName, *, seconds_per_image: float, seconds_to_start: float) -> None:
        """seconds_to_start: how long the engine may take to be loaded, and to read a model.

        Raises SoftadvError where SOFTADV_ERAN names no worker.
        """
        self.engine = engine
        self._command = [*worker_command(), engine]
        self._seconds_per_image, self._seconds_to_start = seconds_per_image, seconds_to_start
        self._worker: Worker | None = None
        self._offer: Offer | None = None
        self._requests = 0
        self._most_bytes = math.inf
        self._answering = False
        self._failures = 0

    def offer(self) -> Offer:
        """What the engine says of itself. Raises SoftadvError where it is not there."""
        if self._offer is None:
            try:
                self._retried(self._start)
            except SoftadvError as error:
                raise self._stopped_with(error) from error
        assert self._offer is not None
        return self._offer

    def answers(self, request: Request) -> Iterator[EngineAnswer]:
        """One answer for each image, in any order. Raises SoftadvError, as described above."""
        try:
            yield from self._answers(request)
        except SoftadvError as error:
            raise self._stopped_with(error) from error

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _answers(self, request: Request) -> Iterator[EngineAnswer]:
        waiting = dict.fromkeys(request.images)  # in order, and quick to take one out
        retried: set[int] = set()
        while waiting:
            try:
                worker = self._retried(lambda: self._open(request, list(waiting)))
                while waiting:
                    line = worker.receive(seconds=self._seconds_per_image)
                    answer = read_answer(line, request=self._requests, among=waiting.keys())
                    del waiting[answer.index]
                    self._answering = bool(waiting)
                    yield self._count_failures(answer)
                    if self._too_large():
                        break
            except WorkerLate:
                self.stop()
                first = next(iter(waiting))
                del waiting[first]
                yield self._count_failures(EngineAnswer(first, "timeout", self._seconds_per_image, math.nan, None))
            except WorkerDied as death:
                self.stop()
                first = next(iter(waiting))
                if first in retried:
                    del waiting[first]
                    yield self._count_failures(
                        EngineAnswer(first, "failed", 0.0, math.nan, f"the worker died twice: {death}")
                    )
                retried.add(first)

    def _open(self, request: Request, images: Sequence[int]) -> Worker:
        """A worker that has read the files and is about to answer."""
        # An earlier request may still be open, if its caller stopped reading answers.
        if self._answering or self._too_large():
            self.stop()
        worker = self._start()
        self._requests += 1
        worker.send(
            {
                "request": self._requests,
                "engine": self.engine,
                "sound": request.sound,
                "model": str(request.model),
                "boxes": str(request.boxes),
                "images": images,
            }
        )
        self._answering = True
        read_ready(worker.receive(seconds=self._seconds_to_start), request=self._requests)
        self._most_bytes = max(request.memory_limit, _LEAST_GROWTH * (resident_bytes(worker.pid) or 0))
        return worker

    def _start(self) -> Worker:
        """The worker, after its hello."""
        if self._worker is None:
            self._worker = Worker(self._command)
            self._answering = False
            hello = read_hello(self._worker.receive(seconds=self._seconds_to_start))
            offer = hello.offers.get(self.engine)
            if offer is None:
                reason = hello.missing.get(self.engine, "the worker does not know it")
                raise SoftadvError(f"not available ({reason})")
            if self._offer not in (None, offer):
                raise SoftadvError(f"its worker came back as another: {offer} instead of {self._offer}")
            self._offer = offer
        return self._worker

    def _too_large(self) -> bool:
        """Whether the worker's memory exceeds its limit."""
        size = None if self._worker is None else resident_bytes(self._worker.pid)
        return size is not None and size > self._most_bytes

    def _retried(self, action: Callable[[], _T]) -> _T:
        """Run an action that needs a worker; if the worker dies, once more with a new one.

        Raises SoftadvError where the second worker dies too, or is late.
        """
        last: WorkerDied | None = None
        for _ in range(2):
            try:
                return action()
            except WorkerDied as death:
                self.stop()
                last = death
            except WorkerLate:
                self.stop()
                raise SoftadvError(f"its worker was not ready after {self._seconds_to_start:g} seconds") from None
        raise SoftadvError(f"its worker died twice before it answered anything: {last}") from last

    def _count_failures(self, answer: EngineAnswer) -> EngineAnswer:
        self._failures = self._failures + 1 if answer.verdict == "failed" else 0
        if self._failures >= _MOST_FAILURES:
            raise SoftadvError(f"failed on {self._failures} images in succession, the last time with: {answer.error}")
        return answer

    def _stopped_with(self, error: SoftadvError) -> SoftadvError:
        """Stop the worker; returns the error with the engine's name and the worker's last messages."""
        words = "" if self._worker is None else self._worker.last_messages()
        self.stop()
        return SoftadvError(f"{self.engine}: {error}" + (f"; its worker said {words!r}" if words else ""))
