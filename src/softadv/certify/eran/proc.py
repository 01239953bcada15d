"""Processor time and memory of another process, read from Linux's /proc; None where there is no /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


class OwnTime:
    """The time that a process has used since this object was made, without the time it waited for a processor.

    While a thread of the process is runnable, only the processor time it gets counts. At all other times the wall
    clock counts, since the process waits by its own choice. So an engine that hangs runs into its time limit, and one
    on a busy machine does not. Where /proc has no answer, wall-clock time counts.
    """

    def __init__(self, pid: int) -> None:
        """pid: the process's number."""
        self._pid = pid
        self._spent = 0.0
        self._looked, self._worked = time.monotonic(), processor_seconds(pid)

    def spent(self) -> float:
        """Seconds so far. Call it often: whether a thread is runnable is only sampled in these calls."""
        now, worked = time.monotonic(), processor_seconds(self._pid)
        span = now - self._looked
        if worked is not None and self._worked is not None and _wants_processor(self._pid):
            span = min(span, worked - self._worked)
        self._spent += span
        self._looked, self._worked = now, worked
        return self._spent


def processor_seconds(pid: int) -> float | None:
    """Processor time of all threads of a process, including ended ones, in seconds; None where it is not known."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def resident_bytes(pid: int) -> int | None:
    """The memory of a process that is not swapped out, in bytes; None where it is not known."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


def _wants_processor(pid: int) -> bool:
    """Whether a thread of a process is running or runnable."""
    return any(_stat(thread)[:1] == ["R"] for thread in Path(f"/proc/{pid}/task").glob("*/stat"))


def _stat(path: Path) -> list[str]:
    """The fields of a stat file, from the process state on; empty where there is no such file or thread."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []
