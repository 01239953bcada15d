"""A certification split into jobs: spans of images, whose rows come back chunk by chunk, each once and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load
from torch import nn

from softadv._io import read_bytes, tensors_bytes
from softadv._progress import Report, silent
from softadv.certify.certifiers import CertifierSession
from softadv.certify.domains import Certifier
from softadv.certify.per_image import ImageResult, Question, certify_chunk
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.environment import pick_device
from softadv.experiments.executors.images import ImageLoader, Source
from softadv.experiments.executors.jobs import Ended, Executor, Handle, Lost, ProgressMessage, Send
from softadv.experiments.load_model import ONNX, Saved

_CHUNKS = 4  # chunks per span at most, which share a job's weights and a worker's preparation
_TRIES_AGAIN = 3


@dataclass(frozen=True)
class SpanJob:
    """Certify images from `first` to before `end`, so many together. weights: as safetensors, or an ONNX file's
    bytes; path: of the file, for messages."""

    first: int
    end: int
    size: int
    weights: bytes
    path: Path
    model: str
    certifier: Certifier
    question: Question
    source: Source
    device: str
    threads: int | None

    @property
    def name(self) -> str:
        """The number of the first image."""
        return str(self.first)

    def run(self, *, images: ImageLoader, send: Send) -> None:
        """Send what computes, and a list of rows, for each chunk. Raises what certify raises."""
        device = pick_device(self.device)
        data = images(self.source)
        model = self._model(data, device)
        train = self.question.split == "train"
        x, y = (data.train_x, data.train_y) if train else (data.test_x, data.test_y)
        with CertifierSession(self.certifier) as session:
            for begin in range(self.first, self.end, self.size):
                part = slice(begin, min(begin + self.size, self.end))
                send(
                    certify_chunk(
                        model, x[part].to(device), y[part].to(device), question=self.question, session=session,
                        first=begin, on_engine=send,
                    )
                )  # fmt: skip

    def _model(self, data: Dataset, device: torch.device) -> nn.Module:
        dataset = self.source.dataset
        if self.path.suffix != ONNX:
            return Saved(self.path, load(self.weights), dataset, None).model(data, device=device, name=self.model)
        with TemporaryDirectory() as folder:
            path = Path(folder) / self.path.name
            path.write_bytes(self.weights)
            return Saved(path, {}, dataset, None).model(data, device=device)


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """A certification that jobs share. count: the images, from the first of the split on. size: those of a chunk.

    model: the network's name; None is what the weights say.
    """

    saved: Saved
    model: str | None
    certifier: Certifier
    question: Question
    source: Source
    count: int
    size: int
    device: str

    def rows_from(
        self,
        start: int,
        *,
        executor: Executor,
        threads: int | None,
        report: Report = silent,
        on_engine: Callable[[str], object] | None = None,
    ) -> Iterator[list[ImageResult]]:
        """The rows of images from a number on, in order, as they become complete.

        report: told what keeps a job from beginning. on_engine: what computes, wherever a job runs.
        Raises SoftadvError where a job fails, or its workers are lost again and again.
        """
        if start >= self.count:
            return
        begin = next_first = start - start % self.size
        under_way: dict[int, _Span] = {}  # by their ends
        chunks: dict[int, list[ImageResult]] = {}
        path = self.saved.path
        weights = read_bytes(path) if path.suffix == ONNX else tensors_bytes(self.saved.weights)

        def submit(span: _Span) -> None:
            executor.submit(self._job(span, weights, threads))

        def receive(handle: Handle, message: object) -> None:
            assert isinstance(handle.job, SpanJob)
            span = under_way[handle.job.end]
            match message:
                case list():
                    chunks[message[0].index] = message
                    span.done, span.lost = message[-1].index + 1, 0
                case str():
                    if on_engine is not None:
                        on_engine(message)
                case ProgressMessage():
                    report(message.what, message.work)
                case Ended(outcome="finished"):
                    del under_way[span.end]
                case Ended():
                    last = message.reason.splitlines()[-1]
                    raise SoftadvError(f"images {span.done} to {span.end - 1}: {last} (on {message.where})")
                case Lost():
                    span.lost += 1
                    if span.lost > _TRIES_AGAIN:
                        raise SoftadvError(
                            f"images {span.done} to {span.end - 1}: given up after {span.lost} workers, the last of "
                            f"which: {message.reason}"
                        )
                    if span.done == span.end:  # the rows are there; only the word is missing that it has ended
                        del under_way[span.end]
                    else:
                        submit(span)

        while next_first < self.count or under_way or chunks:
            # How far to run ahead of the first missing row: later rows wait in memory.
            ahead = begin + 2 * executor.slots * _CHUNKS * self.size
            while executor.free and next_first < min(ahead, self.count):
                span = self._span(next_first, executor.slots)
                next_first = span.end
                under_way[span.end] = span
                submit(span)
            if under_way:
                executor.deliver(receive)
            while begin in chunks:
                rows = chunks.pop(begin)
                begin += len(rows)
                yield [row for row in rows if row.index >= start]

    def _span(self, first: int, slots: int) -> _Span:
        """The next span. Towards the end they get shorter, so that the workers end at about the same time."""
        chunks_left = -(-(self.count - first) // self.size)
        chunks = max(1, min(_CHUNKS, chunks_left // (2 * slots)))
        return _Span(first, min(first + chunks * self.size, self.count))

    def _job(self, span: _Span, weights: bytes, threads: int | None) -> SpanJob:
        own = "conv_small" if self.saved.trial is None else self.saved.trial.model
        return SpanJob(
            span.done, span.end, self.size, weights, self.saved.path, self.model or own, self.certifier, self.question,
            self.source, self.device, threads,
        )  # fmt: skip


@dataclass
class _Span:
    """Images under way. done: the first of which there is no row yet."""

    done: int
    end: int
    lost: int = 0
