"""Folders of temporary files that do not outlive their process: if it is killed, the next one deletes them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_OWNER = ".owner"  # the file that a folder's process holds a lock on
_YOUNG_SECONDS = 60  # an owner's file that is still empty is left alone so long: its process may be about to lock it


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
        with suppress(OSError):  # a full disk, or Windows, which lets nobody write a locked file
            (self.path / _OWNER).write_text(f"{os.getpid()}\n")

    def __enter__(self) -> Path:
        """The folder."""
        return self.path

    def __exit__(self, *_: object) -> None:
        """Delete it."""
        self.delete()

    def delete(self) -> None:
        """Delete the folder with all that is in it, as far as that can be done."""
        _delete(self.path)
        self._lock.release()


def _sweep(place: Path, prefix: str) -> None:
    """Delete this user's folders with this prefix whose processes have ended.

    Their owner's file is written, and not locked.
    """
    for owner in place.glob(f"{prefix}*/{_OWNER}"):
        try:
            about, folder = owner.lstat(), owner.parent.lstat()
            if not stat.S_ISDIR(folder.st_mode):  # a link: where all may write, anyone may have laid it
                continue
            if os.name != "nt" and {about.st_uid, folder.st_uid} != {os.geteuid()}:
                continue
            if not about.st_size and time.time() - about.st_mtime < _YOUNG_SECONDS:
                continue
            with FileLock(owner, blocking=False):
                _delete(owner.parent)
        except (OSError, Timeout):  # one that is gone, or in use
            continue


def _delete(folder: Path) -> None:
    """Delete a folder; what a process of Ray's that is still ending writes there meanwhile is left to the next one.

    The owner's file goes last: who is killed before that leaves a folder that the next one deletes.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _OWNER:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        if folder.exists():
            (folder / _OWNER).write_text("left\n")
