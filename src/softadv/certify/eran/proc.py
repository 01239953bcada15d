"""What Linux tells of another process in /proc. Where there is no /proc, nothing is told, and nothing goes wrong."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


class OwnTime:
    """The time that a process has taken by itself since this was made: not what it waited for a processor.

    A span in which a thread of the process wants a processor counts for no more than the processor time that the
    process got; any other span counts whole, since the process waits for something of its own choice. So an engine
    that hangs runs out of its time as the clock goes, and one that shares a busy machine does not. Where Linux does
    not tell, all time counts.
    """

    def __init__(self, pid: int) -> None:
        """pid: the process's number."""
        self._pid = pid
        self._spent = 0.0
        self._looked, self._worked = time.monotonic(), processor_seconds(pid)

    def spent(self) -> float:
        """Seconds, up to now. To be asked often: whether a processor is wanted is looked up at these moments only."""
        now, worked = time.monotonic(), processor_seconds(self._pid)
        span = now - self._looked
        if worked is not None and self._worked is not None and _wants_processor(self._pid):
            span = min(span, worked - self._worked)
        self._spent += span
        self._looked, self._worked = now, worked
        return self._spent


def processor_seconds(pid: int) -> float | None:
    """Processor time of all threads of a process, those that have ended too; None where it is not known."""
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
    """Whether a thread of a process runs, or would if it were let."""
    return any(_stat(thread)[:1] == ["R"] for thread in Path(f"/proc/{pid}/task").glob("*/stat"))


def _stat(path: Path) -> list[str]:
    """The fields of a stat file from the state on; none where the thread has ended, or there is no such file."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []
