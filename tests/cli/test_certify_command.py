"""softadv certify: its rows are the certifier's verdicts, and no interruption changes them."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import pytest
import torch

from softadv import certify
from softadv._io import tensors_sha256, write_tensors
from softadv._versions import package_version
from softadv.certify import certifiers
from softadv.certify import certify as natively
from softadv.certify import per_image as verdicts
from softadv.certify.certifiers import CertifierSession
from softadv.certify.per_image import ImageResult, Question, certify_rows, summarize
from softadv.certify.results_file import VerdictFile, opened
from softadv.errors import SoftadvError
from tests.cli.test_app import run

COLUMNS = ["index", "label", "predicted", "verdict", "margin", "seconds"]
EPS = 0.06  # at which DeepPoly verifies some of the images and not others
BOX = ["--domain", "box", "--eps", "0.005"]


@pytest.fixture(scope="module")
def model(trained_digits, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file of the trained network."""
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    write_tensors(path, trained_digits.state_dict(), metadata={"dataset": "digits"})
    return str(path)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks for few images."""
    monkeypatch.setattr(verdicts, "_CPU_CHUNK", 16)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV or a Parquet file, all as text; a missing margin is an empty cell."""
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    records = pq.read_table(path).to_pylist()
    return [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in records]


def without_seconds(path: Path) -> list[list[str]]:
    return [[cell for name, cell in row.items() if name != "seconds"] for row in read(path)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("split", "name"), [("test", "r.csv"), ("train", "r.parquet")])
def test_the_rows_are_the_certifiers_verdicts(request, model, tmp_path, split: str, name: str) -> None:
    network, digits = request.getfixturevalue("trained_digits"), request.getfixturevalue("digits")
    assert (
        run("certify", model, "--eps", str(EPS), "--limit", "40", "--split", split, "--out", str(tmp_path / name)) == 0
    )
    x, y = (digits.test_x, digits.test_y) if split == "test" else (digits.train_x, digits.train_y)
    found = certify(network, x[:40], y[:40], eps=EPS)
    rows = read(tmp_path / name)
    assert list(rows[0]) == COLUMNS
    assert [int(row["index"]) for row in rows] == list(range(40))
    assert [int(row["label"]) for row in rows] == y[:40].tolist()
    assert [int(row["predicted"]) for row in rows] == network(x[:40]).argmax(1).tolist()
    assert [row["verdict"] != "misclassified" for row in rows] == found.correct.tolist()
    assert [row["verdict"] == "verified" for row in rows] == found.verified.tolist()
    assert 0 < int(found.verified.sum()) < int(found.correct.sum())
    assert torch.tensor([float(row["margin"]) for row in rows]).allclose(found.margin, rtol=1e-4, atol=1e-4)
    assert all(0 < float(row["seconds"]) < 10 for row in rows)
    assert files(tmp_path) == [name, f"{name}.json"]


def test_the_summary_says_what_the_rows_add_up_to(trained_digits, digits, model, tmp_path, capsys) -> None:
    out = tmp_path / "r.csv"
    assert run("certify", model, "--eps", str(EPS), "--limit", "40", "--out", str(out)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    margins = [float(row["margin"]) for row in read(out) if row["verdict"] == "verified"]
    count = len(margins)
    certifier = f"native {package_version('softadv')} (any summation order)"
    assert f"40 test images of digits, deeppoly by {certifier}, eps {EPS}" in shown
    assert f"verified {count} ({count / 40:.2%})" in shown
    assert f"certified accuracy {count / 40:.2%}" in shown
    assert f"least {min(margins):.3g}, median {median(margins):.3g}" in shown
    assert f"written to {out}" in shown
    record = json.loads((tmp_path / "r.csv.json").read_text())
    assert record["question"] == {
        "weights": tensors_sha256(trained_digits.state_dict()), "dataset": "digits", "data": digits.fingerprint,
        "split": "test", "eps": EPS, "domain": "deeppoly", "rounding": "sound", "certifier": certifier,
    }  # fmt: skip
    summary = record["summary"]
    assert (summary["images"], summary["verified"], summary["least_margin"]) == (40, count, min(margins))


def test_which_engine_computed_is_said_wherever_rows_are_computed(model, tmp_path, capsys) -> None:
    """In this process, in workers, in both, and not where all rows were there before."""
    arguments = ["certify", model, *BOX, "--out", str(tmp_path / "rows.csv")]
    said = "computed by PyTorch, since box is intervals alone"
    for more in (["--limit", "10"], ["--limit", "40", "--jobs", "2"], ["--limit", "60"]):
        assert run(*arguments, *more) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert run(*arguments, "--limit", "60") == 0
    assert "computed by" not in capsys.readouterr().out


@pytest.mark.parametrize("eps", ["0.01", "0.01,0.02"])
def test_which_engine_computed_is_said_of_every_evaluation(model, capsys, eps) -> None:
    numbers = ["--alpha", "0.01", "--steps", "1"] if "," not in eps else []
    asked = ["--dataset", "digits", "--limit", "10", "--domain", "box", "--eps", eps, *numbers]
    assert run("evaluate", model, *asked) == 0
    assert "computed by PyTorch, since box is intervals alone" in " ".join(capsys.readouterr().out.split())


def test_without_a_file_only_the_summary_is_shown(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("certify", model, *BOX, "--rounding", "none", "--limit", "20") == 0
    shown = capsys.readouterr().out
    assert "certified accuracy" in shown
    assert "written to" not in shown
    assert files(tmp_path) == []


def test_a_log_shows_speed_and_counts(model, capsys) -> None:
    assert run("certify", model, *BOX, "--limit", "16") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "100%" in line]
    speed, *counts = line.rstrip(")").split("(")[1].split(", ")[1:]
    assert speed.endswith(" images/s")
    assert [count.split()[1] for count in counts] == ["verified", "unverified", "misclassified"]
    assert sum(int(count.split()[0]) for count in counts) == 16


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_run_cut_off_inside_a_line_ends_like_one_that_was_not(model, tmp_path, suffix: str) -> None:
    arguments = ["certify", model, "--eps", str(EPS), "--limit", "40", "--out"]
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    assert run(*arguments, str(whole)) == 0
    # What such a run leaves: its question, and rows up to somewhere in image 21's, in the middle of a chunk.
    assert run(*arguments, str(tmp_path / "lines.csv")) == 0
    lines = (tmp_path / "lines.csv").read_bytes().splitlines(keepends=True)
    half = b"".join(lines[:22]) + lines[22][:12]
    record = json.loads((tmp_path / "lines.csv.json").read_text())
    (tmp_path / f"{cut.name}.json").write_text(json.dumps({"question": record["question"]}))
    partial = cut if suffix == ".csv" else tmp_path / f"{cut.name}.part"
    partial.write_bytes(half)
    assert run(*arguments, str(cut)) == 0
    assert without_seconds(cut) == without_seconds(whole)
    assert "summary" in json.loads((tmp_path / f"{cut.name}.json").read_text())
    assert partial == cut or not partial.exists()


def rows_of(count: int) -> list[ImageResult]:
    return [ImageResult(i, i % 10, 3, "unverified", math.nan if i == 1 else -i / 3, 0.001 * i) for i in range(count)]


QUESTION = Question(
    certifier="native",
    weights="a" * 64,
    dataset="digits",
    data="b" * 64,
    split="test",
    eps=0.1,
    domain="deeppoly",
    rounding="sound",
)


def test_wherever_a_file_is_cut_its_whole_rows_are_kept(tmp_path) -> None:
    path = tmp_path / "r.csv"
    VerdictFile(path, QUESTION, fresh=False).append(rows_of(4))
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    for cut in range(header, len(data) + 1):
        for rest in (b"", b"\0" * 30, b"\0\n\0"):
            path.write_bytes(data[:cut] + rest)
            there = VerdictFile(path, QUESTION, fresh=False).rows
            kept = data[:cut].count(b"\n") - 1
            assert str(there) == str(rows_of(kept))  # as text, since NaN is not NaN
    path.write_bytes(data[: len(data) - 3])
    file = VerdictFile(path, QUESTION, fresh=False)
    file.append(rows_of(6)[3:])
    assert str(VerdictFile(path, QUESTION, fresh=False).rows) == str(rows_of(6))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_back_as_they_were_written(tmp_path, suffix: str) -> None:
    rows = [
        *rows_of(3),
        ImageResult(3, 1, 1, "verified", 0.1 + 0.2, 1e-9),
        ImageResult(4, 1, 2, "misclassified", -math.inf, 2.0),
    ]
    file = VerdictFile(tmp_path / f"r{suffix}", QUESTION, fresh=False)
    file.append(rows[:2])
    file.append(rows[2:])
    file.finish()
    assert str(VerdictFile(tmp_path / f"r{suffix}", QUESTION, fresh=False).rows) == str(rows)
    assert read(tmp_path / f"r{suffix}")[1]["margin"] == ""


def finished(path: Path, rows: list[ImageResult]) -> Path:
    """A finished file of some rows; returns where they lie as softadv goes on from them."""
    file = VerdictFile(path, QUESTION, fresh=False)
    file.append(rows)
    file.finish()
    return path


@pytest.mark.parametrize("rest", ["4,4,3,unver", "\0" * 30, "4,4,3,unverified,,0.0"], ids=repr)
@pytest.mark.parametrize("summed_up", [True, False])
def test_a_torn_last_row_is_gone_from_a_file_that_is_declared_complete(tmp_path, rest: str, summed_up: bool) -> None:
    whole, path = finished(tmp_path / "whole.csv", rows_of(4)), finished(tmp_path / "r.csv", rows_of(4))
    path.write_text(path.read_text() + rest)
    if not summed_up:
        (tmp_path / "r.csv.json").write_text(json.dumps({"question": vars(QUESTION)}))
    VerdictFile(path, QUESTION, fresh=False).finish()  # fewer images are asked for: nothing is added
    assert path.read_bytes() == whole.read_bytes()
    assert (tmp_path / "r.csv.json").read_bytes() == (tmp_path / "whole.csv.json").read_bytes()


def doubled(rows: list[ImageResult]) -> list[ImageResult]:
    """What two processes at once have left, each writing two rows at a time."""
    return [row for at in range(0, len(rows), 2) for row in rows[at : at + 2] * 2]


@pytest.mark.parametrize("name", ["r.csv", "r.parquet", "r.parquet.part"])
def test_doubled_rows_are_found_and_written_once(tmp_path, name: str) -> None:
    from softadv.certify.results_file import _HEADER, _csv, _parquet

    path = finished(tmp_path / name.removesuffix(".part"), rows_of(6))
    twice = doubled(rows_of(6))
    text = f"{_HEADER}\n{_csv(twice)}"
    (tmp_path / name).write_bytes(_parquet(twice) if name.endswith("parquet") else text.encode())
    file = VerdictFile(path, QUESTION, fresh=False)
    assert str(file.rows) == str(rows_of(6))
    file.finish()
    assert [row["index"] for row in read(path)] == ["0", "1", "2", "3", "4", "5"]
    assert files(tmp_path) == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_in_another_order_or_with_two_verdicts_are_refused(tmp_path, suffix: str) -> None:
    from softadv.certify.results_file import _HEADER, _csv, _parquet

    path = finished(tmp_path / f"r{suffix}", rows_of(4))
    torn = ImageResult(1, 1, 1, "verified", 0.5, 0.1)
    for rows in (
        rows_of(4)[::-1],
        [*rows_of(2), *rows_of(4)[3:]],
        [*rows_of(2), torn],
        [ImageResult(-1, 0, 0, "verified", 1, 1)],
    ):
        path.write_bytes(_parquet(rows) if suffix == ".parquet" else f"{_HEADER}\n{_csv(rows)}".encode())
        before = path.read_bytes()
        with pytest.raises(SoftadvError, match=r"not as softadv wrote it \(image -?\d stands where image \d .*--fresh"):
            VerdictFile(path, QUESTION, fresh=False)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "cells"), [("index", ["a", "b"]), ("label", [None, 1]), ("verdict", ["verified", "true"])]
)
def test_a_parquet_file_of_other_things_is_refused(tmp_path, column: str, cells: list[object]) -> None:
    import pyarrow as pa

    path = finished(tmp_path / "r.parquet", rows_of(2))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(cells)), path)
    with pytest.raises(SoftadvError, match=r"r\.parquet: not the rows of softadv certify, or damaged"):
        VerdictFile(path, QUESTION, fresh=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_another_process_writes_is_refused_in_one_line(model, tmp_path, capsys, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "20", "--out", str(out)]
    with opened(out, QUESTION, fresh=False):
        for more in ([], ["--fresh"]):
            assert run(*arguments, *more) == 2
            told = capsys.readouterr().err
            assert f"{out}: in use by process {os.getpid()} on " in told
            assert told.count("\n") == 1
        assert not out.exists()
    assert run(*arguments) == 0
    assert len(read(out)) == 20
    assert files(tmp_path) == [out.name, f"{out.name}.json"]


# Certifies images 16 by 16, and kills itself without warning in the third chunk.
DRIVER = """
import os, signal, sys
from softadv.certify import certifiers, per_image as verdicts
from softadv.cli.app import main
verdicts._CPU_CHUNK = 16
calls, certify = 0, certifiers.certify_natively
def fatal(*arguments, **settings):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return certify(*arguments, **settings)
certifiers.certify_natively = fatal
main(sys.argv[1:])
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_killed_run_goes_on_where_it_stopped(model, tmp_path, monkeypatch, suffix: str) -> None:
    out = tmp_path / f"killed{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "60", "--out"]
    command = [sys.executable, "-c", DRIVER, *arguments, str(out)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    partial = out if suffix == ".csv" else tmp_path / f"{out.name}.part"
    assert len(partial.read_bytes().splitlines()) == 1 + 32
    asked = []

    def counted(network, x, y, **settings):
        asked.append(len(x))
        return natively(network, x, y, **settings)

    monkeypatch.setattr(certifiers, "certify_natively", counted)
    assert run(*arguments, str(out)) == 0
    assert asked == [16, 12]
    assert run(*arguments, str(tmp_path / f"whole{suffix}")) == 0
    assert without_seconds(out) == without_seconds(tmp_path / f"whole{suffix}")


def test_an_interrupted_run_keeps_its_rows_and_says_so(model, tmp_path, monkeypatch, capsys) -> None:
    def interrupted(network, x, y, **settings):
        if (tmp_path / "r.csv").exists():
            raise KeyboardInterrupt
        return natively(network, x, y, **settings)

    monkeypatch.setattr(certifiers, "certify_natively", interrupted)
    assert run("certify", model, *BOX, "--limit", "40", "--out", str(tmp_path / "r.csv")) == 130
    assert "certify --out go on where they stopped" in capsys.readouterr().err
    assert len(read(tmp_path / "r.csv")) == 16


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_a_killed_run_left_half_written_is_cleared_and_nothing_else(model, tmp_path, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "8", "--out", str(out)]
    assert run(*arguments) == 0
    before = {path.name for path in tmp_path.iterdir()}
    for name in (out.name, f"{out.name}.json", "another.csv"):
        (tmp_path / f".{name}.0123456789ab.partial").write_bytes(b"index,")
    assert run(*arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == before | {".another.csv.0123456789ab.partial"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_finished_file_is_extended_by_a_larger_limit_and_left_alone_by_a_smaller_one(
    model, tmp_path, capsys, suffix: str
) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--out", str(out), "--limit"]
    assert run(*arguments, "20") == 0
    assert len(read(out)) == 20
    assert run(*arguments, "50") == 0
    whole = tmp_path / f"whole{suffix}"
    assert run("certify", model, *BOX, "--limit", "50", "--out", str(whole)) == 0
    # Images 16 to 19 were computed in a smaller chunk: only their margins' last bits may tell.
    assert [row["verdict"] for row in read(out)] == [row["verdict"] for row in read(whole)]
    assert json.loads((tmp_path / f"{out.name}.json").read_text())["summary"]["images"] == 50
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert run(*arguments, "50") == 0
    assert "50 test images" in capsys.readouterr().out
    assert run(*arguments, "10") == 0
    assert "10 test images" in capsys.readouterr().out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_verdicts_on_another_question_are_refused_and_replaced_by_fresh(model, tmp_path, capsys, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    asked = {"--domain": "box", "--eps": "0.005", "--limit": "8", "--out": str(out)}

    def given(**other: str) -> list[str]:
        options = asked | {f"--{name}": value for name, value in other.items()}
        return ["certify", model, *(part for pair in options.items() for part in pair)]

    assert run(*given()) == 0
    before = out.read_bytes()
    for other, message in (
        ({"eps": "1/255"}, "eps 0.005, not 0.00392"),
        ({"domain": "deepzono"}, "domain box, not deepzono"),
        ({"rounding": "none"}, "rounding sound, not none"),
        ({"split": "train", "eps": "0.01"}, "split test, not train, eps 0.005, not 0.01"),
    ):
        assert run(*given(**other)) == 2
        told = capsys.readouterr().err
        assert f"{out}: holds verdicts with {message}" in told
        assert "use --fresh or another file" in told
        assert told.count("\n") == 1
        assert out.read_bytes() == before
    assert run(*given(eps="1/255"), "--fresh") == 0
    assert run(*given(eps="1/255")) == 0
    assert out.read_bytes() != before
    assert files(tmp_path) == [out.name, f"{out.name}.json"]


@pytest.mark.parametrize("key", ["weights", "data", "dataset"])
def test_verdicts_on_other_weights_or_images_are_refused(tmp_path, key: str) -> None:
    VerdictFile(tmp_path / "r.csv", QUESTION, fresh=False).append(rows_of(2))
    other = {"weights": "c" * 64, "data": "d" * 64, "dataset": "mnist"}[key]
    with pytest.raises(SoftadvError, match=f"holds verdicts with {key} .*use --fresh") as caught:
        VerdictFile(tmp_path / "r.csv", Question(**{**vars(QUESTION), key: other}), fresh=False)
    assert "c" * 13 not in str(caught.value)  # a whole digest tells nobody more


def test_fresh_keeps_the_old_rows_until_there_are_new_ones(tmp_path) -> None:
    path = tmp_path / "r.csv"
    VerdictFile(path, QUESTION, fresh=False).append(rows_of(5))
    file = VerdictFile(path, QUESTION, fresh=True)
    assert (file.rows, path.read_text().count("\n")) == ([], 6)
    file.append(rows_of(1))
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("name", ["thesis.csv", "thesis.parquet", "thesis.parquet.part"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_that_softadv_did_not_write_is_neither_extended_nor_deleted(tmp_path, name: str, fresh: bool) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(SoftadvError, match=f"{name}: not written by softadv certify"):
        VerdictFile(tmp_path / name.removesuffix(".part"), QUESTION, fresh=fresh)
    (tmp_path / name).unlink()
    about = tmp_path / f"{name.removesuffix('.part')}.json"
    about.write_text("{}")
    with pytest.raises(SoftadvError, match="holds no question"):
        VerdictFile(tmp_path / name.removesuffix(".part"), QUESTION, fresh=fresh)
    assert about.read_text() == "{}"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_that_are_none_are_refused_by_name(tmp_path, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    file = VerdictFile(path, QUESTION, fresh=False)
    file.append(rows_of(2))
    file.finish()
    path.write_text("nonsense\n")
    with pytest.raises(SoftadvError, match=f"r{suffix}: not the rows of softadv certify") as caught:
        VerdictFile(path, QUESTION, fresh=False)
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow_is_one_line_that_says_how_to_get_it(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("certify", model, *BOX, "--limit", "4", "--out", str(tmp_path / "r.parquet")) == 2
    told = capsys.readouterr().err
    assert "pip install softadv[parquet]" in told
    assert told.count("\n") == 1
    assert files(tmp_path) == []
    assert run("certify", model, *BOX, "--limit", "4", "--out", str(tmp_path / "r.csv")) == 0


def test_a_refusal_of_the_certifier_leaves_nothing_behind(model, tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise SoftadvError("not on this machine")

    monkeypatch.setattr(certifiers, "certify_natively", refuse)
    assert run("certify", model, *BOX, "--out", str(tmp_path / "r.csv")) == 2
    assert files(tmp_path) == []


def test_where_no_image_is_verified_there_are_no_margins_to_sum_up() -> None:
    summary = summarize(rows_of(4))
    assert (summary.unverified, summary.certified_accuracy) == (4, 0.0)
    assert (summary.least_margin, summary.median_margin) == (None, None)


def test_nothing_is_computed_where_all_is_there(trained_digits, digits) -> None:
    x, y = digits.test_x[:8], digits.test_y[:8]
    assert (
        list(certify_rows(trained_digits, x, y, question=QUESTION, session=CertifierSession("native"), start=8)) == []
    )
