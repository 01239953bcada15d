"""ONNX files that are damaged, or made to do harm: one line, exit code 2, and no more memory than a file may take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softadv
from softadv.certify import certify
from softadv.cli import app
from softadv.errors import SoftadvError
from tests import peaks
from tests.onnx import hostile
from tests.onnx.files import refusal
from tests.onnx.hostile import SPOILED, plain, write
from tests.onnx.mutants import WHOLE, mutant


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_malformed_file_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, spoil):
    monkeypatch.chdir(tmp_path.parent)
    path = write(spoil, tmp_path)
    refusal(path)
    with pytest.raises(SystemExit) as ended:
        app.main(["certify", str(path), "--dataset", "digits", "--eps", "0.1"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") <= 3  # one sentence, which the terminal may wrap


def test_a_file_that_was_cut_off_is_one_line(tmp_path):
    data = plain().SerializeToString()
    for size in [0, 1, *range(7, len(data), len(data) // 9)]:
        path = tmp_path / "net.onnx"
        path.write_bytes(data[:size])
        refusal(path)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutants_of_files_are_read_or_refused(tmp_path, count):
    """A file with random changes is one line, or a network that can be evaluated and certified, or is refused there."""
    rng, path = np.random.default_rng(count), tmp_path / "net.onnx"
    read = 0
    for at in range(count):
        path.write_bytes(mutant(WHOLE[at % len(WHOLE)](), rng))
        try:
            model = softadv.load_model(path)
            read += 1
            x = torch.rand(2, *model.shape, dtype=model.dtype)
            outputs = model(x)
            certify(model, x, outputs.argmax(1), eps=0.01, domain="box")
        except SoftadvError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 2_000
    assert 0 < read < count


# Bytes.
MOST_BESIDE = 2**27


def test_reading_them_takes_no_more_memory_than_a_harmless_one_and_a_little(tmp_path):
    """The peak of resident memory of the command, beside that of the same command with a harmless file."""
    commands = hostile.commands(tmp_path)
    found = peaks.ended(commands)
    for command, one in zip(commands, found, strict=True):
        assert (one.code, one.out) == (2, ""), command
        assert one.error.startswith("softadv: ")
        assert one.error.count("\n") == 1
        assert one.peak - found[0].peak < MOST_BESIDE, (command, one.peak - found[0].peak)
