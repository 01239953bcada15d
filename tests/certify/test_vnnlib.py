"""VNN-LIB properties are read as they are written, and damaged ones are refused in one line."""

from __future__ import annotations

from fractions import Fraction

import pytest

from softadv.certify.vnnlib import PropertyError, Variable, read_property
from softadv.cli import app
from tests import peaks
from tests.certify.properties import ONE, TWO, UNIT, box, net, write


def test_a_property_is_read_exactly(tmp_path):
    asserts = UNIT + "(assert (or (< (+ (* 2 Y[0,0]) (- Y[0,1]) 0.1) 1e-3) (and (== Y[0,0] 1) (!= X[0,1] 0.5))))"
    found = read_property(write(tmp_path, asserts))
    assert (found.version, found.type, found.network, found.sizes) == ("2.0", "float32", "N", (3, 2))
    assert len(found.cases) == 2
    first = found.cases[0][-1]
    assert first.strict
    assert first.sum.terms == {Variable(True, 0): 2, Variable(True, 1): -1}
    assert first.sum.constant == Fraction(1, 10) - Fraction(1, 1000)
    assert len(found.cases[1]) == 6 + 3  # an equality is two
    assert found.name(Variable(False, 2)) == "X[0,2]"


def test_version_1_is_read_too(tmp_path):
    asserts = box((0, 1), (0, 1), (0, 1), names="X_{}") + "(assert (or (and (<= Y_0 Y_1)) (and (>= Y_1 3.0))))"
    found = read_property(write(tmp_path, asserts, template=ONE))
    assert (found.version, found.sizes, len(found.cases)) == ("1.0", (3, 2), 2)
    assert found.name(Variable(True, 1)) == "Y_1"


# In 600 characters.
EIGHT_THOUSAND = "(and {})".format("(or (<= Y[0,0] 1) (<= Y[0,1] 1))" * 13)


DAMAGED = [
    ("(assert (<= X[0,0] 1)", "cut off"),
    ("(assert (<= X[0,0] 1)))", "not open"),
    ("(" * 300 + ")" * 300, "nests"),
    (UNIT + "(assert (<= (* Y[0,0] Y[0,1]) 1))", "multiplies variables"),
    (UNIT + "(assert (<= Y[0,7] 1))", "Y[0,7]"),
    (UNIT + "(assert (<= Y[0,-1] 1))", "no whole numbers"),
    (UNIT + "(assert (<= Z[0] 1))", "does not declare"),
    (UNIT + "(assert (=> true false))", "not read"),
    (UNIT + "(assert (<= Y[0,0] 1e999999999))", "not declare"),
    (UNIT + "(declare-network M (declare-input A float32 [1]) (declare-output B float32 [1]))", "one network"),
    ("(check-sat)", "check-sat"),
    (UNIT + "(assert (or {}))".format(" ".join(["(<= Y[0,0] 1)"] * 200)) * 3, "cases"),
    (UNIT + f"(assert (or {EIGHT_THOUSAND} {EIGHT_THOUSAND}))", "cases"),
    (UNIT + "(assert (<= Y[0,0] {}))".format("1" * 5_000), "not declare"),
    (UNIT + "(assert (<= Y[0,0] 1e999))", "beyond 10^300"),
    (UNIT + "(assert (<= Y[0,0] (* {} 1)))".format("1e-900 " * 10_000), "too many digits"),
    ("[" * 50_000, "not read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), DAMAGED)
def test_a_damaged_property_is_one_line_and_exit_code_2(tmp_path, capsys, text, named):
    path = write(tmp_path, text)
    with pytest.raises(PropertyError) as caught:
        read_property(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    net(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}"])
    assert ended.value.code == 2
    assert not capsys.readouterr().out


# Bytes, for five million words.
MOST_BESIDE = 2**29


def damaged_commands(folder):
    """What asks about each damaged property, behind one that asks about a harmless one.

    There are five million words, and a file without an end, too. The network is missing, so that the harmless property
    is refused right after it was read.
    """
    harmless, words = UNIT + "(assert (>= Y[0,0] 1000))", "a1 " * 5_000_000
    texts = [harmless, *(text for text, _ in DAMAGED), words]
    files = [folder / f"{at}.vnnlib" for at in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(TWO.format(asserts=text, type="float32"))
    return [["verify", str(file), "--network", "N=missing.onnx"] for file in [*files, "/dev/zero"]]


def test_a_damaged_property_takes_little_more_memory_than_a_harmless_one(tmp_path):
    """The peak of resident memory of the command, beside that of the same command with a harmless file."""
    found = peaks.ended(damaged_commands(tmp_path))
    for one in found:
        assert (one.code, one.out) == (2, ""), one.error
        assert one.peak - found[0].peak < MOST_BESIDE, one.error


@pytest.mark.parametrize("type", ["float16", "bfloat16", "int8", "float8e4m3fn"])
def test_types_that_answers_would_not_be_sound_for_are_an_error(tmp_path, type):
    with pytest.raises(PropertyError, match="not be sound"):
        read_property(write(tmp_path, UNIT, type=type))
