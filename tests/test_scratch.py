"""Folders of temporary files: deleted at the end, and after a kill by whoever comes next."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from softadv._scratch import Scratch

KILLED = """
import os, signal, sys
from pathlib import Path
from softadv._scratch import Scratch
found = Scratch("softadv-test-", parent=Path(sys.argv[1]))
(found.path / "file").write_text("x")
print(found.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
LONG_AGO = 1_000_000_000


def test_a_folder_is_deleted_with_all_that_is_in_it(tmp_path: Path) -> None:
    with Scratch("softadv-test-", parent=tmp_path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_the_next_one_deletes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Path(done.stdout.strip())
    assert (left / "file").exists()
    (tmp_path / "softadv-test-theirs").mkdir()  # not made by a Scratch
    with Scratch("softadv-test-", parent=tmp_path) as ours:
        assert not left.exists()
        os.utime(ours / ".owner", (LONG_AGO, LONG_AGO))
        with Scratch("softadv-test-", parent=tmp_path):
            assert ours.exists()  # its process is there
    assert [path.name for path in tmp_path.iterdir()] == ["softadv-test-theirs"]


def test_a_folder_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    """Its owner's file is there before it is locked."""
    made = tmp_path / "softadv-test-new"
    made.mkdir()
    (made / ".owner").touch()
    Scratch("softadv-test-", parent=tmp_path).delete()
    assert made.exists()
    os.utime(made / ".owner", (LONG_AGO, LONG_AGO))
    Scratch("softadv-test-", parent=tmp_path).delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="needs owners of files")
def test_another_users_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by one who could delete it: where all may write, it may hold a link to anything."""
    theirs = tmp_path / "softadv-test-theirs"
    theirs.mkdir()
    (theirs / ".owner").write_text("1\n")
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    Scratch("softadv-test-", parent=tmp_path).delete()
    assert theirs.exists()
    monkeypatch.undo()
    Scratch("softadv-test-", parent=tmp_path).delete()
    assert not theirs.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """It looks like a folder of temporary files that nobody holds, and may lead to one that is used."""
    used = tmp_path / "used"
    used.mkdir()
    (used / ".owner").write_text("1\n")
    (used / "file").write_text("x")
    (tmp_path / "softadv-test-link").symlink_to(used, target_is_directory=True)
    Scratch("softadv-test-", parent=tmp_path).delete()
    assert (used / "file").exists()


def test_what_is_written_while_a_folder_is_deleted_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's processes do, which end a little later than their driver."""
    rmtree = shutil.rmtree

    def late(path: Path, *, ignore_errors: bool) -> None:
        rmtree(path, ignore_errors=ignore_errors)
        path.mkdir()
        (path / "log").write_text("x")

    left = Scratch("softadv-test-", parent=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", late)
        left.delete()
        # So does the next one, which comes too early.
        with Scratch("softadv-test-", parent=tmp_path):
            assert (left.path / "log").exists()
        patched.undo()
        Scratch("softadv-test-", parent=tmp_path).delete()
    assert list(tmp_path.iterdir()) == []


def test_the_owners_file_is_deleted_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left by a process that is killed while it deletes, the next one deletes."""
    unlink, beside = os.unlink, []

    def watched(path: str, **where: int) -> None:
        if os.path.basename(path) == ".owner":
            beside.append(sorted(path.name for path in left.path.iterdir()))
        unlink(path, **where)

    left = Scratch("softadv-test-", parent=tmp_path)
    for name in ("sub/file", *map(str, range(20))):
        (left.path / name).parent.mkdir(exist_ok=True)
        (left.path / name).write_text("x")
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", watched)
        left.delete()
    assert beside == [[".owner"]]
    assert list(tmp_path.iterdir()) == []
