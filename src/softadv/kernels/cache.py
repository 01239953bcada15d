"""Compiled kernels on disk. A library is loaded only if it is intact and no other user can have written it.

FOLDER/attack-KEY-DIGEST.so   a library. KEY: digest of its source, compiler and machine; DIGEST: SHA-256 of the file
FOLDER/attack-KEY.failed      why the compiler refuses it; the next attempt is an hour later
FOLDER/attack-KEY.late        that it took too long to compile; the next attempt is five minutes later
What may pass sooner, such as a full disk or a compiler that was killed, is not recorded: the next process tries again.
FOLDER is __pycache__ beside the source, or softadv in the user's cache folder: the first that belongs to this user (or
root) and that nobody else can write. If there is none, the library is compiled for one process, in a temporary folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from softadv._io import sync_folder
from softadv._scratch import Scratch
from softadv.errors import SoftadvError

# Some compilers have -ffast-math by default, but the kernels rely on IEEE arithmetic, with NaN and infinity.
_FLAGS = ("-O3", "-fno-fast-math", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
_COMPILERS = ("c++", "g++", "clang++")
_COMPILE_SECONDS = 300
# By the suffix of a record. Every attempt that is too late costs its process _COMPILE_SECONDS of waiting.
_RETRY_SECONDS = {".failed": 3600, ".late": 300}
# What a compiler says that exits by itself when a program of its own was killed, or found no room.
_PASSING = re.compile(
    r"signal terminated program|terminated with signal|Killed \(program|unable to execute command"
    r"|No space left|quota exceeded|memory exhausted|out of memory|allocate memory|Input/output error"
    r"|Too many open files",
    re.IGNORECASE,
)
_OTHERS_WRITE = 0o022
_WORK = "softadv-kernel-"  # prefix of temporary folders


class _RefusedError(SoftadvError):
    """The compiler refuses the source, or what it makes cannot be loaded: so it will be the next time."""


class _LateError(SoftadvError):
    """The compiler takes too long: the machine is busy, or the compiler hangs."""


@dataclass(frozen=True)
class LoadedLibrary:
    """A loaded library. folder: where it is stored, None if it is for this process alone; why: in that case, what is
    wrong with each folder.
    """

    library: ctypes.CDLL
    folder: Path | None
    why: str = ""


def load_library(source: Path) -> LoadedLibrary:
    """Load the library of a C++ file; compile it first if necessary. Its headers are the .h files in the same folder.

    Raises SoftadvError, with the reason, where it can be neither loaded nor compiled.
    """
    compiler = _compiler()
    name = f"{source.stem}-{_key(source, compiler)}"
    against: list[str] = []
    folders = _folders(source)
    for folder in folders:
        with suppress(OSError), _open_trusted(folder) as here:
            for library in _intact_libraries(here, name):
                with suppress(OSError):
                    return LoadedLibrary(ctypes.CDLL(str(library)), folder)
            _check_failures(here, folder, name)
    with Scratch(_WORK) as work:
        try:
            made = _compile(compiler, source, work)
            for folder in folders:
                try:
                    with _open_trusted(folder) as here:
                        return LoadedLibrary(ctypes.CDLL(str(_store(made, here, name))), folder)
                except OSError as error:  # no permission to write, a full disk, a file system mounted noexec
                    against.append(f"{folder}: {error.strerror or error}")
            try:
                return LoadedLibrary(ctypes.CDLL(str(made)), None, "; ".join(against))
            except OSError as error:
                raise _RefusedError(f"what {compiler} makes cannot be loaded: {error}") from error
        except _RefusedError as error:
            _record_failure(str(error), folders, f"{name}.failed")
            raise
        except _LateError as error:
            _record_failure(str(error), folders, f"{name}.late")
            raise


def _compiler() -> str:
    names = (os.environ.get("CXX", ""), *_COMPILERS)
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise SoftadvError("no C++ compiler found (Debian: apt-get install g++)")
    return compiler


def _key(source: Path, compiler: str) -> str:
    """A digest of a library's sources, compiler, flags and processor; machines that share a folder differ in it."""
    folder = source.parent
    headers = [*sorted(folder.glob("*.h")), *sorted(folder.parent.glob("*.h"))]  # of this kernel, and shared ones
    sources = [path.read_text(encoding="utf-8") for path in (source, *headers)]
    about = Path(compiler).stat()
    made_by = (compiler, about.st_size, about.st_mtime_ns, _FLAGS)
    made_for = (platform.machine(), _processor(), platform.libc_ver())
    return hashlib.sha256(repr((sources, made_by, made_for)).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor features that -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _folders(source: Path) -> list[Path]:
    """The folders where libraries may be stored, in order of preference."""
    found = [source.parent / "__pycache__"]
    with suppress(RuntimeError):  # a user without a home
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softadv")
    return found


@contextmanager
def _open_trusted(folder: Path) -> Iterator[Path]:
    """Open a folder, created if missing, that only this user can write; the yielded path survives renames.

    Raises OSError where it cannot be created, belongs to another user, or can be written by others.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.name == "nt":
        yield folder
        return
    _check_owner(os.lstat(folder))  # a link's, if it is one
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check_writers(os.fstat(descriptor))
        pinned = Path(f"/proc/self/fd/{descriptor}")
        yield pinned if pinned.exists() else folder
    finally:
        os.close(descriptor)


def _check_owner(about: os.stat_result) -> None:
    if os.name != "nt" and about.st_uid not in (os.geteuid(), 0):
        raise PermissionError("it is another user's")


def _check_writers(about: os.stat_result) -> None:
    _check_owner(about)
    if os.name != "nt" and about.st_mode & _OTHERS_WRITE:
        raise PermissionError("others can write it")


def _intact_libraries(folder: Path, name: str) -> Iterator[Path]:
    """The libraries of a name that belong to this user and match their digest; damaged ones are deleted."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        try:
            _check_writers(os.lstat(library))
        except PermissionError:  # symbolic links, too: their mode lets everybody write
            continue
        with library.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if library.name == f"{name}-{digest}.so":
            yield library
        else:
            library.unlink()


def _compile(compiler: str, source: Path, work: Path) -> Path:
    """Compile in a folder, within a time limit.

    Raises _RefusedError, _LateError, or for what may pass sooner SoftadvError.
    """
    target, told = work / "kernel.so", work / "messages"
    # Into a file: reading a pipe would wait until every child of the compiler has closed it.
    with told.open("wb") as messages:
        try:
            process = subprocess.Popen(
                [compiler, *_FLAGS, str(source.resolve()), "-o", str(target)],
                stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True,
                env=os.environ | {"TMPDIR": str(work), "LC_ALL": "C"},  # its messages are read here
            )  # fmt: skip
        except OSError as error:
            raise SoftadvError(f"{compiler} cannot be run: {error.strerror}") from error
    try:
        code = process.wait(_COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise _LateError(f"{compiler} has not compiled {source.name} in {_COMPILE_SECONDS} s") from None
    finally:
        _kill(process)
    if code:
        text = told.read_text(errors="replace")
        passing = code < 0 or _PASSING.search(text)
        reason = next((line for line in text.splitlines() if "error" in line), f"exit code {code}")
        raise (SoftadvError if passing else _RefusedError)(f"{compiler} cannot compile the kernel: {reason}")
    if not target.is_file():
        raise _RefusedError(f"{compiler} has made nothing of {source.name}")
    return target


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a compiler and the processes that it has started."""
    with suppress(OSError):  # none is left
        process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # it may hang in a file system all the same
        process.wait(10)


def _store(library: Path, folder: Path, name: str) -> Path:
    """Store a library in a folder atomically, and durably: a power cut leaves all of it or nothing."""
    data = library.read_bytes()
    target = folder / f"{name}-{hashlib.sha256(data).hexdigest()}.so"
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o755)
        os.replace(partial, target)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise
    sync_folder(folder)
    return target


def _record_failure(reason: str, folders: list[Path], record: str) -> None:
    """Record a failure, under the name `record`, in the first folder that can be written."""
    for folder in folders:
        with suppress(OSError), _open_trusted(folder) as here:
            (here / record).write_text(f"{reason}\n")
            return


def _check_failures(here: Path, folder: Path, name: str) -> None:
    """Raise SoftadvError if a failure was recorded a short time ago. here: the opened folder."""
    for suffix, seconds in _RETRY_SECONDS.items():
        record = here / f"{name}{suffix}"
        if not record.is_file():
            continue
        when = record.stat().st_mtime
        if 0 <= time.time() - when < seconds:
            reason = re.sub(r"\s+", " ", record.read_text(errors="replace"))[:500].strip()
            then = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
            again = f"tried again after {seconds // 60} minutes, or when {folder / record.name} is gone"
            raise SoftadvError(f"{reason} ({then}; {again})")
