"""Jobs in processes on this machine, as many side by side as there are workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import platform
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from softadv._scratch import Scratch
from softadv.errors import SoftadvError
from softadv.experiments.executors.images import LoadedHere
from softadv.experiments.executors.jobs import Ended, Job, Lost, Receive, ThrottledSend, attempt, this_process
from softadv.experiments.executors.resources import Dealt

_END_SECONDS = 5  # how long a worker may take to end by itself when it is told to
_DYING_SECONDS = 600  # how long one whose pipe has ended may take to be gone, on a busy machine


@dataclass(eq=False)
class _Worker:
    """A process that does one job after another. place: its folder of temporary files. sender: what sends the job."""

    process: BaseProcess
    connection: Connection
    place: Scratch
    number: int
    job: Job | None = None
    sender: threading.Thread | None = None

    def take(self, job: Job) -> None:
        """Send a job. Raises what pickling it raises."""
        message = pickle.dumps(job)
        self.job = job
        # In a thread: a starting worker reads late, and others must not wait for it.
        self.sender = threading.Thread(target=_send, args=(self.connection, message), daemon=True)
        self.sender.start()

    def end(self) -> None:
        """End the process, whatever it is doing, and delete its files."""
        self.process.terminate()
        self.process.join(_END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        if self.sender is not None:
            self.sender.join(_END_SECONDS)  # nobody reads any more, so that it fails at once
        self.connection.close()
        self.process.close()
        self.place.delete()


@dataclass(frozen=True)
class _Taken:
    job: Job


class Processes:
    """An executor of so many processes. One that dies is replaced when there is a job for it.

    The processes are started afresh ("spawn"): a script that uses this has its own work below
    `if __name__ == "__main__":`.
    """

    def __init__(self, dealt: Dealt) -> None:
        """dealt: how many workers, and the GPU of each."""
        self._dealt = dealt
        self._workers: dict[int, _Worker] = {}
        self._context = multiprocessing.get_context("spawn")

    @property
    def slots(self) -> int:
        """How many workers there are."""
        return self._dealt.jobs

    @property
    def free(self) -> int:
        """How many of them have nothing to do."""
        return self.slots - len(self._busy())

    def submit(self, job: Job) -> _Taken:
        """Give a job to a worker that has none, and start that if need be."""
        busy = {worker.number for worker in self._busy()}
        idle = [number for number in range(self.slots) if number not in busy]
        number = next((number for number in idle if number in self._workers), idle[0])
        worker = self._workers.get(number)
        if worker is not None and not worker.process.is_alive():
            self._forget(worker)
            worker = None
        (worker or self._start(number)).take(job)
        return _Taken(job)

    def deliver(self, receive: Receive) -> None:
        """Wait for a message of any worker, or for the end of one, and hand over what there is."""
        busy = {worker.connection: worker for worker in self._busy()}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index] # of those that were given
            job = worker.job
            assert job is not None
            taken = _Taken(job)
            try:
                message = worker.connection.recv()
            except Exception as error:  # the worker has died, maybe in the midst of a message
                ended = isinstance(error, EOFError | OSError)  # or else a message that cannot be read here
                receive(taken, Lost(self._buried(worker, seconds=_DYING_SECONDS if ended else 0)))
                continue
            if isinstance(message, Ended):
                worker.job = None
            try:
                receive(taken, message)
            except SoftadvError as error:
                if isinstance(message, Ended):
                    raise
                self._forget(worker)
                receive(taken, Ended("refused", str(error)))

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.process.terminate()  # all at once: one may take its time
        for worker in list(self._workers.values()):
            self._forget(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.job is not None]

    def _forget(self, worker: _Worker) -> None:
        """End a worker."""
        del self._workers[worker.number]
        worker.end()

    def _buried(self, worker: _Worker, *, seconds: float) -> str:
        """Clear away a worker that says no more, and say how it ended, in a line. seconds: how long it may be dying."""
        worker.process.join(seconds)
        reason = (
            f"the worker ended {_how(worker.process.exitcode)} (on {platform.node()}, process {worker.process.pid})"
        )
        self._forget(worker)
        return reason

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        place = Scratch("softadv-worker-")
        given = theirs, str(place.path), self._dealt.gpu(number)
        process = self._context.Process(target=serve, args=given, daemon=True, name=f"softadv worker {number}")
        with _interrupts_held_back():
            process.start()
        theirs.close()  # otherwise the pipe would not close when the worker ends
        worker = _Worker(process, ours, place, number)
        self._workers[number] = worker
        return worker


def serve(connection: Connection, place: str, gpu: str | None) -> None:
    """A worker's main loop: one job after another, until the driver is gone.

    place: its folder of temporary files. gpu: the one that it is to see; None: those that there are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the driver ends its workers
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which _interrupts_held_back has blocked
    threading.Thread(target=_end_with_the_driver, args=(place,), daemon=True).start()
    tempfile.tempdir = place
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    images = LoadedHere()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        send = ThrottledSend(connection.send)
        ended = attempt(job, images=images, send=send, where=this_process())
        try:
            send(ended)
        except OSError:  # the driver has been killed: there is nobody to tell
            return


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Block SIGINT in this thread, and in processes that are started in the block, until serve ignores it.

    Otherwise Ctrl-C while a worker still imports PyTorch would leave its traceback on the terminal.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first process starts it, and that would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection: Connection, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the worker has just died, as deliver finds out
        connection.send_bytes(message)


def _end_with_the_driver(place: str) -> None:
    """End this process when the one that started it has ended in any way."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
    shutil.rmtree(place, ignore_errors=True)
    os._exit(1)


def _how(code: int | None) -> str:
    if code is None:
        return "without a word"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"by the signal {name}"
    return f"with exit code {code}"
