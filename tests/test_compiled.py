"""How kernels are compiled and kept, and what is said where they cannot be."""

import stat
from pathlib import Path

import pytest

from softadv import compiled
from softadv.errors import SoftadvError


@pytest.fixture
def source(tmp_path):
    """A kernel's main file, in a folder of its own."""
    path = tmp_path / "package" / "kernel.cpp"
    path.parent.mkdir()
    path.write_text("// nothing\n")
    return path


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_a_compiler_the_reason_is_one_line(monkeypatch, source):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(SoftadvError, match=r"^no C\+\+ compiler found"):
        compiled.library(source)


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, source):
    compiler = script(tmp_path / "broken", "echo 'kernel.cpp: error: no such thing' >&2; exit 1")
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(SoftadvError, match=r"cannot compile the kernel: kernel\.cpp: error: no such thing"):
        compiled.library(source)


def test_the_kernel_is_kept_and_not_compiled_twice(monkeypatch, tmp_path, source):
    calls = tmp_path / "calls"
    # The last argument is the file to make.
    compiler = script(tmp_path / "compiler", f'echo x >>{calls}; for file; do :; done; echo made >"$file"')
    monkeypatch.setenv("CXX", str(compiler))
    first, second = compiled.library(source), compiled.library(source)
    assert first == second
    assert first.parent == source.parent / "__pycache__"
    assert calls.read_text() == "x\n"
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # nothing half-written is left
    source.write_text("// something else\n")
    assert compiled.library(source) != first


def test_a_folder_that_cannot_be_written_is_passed_over(monkeypatch, tmp_path, source):
    compiler = script(tmp_path / "compiler", 'for file; do :; done; echo made >"$file"')
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mkdir = Path.mkdir

    def refuse(self, *arguments, **options):
        if self.name == "__pycache__":
            raise PermissionError(self)
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert compiled.library(source).parent == tmp_path / "cache" / "softadv"


def test_what_stands_beside_the_source_is_part_of_the_kernel(monkeypatch, tmp_path, source):
    monkeypatch.setenv("CXX", str(script(tmp_path / "compiler", 'for file; do :; done; echo made >"$file"')))
    alone = compiled.library(source)
    source.with_name("more.h").write_text("// more\n")
    assert compiled.library(source) != alone


def test_a_library_that_cannot_be_loaded_is_missing_with_a_reason_of_one_line(monkeypatch, tmp_path, source):
    monkeypatch.setenv("CXX", str(script(tmp_path / "compiler", 'for file; do :; done; echo made >"$file"')))
    assert not compiled.available(source)
    reason = compiled.missing(source)
    assert reason
    assert "\n" not in reason


def test_disabled_is_undone(monkeypatch, source):
    monkeypatch.setattr(compiled, "load", lambda source: None)  # any library
    with compiled.disabled():
        assert not compiled.available(source)
    assert compiled.available(source)
    assert compiled.missing(source) is None
