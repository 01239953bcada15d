"""Lock files, so that only one process at a time writes a run folder or a file of verdicts."""

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
    """Hold a lock file; it is deleted afterwards.

    lock: the file; its parent folders are created. what: the folder or file that it protects, named in messages.
    patience: seconds to wait for another process to release it.
    The operating system releases the lock of a process that has ended in any way.

    Raises SoftadvError where another process, or another place in this one, holds the lock, and names the holder; and
    where the lock file cannot be created.
    """
    with warnings.catch_warnings():
        # On a file system without locks, the file's existence is the lock, with the same content.
        warnings.filterwarnings("ignore", message="flock not supported")
        file = FileLock(lock)
        try:
            file.acquire(timeout=patience)
        except Timeout as error:
            raise SoftadvError(f"{what}: in use by {_holder(lock)}; wait for its end, or name another") from error
        except OSError as error:
            if lock.parent.is_file():
                raise SoftadvError(f"{lock.parent}: is a file, not a folder") from error
            raise SoftadvError(f"{what}: cannot be locked ({lock.name}: {error.strerror})") from error
    try:
        if not isinstance(file, SoftFileLock):
            with suppress(OSError):  # a full disk: then nobody can be told who holds it
                lock.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        # In this order: a process that opened the file meanwhile finds it deleted, and creates a new one.
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
