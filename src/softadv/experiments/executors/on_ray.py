"""Jobs as tasks of Ray: on one started here, or on a cluster that is there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from softadv._scratch import Scratch
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.executors.images import ImageLoader, Source
from softadv.experiments.executors.jobs import (
    Ended,
    Job,
    Lost,
    ProgressMessage,
    Receive,
    ThrottledSend,
    attempt,
    this_process,
)
from softadv.experiments.executors.ray_settings import (
    LOCAL,
    end_rest,
    forget_token,
    processes_of_ones_own,
    ray_settings,
)
from softadv.experiments.executors.resources import usable_cores

# Ray itself waits minutes for an answer from a node that is cut off, even when it knows that the node is gone.
_LOOK_SECONDS = 5.0


@dataclass(eq=False)
class _Taken:
    """A job that Ray has. messages: its generator of references. began: where it runs, once that is known."""

    job: Job
    messages: Any
    began: _Began | None = None


@dataclass(frozen=True)
class _Began:
    """A task's first message. node: Ray's name of the node that it runs on. where: that and the process, in words."""

    node: str
    where: str


class OnRay:
    """An executor of as many tasks as the cluster has room for. Each node is sent the images once.

    The nodes need softadv, the code that jobs name, and no common file system.
    """

    def __init__(self, address: str, *, threads: int, gpus: float, images: ImageLoader) -> None:
        """address: "local" starts Ray here, "auto" or a HOST:PORT joins one; where this process has joined one
        already, that is used. threads, gpus: of each job. images: what jobs may ask for, as this process has them.

        Raises SoftadvError where there is no Ray, where it cannot be joined, and for GPUs that this machine lacks
        where Ray is started here.
        """
        self._ray = ray = _ray()
        self._threads, self._gpus, self._images = threads, gpus, images
        self._running: list[_Taken] = []
        self._sent: dict[Source, Any] = {}
        self._lost_on: dict[str, set[str]] = {}  # by the name of a job, nodes that it lost a worker on
        self._place: Scratch | None = None
        self._ours = not ray.is_initialized()
        if self._ours:
            self._start(address)
        self._looked, self._known_gone = time.monotonic(), self._gone()
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
        taken = _Taken(job, self._begin(job))
        self._running.append(taken)
        return taken

    def deliver(self, receive: Receive) -> None:
        """Wait a moment for a message of any task, or for the loss of one, and hand over what there is."""
        by_messages = {id(taken.messages): taken for taken in self._running}
        running = [taken.messages for taken in self._running]
        ready, _ = self._ray.wait(running, timeout=_LOOK_SECONDS, fetch_local=False)
        for messages in ready:
            taken = by_messages[id(messages)]
            message = self._next(taken)
            if isinstance(message, _Began):
                taken.began = message
            else:
                self._hand_over(taken, message, receive)
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look(receive)

    def close(self) -> None:
        """End what runs, and Ray itself, if it was started or joined here."""
        for taken in self._running:
            self._end(taken)
        self._running.clear()
        self._sent.clear()
        self._leave()

    def _leave(self) -> None:
        """End Ray, or leave the cluster, if it was started or joined here; another may be joined after it."""
        ours = [] if self._place is None else processes_of_ones_own(self._ray)
        if self._ours:
            self._ray.shutdown()
            forget_token(self._ray)
        if self._place is not None:
            end_rest(ours)
            self._place.delete()

    def _look(self, receive: Receive) -> None:
        """Give up what runs on nodes that are gone: of a node that is cut off Ray itself waits long for word."""
        gone = self._gone()
        newly, self._known_gone = gone - self._known_gone, gone
        fits = all(taken.began for taken in self._running) or self._fits_a_node()
        for taken in list(self._running):
            if taken.began is None and not fits:  # a node that joins may; until then nobody would know why it waits
                receive(taken, ProgressMessage(f"waiting for a node of Ray with {self._need()}", 0))
            if taken.began is None and newly:  # nobody knows whether it was on its way there
                self._end(taken)
                self._lost_on.setdefault(taken.job.name, set()).update(newly)
                taken.messages = self._begin(taken.job)
            elif taken.began is not None and taken.began.node in gone:
                self._end(taken)
                self._hand_over(taken, Lost("its node is gone"), receive)

    def _fits_a_node(self) -> bool:
        """Whether there is a node that could run a job if it had nothing else to do."""
        there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return any(each.get("CPU", 0) >= self._threads and each.get("GPU", 0) >= self._gpus for each in there)

    def _need(self) -> str:
        """What a job takes of a node, in words."""
        cpus = f"{self._threads} CPU{'' if self._threads == 1 else 's'}"
        return f"{cpus} and {self._gpus:g} GPU" if self._gpus else cpus

    def _begin(self, job: Job) -> Any:
        """Have Ray run a job. Returns the generator of its messages."""
        source = getattr(job, "source", None)
        return self._elsewhere(job).remote(job, self._sent.get(source) if isinstance(source, Source) else None)

    def _elsewhere(self, job: Job) -> Any:
        """The task, to be run on a node that has not lost a worker of this job, if one has room."""
        lost_on = self._lost_on.get(job.name, set())
        # Ray has named the label of a node's own name in more than one way.
        labels = {key for node in self._ray.nodes() for key, value in node["Labels"].items() if value in lost_on}
        if not labels:
            return self._work
        strategies = self._ray.util.scheduling_strategies
        others = {label: strategies.NotIn(*sorted(lost_on)) for label in labels}
        return self._work.options(scheduling_strategy=strategies.NodeLabelSchedulingStrategy(hard={}, soft=others))

    def _hand_over(self, taken: _Taken, message: object, receive: Receive) -> None:
        if isinstance(message, Lost) and taken.began is not None:
            self._lost_on.setdefault(taken.job.name, set()).add(taken.began.node)
            message = Lost(f"{message.reason} (on {taken.began.where})")
        if isinstance(message, Ended | Lost):
            self._running.remove(taken)
        if isinstance(message, Ended):
            self._lost_on.pop(taken.job.name, None)
        try:
            receive(taken, message)
        except SoftadvError as error:
            if isinstance(message, Ended | Lost):
                raise
            self._end(taken)
            self._running.remove(taken)
            receive(taken, Ended("refused", str(error)))

    def _gone(self) -> set[str]:
        """The nodes that the cluster has lost, by Ray's names."""
        return {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}

    def _next(self, taken: _Taken) -> object:
        """The next message of a task; Lost where its worker, its node or the message is gone."""
        errors = self._ray.exceptions
        try:
            message = next(taken.messages)
            while True:
                try:
                    return self._ray.get(message, timeout=_LOOK_SECONDS)
                except errors.GetTimeoutError:  # it is long, or on its way from a node that is cut off
                    if taken.began is not None and taken.began.node in self._gone():
                        return Lost("its node is gone")
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
            self._place = Scratch("softadv-ray-", parent=Path("/tmp") if os.path.isdir("/tmp") else None)
            # As many CPUs as a job has threads, even where there are fewer: else it would wait for ever.
            cpus = max(usable_cores(), self._threads)
            options |= {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": str(self._place.path)}
        try:
            with ray_settings(self._ray, address):
                self._ray.init(**options)
            if address == LOCAL and not self._fits_a_node():
                raise SoftadvError(f"--ray {address}: this machine does not have {self._need()}")
        except BaseException as error:
            self._leave()  # Ctrl-C, too, may come when half of Ray has started
            if isinstance(error, SoftadvError) or not isinstance(error, Exception):
                raise
            raise SoftadvError(f"--ray {address}: cannot be reached ({_line(error)})") from error


def stream(job: Job, packed: dict[str, Any] | None) -> Iterator[object]:
    """The body of a task: run a job in a thread, and yield its messages as they come."""
    messages: SimpleQueue[object] = SimpleQueue()

    def images(source: Source) -> Dataset:
        return source.load() if packed is None else _unpacked(packed)

    def work() -> None:
        send = ThrottledSend(messages.put)
        send(attempt(job, images=images, send=send, where=this_process()))

    yield _Began(_ray().get_runtime_context().get_node_id(), this_process())
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
        raise SoftadvError("--ray needs Ray: pip install ray") from error
    return ray
