"""The compiled kernel: how it is made, what happens without it, and what must not change its answers."""

import stat
from pathlib import Path

import pytest
import torch

from softadv.certify import api, certify, native
from softadv.errors import SoftadvError
from tests.networks import random_images, seeded, with_head

needs_kernel = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")


def network():
    return seeded(3, lambda: with_head((1, 8, 8), torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU()))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_a_compiler_the_reason_is_one_line(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.raises(SoftadvError, match=r"^no C\+\+ compiler found"):
        native._compiled()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    compiler = script(tmp_path / "broken", "echo 'kernel.cpp: error: no such thing' >&2; exit 1")
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(SoftadvError, match=r"cannot compile the kernel: kernel\.cpp: error: no such thing"):
        native._compiled()


def test_the_kernel_is_kept_and_not_compiled_twice(monkeypatch, tmp_path):
    calls = tmp_path / "calls"
    # The last argument is the file to make.
    compiler = script(tmp_path / "compiler", f'echo x >>{calls}; for file; do :; done; echo made >"$file"')
    source = tmp_path / "package" / "kernel.cpp"
    source.parent.mkdir()
    source.write_text("// nothing\n")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(native, "_SOURCE", source)
    first, second = native._compiled(), native._compiled()
    assert first == second
    assert first.parent == source.parent / "__pycache__"
    assert calls.read_text() == "x\n"
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # nothing half-written is left
    source.write_text("// something else\n")
    assert native._compiled() != first


def test_a_folder_that_cannot_be_written_is_passed_over(monkeypatch, tmp_path):
    compiler = script(tmp_path / "compiler", 'for file; do :; done; echo made >"$file"')
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mkdir = Path.mkdir

    def refuse(self, *arguments, **options):
        if self.name == "__pycache__":
            raise PermissionError(self)
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert native._compiled().parent == tmp_path / "cache" / "softadv"


@needs_kernel
def test_the_number_of_threads_changes_nothing():
    model = network().float()
    x, y = random_images((1, 8, 8), 9, seed=1)
    before = torch.get_num_threads()
    try:
        margins = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            margins.append(certify(model, x.float(), y, eps=0.1).margin)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(margins[0], margins[1])
    assert torch.equal(margins[0], margins[2])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: …")], ids=repr)
def test_where_memory_runs_out_the_chunk_is_halved(monkeypatch, engine, error):
    model = network()
    x, y = random_images((1, 8, 8), 13, seed=2)
    expected = certify(model, x, y, eps=0.05)
    answer, sizes = api._Question.answer, []

    def starved(self, images, labels):
        sizes.append(len(images))
        if len(images) > 3:
            raise error
        return answer(self, images, labels)

    monkeypatch.setattr(api._Question, "answer", starved)
    found = certify(model, x, y, eps=0.05)
    assert torch.equal(found.verified, expected.verified)
    torch.testing.assert_close(found.margin, expected.margin, rtol=1e-9, atol=1e-12)
    assert sizes == [13, 7, 4, 2, 2, 2, 2, 2, 2, 1]


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(self, images, labels):
        raise RuntimeError("something else")

    monkeypatch.setattr(api._Question, "answer", broken)
    x, y = random_images((1, 8, 8), 2, seed=0)
    with pytest.raises(RuntimeError, match="something else"):
        certify(network(), x, y, eps=0.05)


@needs_kernel
def test_disabled_is_undone():
    with native.disabled():
        assert not native.available()
    assert native.available()
