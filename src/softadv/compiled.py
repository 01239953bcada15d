"""Compiled kernels: from a folder of C++ sources to a library that is loaded, or one line of why there is none.

A kernel is compiled for this machine when it is first needed, by whatever C++ compiler there is, and
kept in __pycache__ beside its source, or in the user's cache folder where that cannot be written.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from softadv.errors import SoftadvError

# Some compilers have -ffast-math by default, but the kernels count on IEEE arithmetic, with NaN and infinity.
_FLAGS = ("-O3", "-fno-fast-math", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
_COMPILERS = ("c++", "g++", "clang++")
_COMPILE_SECONDS = 300

_enabled: ContextVar[bool] = ContextVar("softadv_compiled", default=True)


def available(source: Path) -> bool:
    """Whether a kernel is used, on the CPU."""
    return _enabled.get() and not isinstance(load(source), str)


def missing(source: Path) -> str | None:
    """Why a kernel cannot be had, or None where it can."""
    found = load(source)
    return found if isinstance(found, str) else None


@contextmanager
def disabled() -> Iterator[None]:
    """Compute in PyTorch even where compiled kernels are available, to compare the two."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


@cache
def load(source: Path) -> ctypes.CDLL | str:
    """The loaded library of a kernel, or one line that says why there is none.

    source: its main file; the headers beside it are what it includes.
    """
    try:
        return ctypes.CDLL(str(library(source)))
    except (SoftadvError, OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())


def call(source: Path, function: str, what: ctypes.Structure) -> None:
    """Call a function of an available kernel, which returns 0, or else has run out of memory: MemoryError."""
    found = load(source)
    assert not isinstance(found, str)
    if getattr(found, function)(ctypes.byref(what)):
        raise MemoryError(f"the compiled kernel {source.stem} ran out of memory")


def library(source: Path) -> Path:
    """A kernel's shared library, compiled unless it is there. Raises SoftadvError where it cannot be."""
    names = (os.environ.get("CXX", ""), *_COMPILERS)
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise SoftadvError("no C++ compiler found (Debian: apt-get install g++)")
    # Another machine may share this folder: the processor is part of the name.
    sources = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    made_of = (sources, _FLAGS, compiler, platform.machine(), _processor())
    name = f"{source.stem}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = (source.parent / "__pycache__", cache_home / "softadv")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                return _compile(compiler, source, Path(work) / name).replace(folder / name)
        except OSError:  # no right to, or a file system that is read-only
            continue
    raise SoftadvError(f"no folder to keep the compiled kernel in: {' and '.join(map(str, folders))} are not writable")


def _compile(compiler: str, source: Path, target: Path) -> Path:
    done = subprocess.run(
        [compiler, *_FLAGS, str(source), "-o", str(target)],
        capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise SoftadvError(f"{compiler} cannot compile the kernel: {reason}")
    return target


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
