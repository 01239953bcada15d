"""Jobs as tasks of Ray: on one started here, or on a cluster that is there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.executors.images import Images, Source
from softadv.experiments.executors.jobs import Ended, Job, Lost, Receive, Seldom, attempt, this_process
from softadv.experiments.executors.resources import usable_cores

LOCAL = "local"
# Ray reads these variables before it starts: they switch off usage reports.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


@dataclass(frozen=True, eq=False)
class _Taken:
    job: Job
    messages: Any  # Ray's generator of references


class OnRay:
    """An executor of as many tasks as the cluster has room for. Each node is sent the images once.

    The nodes need softadv, the code that jobs name, and no common file system.
    """

    def __init__(self, address: str, *, threads: int, gpus: float, images: Images) -> None:
        """address: "local" starts Ray here, "auto" or a HOST:PORT joins one; where this process has joined one
        already, that is used. threads, gpus: of each job. images: what jobs may ask for, as this process has them.

        Raises SoftadvError where there is no Ray, and where it cannot be joined.
        """
        self._ray = ray = _ray()
        self._threads, self._gpus, self._images = threads, gpus, images
        self._running: list[_Taken] = []
        self._sent: dict[Source, Any] = {}
        self._place: str | None = None
        self._ours = not ray.is_initialized()
        if self._ours:
            self._start(address)
        self._work = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0, num_returns="streaming")(stream)

    @property
    def slots(self) -> int:
        """How many jobs the cluster, as it is now, has room for: one at least, that waits for room."""
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self._threads)
        if self._gpus:
            room = min(room, int(there.get("GPU", 0) / self._gpus + 1e-9))
        return max(room, 1)

    @property
    def free(self) -> int:
        """How many more jobs would begin at once."""
        return max(self.slots - len(self._running), 0)

    def submit(self, job: Job) -> _Taken:
        """Hand a job to Ray."""
        source = getattr(job, "source", None)
        if isinstance(source, Source) and source not in self._sent:
            self._sent[source] = self._ray.put(_packed(self._images(source)))
        taken = _Taken(job, self._work.remote(job, self._sent.get(source) if source is not None else None))
        self._running.append(taken)
        return taken

    def deliver(self, receive: Receive) -> None:
        """Wait for a message of any task, or for the loss of one, and hand over what there is."""
        by_messages = {id(taken.messages): taken for taken in self._running}
        ready, _ = self._ray.wait([taken.messages for taken in self._running], fetch_local=False)
        for messages in ready:
            taken = by_messages[id(messages)]
            message = self._next(taken)
            if isinstance(message, Ended | Lost):
                self._running.remove(taken)
            try:
                receive(taken, message)
            except SoftadvError as error:
                if isinstance(message, Ended | Lost):
                    raise
                self._end(taken)
                self._running.remove(taken)
                receive(taken, Ended("refused", str(error)))

    def close(self) -> None:
        """End what runs, and Ray itself, if it was started or joined here."""
        for taken in self._running:
            self._end(taken)
        self._running.clear()
        self._sent.clear()
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)

    def _next(self, taken: _Taken) -> object:
        """The next message of a task; Lost where its worker, its node or the message is gone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(taken.messages))
        except StopIteration:
            return Lost("the task ended without a word")
        except errors.RayTaskError as error:  # outside the job itself: such as a node without softadv
            return Ended("failed", f"the task could not be run: {_line(error)}", "Ray")
        except errors.RayError as error:
            return Lost(f"{type(error).__name__}: {_line(error)}")

    def _end(self, taken: _Taken) -> None:
        with contextlib.suppress(Exception):  # it may have ended, or Ray may have
            self._ray.cancel(taken.messages, force=True)

    def _start(self, address: str) -> None:
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
        if address == LOCAL:
            # Socket paths must be short, which not every temporary folder allows.
            self._place = tempfile.mkdtemp(prefix="softadv-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
            options |= {"num_cpus": usable_cores(), "include_dashboard": False, "_temp_dir": self._place,
                        "_node_ip_address": "127.0.0.1"}  # fmt: skip
        before = {name: os.environ.get(name) for name in _QUIET}
        os.environ.update(_QUIET)
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(**options)
            if terminate is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)  # Ray's own handler aborts the process
        except Exception as error:
            if self._place is not None:
                shutil.rmtree(self._place, ignore_errors=True)
            raise SoftadvError(f"--ray {address}: cannot be had ({_line(error)})") from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def stream(job: Job, packed: dict[str, Any] | None) -> Iterator[object]:
    """The body of a task: run a job in a thread, and yield its messages as they come."""
    messages: SimpleQueue[object] = SimpleQueue()

    def images(source: Source) -> Dataset:
        return source.load() if packed is None else _unpacked(packed)

    def work() -> None:
        send = Seldom(messages.put)
        send(attempt(job, images=images, send=send, where=this_process()))

    threading.Thread(target=work, daemon=True).start()
    while True:
        message = messages.get()
        yield message
        if isinstance(message, Ended):
            return


def _packed(data: Dataset) -> dict[str, Any]:
    """Images as Ray's store keeps them without a copy for each process."""
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in fields.items()}


def _unpacked(packed: dict[str, Any]) -> Dataset:
    # A copy, since the store's memory may not be written, and PyTorch does not know that.
    tensors = {name: torch.from_numpy(packed[name].copy()) for name in ("train_x", "train_y", "test_x", "test_y")}
    return Dataset(**packed | tensors)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _ray() -> Any:
    """Ray, which is an extra of softadv's."""
    try:
        import ray  # noqa: PLC0415 (brings much that most commands do without)
    except ImportError as error:
        raise SoftadvError("--ray needs Ray: pip install softadv[ray]") from error
    return ray
