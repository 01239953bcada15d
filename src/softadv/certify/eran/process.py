"""The worker as a child process that cannot outlive softadv, and for which softadv never waits without limit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from softadv.certify.eran.proc import OwnTime
from softadv.certify.eran.protocol import invalid_line
from softadv.errors import SoftadvError

_VARIABLE = "SOFTADV_ERAN"
_LONGEST_LINE = 2**20
# Standard error: the bytes that are kept, the lines and the characters that are shown.
_LAST_BYTES = 2**14
_LAST_LINES = 3
_LONGEST_WORDS = 500
_READ = 2**16
# Reads of standard error at a time: a worker may write without end.
_MOST_READS = 64
# How often a silent worker is checked.
_SECONDS_BETWEEN_LOOKS = 0.25
# How long to wait for the exit code of a process that has closed its output (of its own time), and for a killed one to
# be gone. Only a process that waits for a device that does not answer takes longer.
_SECONDS_TO_END = 1.0
_SECONDS_TO_BE_GONE = 30.0


class WorkerDied(Exception):
    """The worker ended. The message has its exit code or signal, and its last messages."""


class WorkerLate(Exception):
    """The worker sent no line within its time limit; time spent waiting for a processor does not count."""


def worker_command() -> list[str]:
    """The command that starts a worker, from SOFTADV_ERAN: a folder with bin/python and worker.py, or a command.

    Raises SoftadvError where it is not set, or cannot be split into words.
    """
    named = os.environ.get(_VARIABLE, "").strip()
    if not named:
        raise SoftadvError(
            f"ERAN is not here: {_VARIABLE} names its folder, or the command that starts its worker; "
            "softadv's container has both (docker run --gpus all softadv)"
        )
    if Path(named).is_dir():
        return [str(Path(named) / "bin" / "python"), str(Path(named) / "worker.py")]
    try:
        return shlex.split(named)
    except ValueError as error:
        raise SoftadvError(f"{_VARIABLE}: {named!r} is no command ({error})") from error


class Worker:
    """A child process that reads and writes lines of JSON. Use it as a context manager, or end it with kill."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises SoftadvError where the command cannot be started."""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # so that what it starts can be killed with it
            )
        except OSError as error:
            raise SoftadvError(f"{_VARIABLE}: {command[0]} cannot be started ({error.strerror})") from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._received, self._stderr_tail = (
            b"",
            b"",
        )  # standard output that is not yet returned; the end of standard error
        self._errors = self._process.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._selector.register(self._errors, selectors.EVENT_READ)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id, which is also its process group's."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a line. Raises WorkerDied where the worker has closed its input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps(message)}\n".encode())
        except BrokenPipeError:
            raise self._died() from None

    def receive(self, *, seconds: float) -> bytes:
        """The next line. Raises WorkerDied, and WorkerLate after `seconds` of the worker's own time (proc.OwnTime)."""
        taken = OwnTime(self.pid)
        while b"\n" not in self._received:
            left = seconds - taken.spent()
            ready = [key for key, _ in self._selector.select(max(min(left, _SECONDS_BETWEEN_LOOKS), 0))]
            # What has come by now is no less an answer if it was this process that waited for a processor.
            if left <= 0 and all(key.fileobj is self._errors for key in ready):
                raise WorkerLate
            for key in ready:
                if key.fileobj is self._errors:
                    self._read_stderr()
                    continue
                data = os.read(key.fd, _READ)
                if not data:  # half a line may be there, but nobody will ever finish it
                    raise self._died()
                self._received += data
            if len(self._received) > _LONGEST_LINE and b"\n" not in self._received:
                raise invalid_line(self._received)
        line, _, self._received = self._received.partition(b"\n")
        return line

    def kill(self) -> None:
        """Kill the process and all that it has started, and wait until it is gone."""
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or (macOS) about to go
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_SECONDS_TO_BE_GONE)

    def last_messages(self) -> str:
        """The last lines of its standard error, as one line; empty where there are none."""
        for _ in range(_MOST_READS):
            if self._errors.closed or not self._read_stderr():
                break
        lines = [" ".join(line.split()) for line in self._stderr_tail.decode(errors="replace").splitlines()]
        return " / ".join([line for line in lines if line][-_LAST_LINES:])[-_LONGEST_WORDS:]

    def _read_stderr(self) -> bool:
        """Read standard error, a limited number of times; returns whether there was anything."""
        data = self._errors.read(_READ)
        if data:
            self._stderr_tail = (self._stderr_tail + data)[-_LAST_BYTES:]
        elif data is not None and self._errors in self._selector.get_map():  # closed, not merely silent
            self._selector.unregister(self._errors)
        return bool(data)

    def _died(self) -> WorkerDied:
        taken = OwnTime(self.pid)
        while self._process.returncode is None and taken.spent() < _SECONDS_TO_END:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_SECONDS_BETWEEN_LOOKS)
        code = self._process.returncode
        if code is None:
            how = "it closed its standard output"
        elif code < 0:
            how = f"it was killed by {_signal_name(-code)}"
        else:
            how = f"it ended with exit code {code}"
        words = self.last_messages()
        return WorkerDied(f"{how}, saying {words!r}" if words else how)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Python names the first and the last of the real-time signals only
        return f"signal {number}"
