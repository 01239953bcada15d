"""What is said where a kernel cannot be had. test_cache.py has how kernels are compiled and kept."""

from __future__ import annotations

import warnings

import pytest

from softadv.errors import SoftadvError, SoftadvWarning
from softadv.kernels import build as compiled
from tests.cli.command import run


@pytest.fixture
def without_compiler(monkeypatch):
    """A machine where no kernel can be had."""
    compiled._fall_back.cache_clear()
    monkeypatch.setattr(compiled, "load", lambda source: "no C++ compiler found")
    yield
    compiled._fall_back.cache_clear()


def test_a_reason_is_one_line(monkeypatch, tmp_path):
    def fail(source):
        raise SoftadvError("one\ntwo")

    monkeypatch.setattr(compiled.kernel_cache, "load_library", fail)
    assert compiled.missing(tmp_path / "kernel.cpp") == "one two"


def test_who_falls_back_to_slow_code_hears_it_once_with_the_factor(without_compiler, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name in ("attack.cpp", "update.cpp", "attack.cpp"):
            assert not compiled.available(tmp_path / name)
    (only,) = told
    assert only.category is SoftadvWarning
    assert str(only.message) == (
        "plain PyTorch computes, since no C++ compiler found: certification takes about 8 times as long, an attack "
        "about 3 times"
    )


def test_who_asks_for_slow_code_does_not(without_compiler, tmp_path):
    with warnings.catch_warnings(record=True) as told, compiled.disabled():
        warnings.simplefilter("always")
        assert not compiled.available(tmp_path / "attack.cpp")
    assert told == []


@pytest.mark.filterwarnings("always:plain PyTorch computes")
def test_the_command_line_says_it_in_one_line(without_compiler, tiny, capsys):
    assert run("evaluate", str(tiny / "digits-tiny-soft-seed0"), "--limit", "4") == 0
    told = capsys.readouterr().err
    assert told.startswith("softadv: plain PyTorch computes, since no C++ compiler found: certification takes about 8 ")
    assert told.count("\n") == 1


def test_disabled_is_undone(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "load", lambda source: None)  # any library
    with compiled.disabled():
        assert not compiled.available(tmp_path)
    assert compiled.available(tmp_path)
    assert compiled.missing(tmp_path) is None
