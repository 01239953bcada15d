"""How kernels are compiled and kept: whole, this user's own, and within a time limit."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from softadv.cli import doctor
from softadv.errors import SoftadvError
from softadv.kernels import cache as kernel_cache

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, kernel_cache._COMPILERS)), reason="needs a C++ compiler")
MAKE = 'for file; do :; done; echo made >"$file"'  # the last argument is the file to make
OTHER_USER = 12345


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A kernel's main file, in a folder of its own; caches and temporary files below tmp_path, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    path = tmp_path / "package" / "kernel.cpp"
    path.parent.mkdir()
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


@pytest.fixture
def loads(monkeypatch):
    """Files that are no libraries count as loaded: their paths."""
    found: list[str] = []
    monkeypatch.setattr(kernel_cache.ctypes, "CDLL", lambda path: found.append(path) or Path(path).read_text())
    return found


def compiler(tmp_path: Path, monkeypatch, text: str) -> Path:
    """A compiler that is a shell script, and notes in tmp_path/calls that it has run."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\necho x >>{tmp_path / 'calls'}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))
    return path


def calls(tmp_path: Path) -> int:
    path = tmp_path / "calls"
    return path.read_text().count("x") if path.exists() else 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_a_compiler_the_reason_is_one_line(monkeypatch, source):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(kernel_cache.shutil, "which", lambda name: None)
    with pytest.raises(SoftadvError, match=r"^no C\+\+ compiler found"):
        kernel_cache.load_library(source)


def test_the_kernel_is_kept_and_not_compiled_twice(monkeypatch, tmp_path, source, loads):
    compiler(tmp_path, monkeypatch, MAKE)
    first, second = kernel_cache.load_library(source), kernel_cache.load_library(source)
    assert first == second
    assert first.folder == source.parent / "__pycache__"
    assert calls(tmp_path) == 1
    assert len(names(first.folder)) == 1  # nothing half-written is left
    assert names(tmp_path / "tmp") == []
    source.write_text("// something else\n")
    kernel_cache.load_library(source)
    source.with_name("more.h").write_text("// beside the source\n")
    kernel_cache.load_library(source)
    assert calls(tmp_path) == 3


LOAD = """
import importlib.util, sys, types
package = types.ModuleType("softadv")  # without its __init__.py, and so without the seconds that PyTorch takes
package.__path__ = importlib.util.find_spec("softadv").submodule_search_locations
sys.modules["softadv"] = package
from pathlib import Path
from softadv.kernels import cache as kernel_cache
kept = kernel_cache.load_library(Path(sys.argv[1]))
print(kept.library.answer(), kept.folder)
"""


def loaded_elsewhere(source: Path) -> list[str]:
    """What another process computes with the kernel, and where it has it from."""
    done = subprocess.run([sys.executable, "-c", LOAD, source], capture_output=True, text=True, check=True)
    return done.stdout.split()


@needs_compiler
@pytest.mark.parametrize("damage", ["cut in half", "cut to a page", "garbage", "zeros", "empty"])
def test_a_damaged_library_is_made_again(monkeypatch, source, damage: str):
    monkeypatch.delenv("CXX", raising=False)
    folder = source.parent / "__pycache__"
    assert loaded_elsewhere(source) == ["42", str(folder)]
    (library,) = folder.iterdir()
    data = library.read_bytes()
    library.write_bytes(
        {
            "cut in half": data[: len(data) // 2], "cut to a page": data[:4096], "garbage": b"garbage",
            "zeros": bytes(len(data)), "empty": b"",
        }[damage]
    )  # fmt: skip
    assert loaded_elsewhere(source) == ["42", str(folder)]
    (library,) = folder.iterdir()
    assert library.read_bytes() == data


@needs_compiler
def test_processes_that_compile_at_once_do_no_harm(monkeypatch, source, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    command = [sys.executable, "-c", LOAD, source]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[0].split()[0] for process in processes]
    assert told == ["42"] * 3
    assert {process.returncode for process in processes} == {0}
    assert all(
        re.fullmatch(r"kernel-[0-9a-f]{16}-[0-9a-f]{64}\.so", name) for name in names(source.parent / "__pycache__")
    )
    assert loaded_elsewhere(source)[0] == "42"


def spoil(folder: Path, how: str) -> None:
    """Make a folder one that others can write."""
    if how == "another user's":
        os.chown(folder, OTHER_USER, OTHER_USER)
    elif how == "a link of another user's":
        target = folder.with_name("elsewhere")
        folder.rename(target)
        folder.symlink_to(target)
        os.chown(folder, OTHER_USER, OTHER_USER, follow_symlinks=False)
    else:
        folder.chmod(int(how, 8))


SPOILT = ["0777", "1777", "0775", "another user's", "a link of another user's"]


def needs_root(how: str) -> None:
    if "user" in how and os.geteuid():
        pytest.skip("only root can give a file to another user")


@pytest.mark.parametrize("how", SPOILT)
def test_in_a_folder_that_others_can_write_nothing_is_loaded_or_kept(monkeypatch, tmp_path, source, loads, how: str):
    needs_root(how)
    compiler(tmp_path, monkeypatch, MAKE)
    planted = kernel_cache.load_library(source)
    spoil(planted.folder, how)
    loads.clear()
    private = kernel_cache.load_library(source)
    assert private.folder == tmp_path / "cache" / "softadv"
    assert kernel_cache.load_library(source).folder == private.folder
    assert calls(tmp_path) == 2
    assert stat.S_IMODE(private.folder.stat().st_mode) & 0o022 == 0
    assert names(planted.folder) == names(private.folder)  # as it was


@pytest.mark.parametrize("how", SPOILT)
def test_where_no_folder_is_ours_a_library_serves_one_process(monkeypatch, tmp_path, source, loads, how: str):
    needs_root(how)
    compiler(tmp_path, monkeypatch, MAKE)
    for folder in kernel_cache._folders(source):
        folder.mkdir(parents=True)
        spoil(folder, how)
    kept = kernel_cache.load_library(source)
    assert kept.folder is None
    reason = "it is another user's" if "user" in how else "others can write it"
    assert kept.why == "; ".join(f"{folder}: {reason}" for folder in kernel_cache._folders(source))
    assert names(tmp_path / "tmp") == []
    finding = doctor._kernel("attack", source, "about 3 times")
    assert finding.found == f"compiled for this processor, for this process alone: {kept.why}"
    assert "XDG_CACHE_HOME" in finding.advice


@pytest.mark.parametrize("how", ["0666", "another user's", "a link"])
def test_a_library_that_others_can_write_is_not_loaded(monkeypatch, tmp_path, source, loads, how: str):
    needs_root(how)
    compiler(tmp_path, monkeypatch, MAKE)
    folder = kernel_cache.load_library(source).folder
    (library,) = folder.iterdir()
    if how == "a link":
        library.rename(folder / "elsewhere")
        library.symlink_to(folder / "elsewhere")
    else:
        spoil(library, how)
    loads.clear()
    kernel_cache.load_library(source)
    assert calls(tmp_path) == 2
    assert len(loads) == 1


def test_the_doctor_has_no_advice_for_a_kernel_that_is_kept(monkeypatch, tmp_path, source, loads):
    compiler(tmp_path, monkeypatch, MAKE)
    finding = doctor._kernel("attack", source, "about 3 times")
    assert finding == doctor.Check("attack", "compiled for this processor")


def test_a_folder_that_cannot_be_made_is_passed_over(monkeypatch, tmp_path, source, loads):
    compiler(tmp_path, monkeypatch, MAKE)
    (source.parent / "__pycache__").write_text("a file")
    assert kernel_cache.load_library(source).folder == tmp_path / "cache" / "softadv"


def test_a_user_without_a_home_is_served(monkeypatch, tmp_path, source, loads):
    def home():
        raise RuntimeError("Could not determine home directory.")

    compiler(tmp_path, monkeypatch, MAKE)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(kernel_cache.Path, "home", home)
    (source.parent / "__pycache__").write_text("a file")
    assert kernel_cache.load_library(source).folder is None


def test_a_compiler_that_fails_is_quoted_and_not_asked_again_for_an_hour(monkeypatch, tmp_path, source):
    broken = compiler(tmp_path, monkeypatch, "echo 'kernel.cpp: error: no such thing' >&2; exit 1")
    with pytest.raises(SoftadvError, match=r"cannot compile the kernel: kernel\.cpp: error: no such thing$"):
        kernel_cache.load_library(source)
    folder = source.parent / "__pycache__"
    (record,) = folder.iterdir()
    with pytest.raises(SoftadvError) as caught:
        kernel_cache.load_library(source)
    assert "error: no such thing (" in str(caught.value)
    assert str(caught.value).endswith(f"; tried again after 60 minutes, or when {record} is gone)")
    assert calls(tmp_path) == 1
    long_ago = time.time() - kernel_cache._RETRY_SECONDS[".failed"] - 1
    os.utime(record, (long_ago, long_ago))
    with pytest.raises(SoftadvError):
        kernel_cache.load_library(source)
    assert calls(tmp_path) == 2
    broken.write_text(broken.read_text() + "# mended\n")
    with pytest.raises(SoftadvError):
        kernel_cache.load_library(source)
    assert calls(tmp_path) == 3


PASSING = {
    "a signal": "kill -9 $$",
    "a part that a signal ended": ("echo 'g++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1"),
    "a part of an old g++ that a signal ended": "echo 'g++: internal error: Killed (program cc1plus)' >&2; exit 4",
    "a linker that a signal ended": "echo 'collect2: error: ld terminated with signal 9 [Killed]' >&2; exit 1",
    "a part of clang that a signal ended": "echo 'clang++: error: unable to execute command: Killed' >&2; exit 1",
    "a full disk": "echo '/tmp/a.s: error: No space left on device' >&2; exit 1",
    "too little memory": "echo 'virtual memory exhausted: Cannot allocate memory' >&2; exit 1",
    "what ended a script": "echo 'g++: error: interpreter' >&2; kill -15 $$",
}


@pytest.mark.parametrize("why", PASSING)
def test_what_may_pass_is_not_held_against_the_next_process(monkeypatch, tmp_path, source, loads, why: str):
    passed = tmp_path / "passed"
    compiler(tmp_path, monkeypatch, f"if test -e {passed}; then {MAKE}; else {PASSING[why]}; fi")
    with pytest.raises(SoftadvError, match="cannot compile the kernel"):
        kernel_cache.load_library(source)
    assert names(source.parent / "__pycache__") == []
    passed.touch()
    assert kernel_cache.load_library(source).folder == source.parent / "__pycache__"


def test_the_messages_that_are_read_are_english(monkeypatch, tmp_path, source):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    compiler(tmp_path, monkeypatch, 'echo "error: $LC_ALL" >&2; exit 1')
    with pytest.raises(SoftadvError, match=r"error: C$"):
        kernel_cache.load_library(source)


def test_what_cannot_be_loaded_is_compiled_once_and_remembered(monkeypatch, tmp_path, source):
    compiler(tmp_path, monkeypatch, MAKE)
    with pytest.raises(SoftadvError, match=r"what .* makes cannot be loaded"):
        kernel_cache.load_library(source)
    with pytest.raises(SoftadvError, match=r"cannot be loaded.*tried again after 60 minutes"):
        kernel_cache.load_library(source)
    assert calls(tmp_path) == 1


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_compiler_that_hangs_is_ended_with_its_children_and_not_waited_for_again(monkeypatch, tmp_path, source):
    pids = tmp_path / "pids"
    hangs = f"if test -e {tmp_path / 'passed'}; then {MAKE}; exit; fi; "
    hangs += f'sleep 600 & echo x >"$TMPDIR/left"; echo "$! $$" >{pids}.part; mv {pids}.part {pids}; wait'
    compiler(tmp_path, monkeypatch, hangs)
    wait = subprocess.Popen.wait

    def wait_once_it_hangs(process: subprocess.Popen, timeout: float | None = None) -> int:
        while not pids.exists():  # on a busy machine a script may take its time to start
            time.sleep(0.01)
        return wait(process, timeout)

    monkeypatch.setattr(kernel_cache, "_COMPILE_SECONDS", 1)
    monkeypatch.setattr(subprocess.Popen, "wait", wait_once_it_hangs)
    with pytest.raises(SoftadvError, match=r"has not compiled kernel\.cpp in 1 s$"):
        kernel_cache.load_library(source)
    child, parent = map(int, pids.read_text().split())
    while alive(child) or alive(parent):
        time.sleep(0.01)
    assert names(tmp_path / "tmp") == []
    (record,) = (source.parent / "__pycache__").iterdir()
    assert record.suffix == ".late"
    with pytest.raises(SoftadvError, match="tried again after 5 minutes"):
        kernel_cache.load_library(source)
    assert calls(tmp_path) == 1
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    monkeypatch.setattr(kernel_cache, "_COMPILE_SECONDS", 300)
    (tmp_path / "passed").touch()
    long_ago = time.time() - kernel_cache._RETRY_SECONDS[".late"] - 1
    os.utime(record, (long_ago, long_ago))
    with pytest.raises(SoftadvError, match="cannot be loaded"):  # it is compiled, though it is no library
        kernel_cache.load_library(source)
    assert calls(tmp_path) == 2


def test_a_killed_process_leaves_no_folder_behind_once_somebody_compiles(monkeypatch, tmp_path, source, loads):
    script = compiler(tmp_path, monkeypatch, f"echo $$ >{tmp_path / 'pid'}; kill -9 $PPID; sleep 0.2")
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    killed = subprocess.run([sys.executable, "-c", LOAD, source], env=environment, check=False)
    assert killed.returncode == -9
    assert names(tmp_path / "tmp")[0].startswith(kernel_cache._WORK)
    script.write_text(f"#!/bin/sh\n{MAKE}\n")
    kernel_cache.load_library(source)
    assert names(tmp_path / "tmp") == []


def test_the_folder_of_a_process_that_compiles_is_left_alone(monkeypatch, tmp_path, source, loads):
    """Also while it is new, and nothing says yet whose it is."""
    script = compiler(tmp_path, monkeypatch, MAKE)
    other = source.with_name("other.cpp")
    other.write_text("// compiled in between\n")
    made, mkdtemp = [], tempfile.mkdtemp

    def interrupted(*arguments, **options):
        made.append(folder := mkdtemp(*arguments, **options))
        if len(made) == 1:
            kernel_cache.load_library(other)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    script.write_text(f"#!/bin/sh\nls -d {tmp_path}/tmp/*/ >>{tmp_path}/seen\n{MAKE}\n")
    kernel_cache.load_library(source)
    assert len(made) == 2
    assert (tmp_path / "seen").read_text().split().count(f"{made[0]}/") == 2
    assert names(tmp_path / "tmp") == []
