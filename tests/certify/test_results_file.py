"""Files of a certification's rows: whole, cut off, damaged, and those of others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from softadv.certify.per_image import ImageResult, Question
from softadv.certify.results_file import VerdictFile
from softadv.errors import SoftadvError
from tests.certify.rows import QUESTION, files, read, rows_of


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
