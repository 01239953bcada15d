"""Files are written whole wherever the machine lets them be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from softadv._io import write_all

NOBODY = 65534


@pytest.mark.skipif(sys.platform == "win32", reason="its folders have no such mode")
def test_a_folder_that_may_be_written_and_not_read_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    monkeypatch.chdir(folder)  # the folders above are for their owner alone
    root = not os.geteuid()
    if root:
        os.chown(folder, NOBODY, -1)
    folder.chmod(0o300)
    try:
        if root:
            os.seteuid(NOBODY)
        write_all({Path("a"): b"1", Path("b"): b"2"})
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"1", "b": b"2"}
