"""A lock that one process holds at a time, and that does not outlive its process."""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from softadv._locks import held
from softadv.errors import SoftadvError

HOLDER = """
import importlib.util, sys, types
package = types.ModuleType("softadv")  # without its __init__.py, and so without the seconds that PyTorch takes
package.__path__ = importlib.util.find_spec("softadv").submodule_search_locations
sys.modules["softadv"] = package
import time
from pathlib import Path
from softadv._locks import held
with held(Path(sys.argv[1]), what=Path("runs")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds tmp_path/.lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / ".lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_holds_it_is_told_in_one_line(tmp_path, holder) -> None:
    with pytest.raises(SoftadvError) as caught, held(tmp_path / ".lock", what=tmp_path):
        pytest.fail("two processes hold one lock")
    message = str(caught.value)
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    who = f"process {holder.pid} on {re.escape(platform.node())} since {when}"
    assert re.fullmatch(f"{re.escape(str(tmp_path))}: in use by {who}; wait for its end, or name another", message)
    with pytest.raises(SoftadvError, match=f"in use by process {holder.pid} "), held(tmp_path / ".lock", what=tmp_path):
        pytest.fail("asking for it has released it")


def test_the_lock_of_a_dead_process_does_not_block(tmp_path, holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with held(tmp_path / ".lock", what=tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()}\n")


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path) -> None:
    for _ in range(2):
        with held(tmp_path / ".lock", what=tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


def test_it_is_released_by_an_error(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / ".lock", what=tmp_path):
        raise ZeroDivisionError
    with held(tmp_path / ".lock", what=tmp_path):
        pass


def test_where_the_file_system_has_no_locks_the_file_is_one(tmp_path, monkeypatch) -> None:
    import filelock._unix as unix

    def missing(descriptor: int) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(unix, "lock_fd_nonblocking", missing)
    with (
        held(tmp_path / ".lock", what=tmp_path),
        pytest.raises(SoftadvError, match=f"in use by process {os.getpid()} on "),
        held(tmp_path / ".lock", what=tmp_path),
    ):
        pytest.fail("two hold one lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "taken" / ".lock").mkdir(parents=True)
    for place, said in (
        ("file", r"file: is a file, not a folder$"),
        ("taken", r"taken: cannot be locked \(\.lock: .+\)"),
    ):
        with (
            pytest.raises(SoftadvError, match=said),
            held(tmp_path / place / ".lock", what=tmp_path / place),
        ):
            pytest.fail("held what cannot be made")
