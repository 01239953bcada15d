"""Folders of temporary files that do not outlive their process: if it is killed, the next one deletes them."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_OWNER = ".owner"  # the file that a folder's process holds a lock on
_YOUNG_SECONDS = 60  # a folder is left alone for so long, since its process may be about to take the lock


class Scratch:
    """A folder of temporary files, which this process holds a lock on. delete removes it.

    path: the folder. The system drops the lock of a process that has ended, however it ended. Whoever makes the next
    folder with the same prefix in the same place first deletes those that nobody holds.
    """

    def __init__(self, prefix: str, *, parent: Path | None = None) -> None:
        """prefix: begins the folder's name. parent: where it is made; None is the usual place of temporary files."""
        place = Path(tempfile.gettempdir()) if parent is None else parent
        _sweep(place, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._lock = FileLock(self.path / _OWNER)
        self._lock.acquire()

    def __enter__(self) -> Path:
        """The folder."""
        return self.path

    def __exit__(self, *_: object) -> None:
        """Delete it."""
        self.delete()

    def delete(self) -> None:
        """Delete the folder with all that is in it, as far as that can be done."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            if self.path.exists():  # a process of Ray's that is ending wrote there: the next one deletes the rest
                (self.path / _OWNER).touch()
        self._lock.release()


def _sweep(place: Path, prefix: str) -> None:
    """Delete folders with this prefix whose processes have ended."""
    for owner in place.glob(f"{prefix}*/{_OWNER}"):
        try:
            if time.time() - owner.stat().st_mtime < _YOUNG_SECONDS:
                continue
            with FileLock(owner, blocking=False):
                shutil.rmtree(owner.parent, ignore_errors=True)
        except (OSError, Timeout):  # another user's, one that is gone, or one that is in use
            continue
