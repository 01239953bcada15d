"""One process at a time writes a run folder or a file of verdicts."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from softadv.errors import SoftadvError


@contextmanager
def held(lock: Path, *, what: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file; afterwards the file is gone.

    lock: the file; folders above it are made. what: the folder or file that it stands for, named in messages.
    patience: seconds to wait for another process to release it.
    The system drops the lock of a process that has ended, however it ended.

    Raises SoftadvError, which says who holds it, where another process does (or this one, elsewhere), and where no
    lock file can be made.
    """
    with warnings.catch_warnings():
        # Where the file system has no locks, the file itself is one, with the same words in it.
        warnings.filterwarnings("ignore", message="flock not supported")
        file = FileLock(lock)
        try:
            file.acquire(timeout=patience)
        except Timeout as error:
            raise SoftadvError(f"{what}: in use by {_holder(lock)}; wait for its end, or name another") from error
        except OSError as error:
            raise SoftadvError(f"{what}: cannot be locked ({lock.name}: {error.strerror})") from error
    try:
        if not isinstance(file, SoftFileLock):
            with suppress(OSError):  # a full disk: then nobody can be told who holds it
                lock.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        # In this order: whoever opened the file meanwhile finds it deleted, and makes a new one.
        with suppress(OSError):
            lock.unlink()
        file.release()


def _holder(lock: Path) -> str:
    """Who holds a lock, in words."""
    try:
        process, host = lock.read_text().splitlines()[:2]
        since = datetime.fromtimestamp(lock.stat().st_mtime, UTC)
    except (OSError, ValueError):  # it has just been released, or taken
        return "another process"
    return f"process {process} on {host} since {since:%Y-%m-%d %H:%M:%S} UTC"
