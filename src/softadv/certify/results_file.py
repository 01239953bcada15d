"""A file of verdicts, one row per image, from which an interrupted certification is resumed.

results.csv            the rows
results.csv.json       the settings they belong to (Question); once they are complete, their summary, too
results.parquet        the rows; there once they are complete
results.parquet.part   the rows until then, as CSV
results.parquet.json   as above
.results.csv.lock      there while a process writes the file
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from softadv._io import read_json, remove_partials, write_bytes, write_json, write_text
from softadv._locks import held
from softadv._progress import Report
from softadv.certify import Domain
from softadv.certify.per_image import STANDINGS, ImageResult, Question, Standing, summarize
from softadv.errors import SoftadvError

_COLUMNS = [field.name for field in dataclasses.fields(ImageResult)]
_HEADER = ",".join(_COLUMNS)
_PARQUET = ".parquet"
_DIGEST = 64  # the hexadecimal digits of a SHA-256; messages show the first twelve


def check_file_name(path: Path) -> None:
    """Raise SoftadvError for a name that ends neither in .csv nor in .parquet, a folder that is not
    there, and Parquet without pyarrow."""
    if path.suffix not in (".csv", _PARQUET):
        raise SoftadvError(f"--out {path}: expected a name that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise SoftadvError(f"--out {path}: {path.parent} is not a folder")
    if path.suffix == _PARQUET:
        _pyarrow()


@contextmanager
def opened(path: Path, question: Question, *, fresh: bool) -> Iterator[VerdictFile]:
    """A question's file, locked for this process. Raises what VerdictFile raises, and SoftadvError if in use."""
    check_file_name(path)
    with held(path.with_name(f".{path.name}.lock"), what=path):
        yield VerdictFile(path, question, fresh=fresh)


class VerdictFile:
    """The rows of one question, in memory and in a file. Nothing is written before the first append.

    rows: the complete rows so far, from image 0 on. Two processes must not write one file at once: see opened.
    """

    def __init__(self, path: Path, question: Question, *, fresh: bool) -> None:
        """Read the rows of earlier runs, or with `fresh` replace them.

        Raises SoftadvError for what check_file_name refuses, a file that answers another question, and one
        that softadv did not write.
        """
        check_file_name(path)
        self._path, self._question, self._fresh = path, dataclasses.asdict(question), fresh
        self._parquet = path.suffix == _PARQUET
        self._lines = path.with_name(f"{path.name}.part") if self._parquet else path
        self._about = path.with_name(f"{path.name}.json")
        self._begun = False
        self._clean = True  # the file holds exactly self.rows
        self._check()
        remove_partials(path.parent, [written.name for written in (self._path, self._lines, self._about)])
        self.rows: list[ImageResult] = [] if fresh else self._read()

    def append(self, rows: Sequence[ImageResult]) -> None:
        """Add rows, and write them to the disk."""
        try:
            if not self._begun:
                self._begin()
            with open(self._lines, "ab") as file:
                file.write(_csv(rows).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SoftadvError(f"{self._path}: cannot be written ({error.strerror})") from error
        self.rows += rows

    def finish(self) -> None:
        """Record the summary of the rows, and write the Parquet file. A complete file is left as it is."""
        summary = dataclasses.asdict(summarize(self.rows))
        leftover = self._parquet and self._lines.exists()
        if self._clean and not leftover and read_json(self._about).get("summary") == summary:
            return
        if self._parquet:
            write_bytes(self._path, _parquet(self.rows))
        elif not self._clean:
            write_text(self._path, _text(self.rows))
        self._clean = True
        write_json(self._about, {"question": self._question, "summary": summary})
        if self._parquet:
            self._lines.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise SoftadvError for an existing file that may be neither continued nor replaced."""
        if not os.path.lexists(self._about):
            for path in (self._path, self._lines):
                if os.path.lexists(path):
                    raise SoftadvError(f"{path}: not written by softadv certify (no {self._about.name} beside it)")
            return
        there = read_json(self._about).get("question")
        if not isinstance(there, dict):
            raise SoftadvError(f"{self._about}: not written by softadv certify (it holds no question)")
        different = [key for key, value in self._question.items() if there.get(key) != value]
        if different and not self._fresh:
            what = ", ".join(f"{key} {_short(there.get(key))}, not {_short(self._question[key])}" for key in different)
            raise SoftadvError(f"{self._path}: holds verdicts with {what}; use --fresh or another file")

    def _read(self) -> list[ImageResult]:
        if self._lines.exists():
            text, lines = _read_csv(self._lines)
            rows = _in_order(lines, where=self._lines)
            self._clean = text == _text(rows)
            return rows
        if not self._path.exists():
            return []
        there = _read_parquet(self._path)
        rows = _in_order(there, where=self._path)
        self._clean = len(rows) == len(there)
        return rows

    def _begin(self) -> None:
        """Write the rows of earlier runs anew, without an incomplete last line."""
        # In this order, an interruption never leaves rows beside another question's settings.
        if self._fresh:
            for path in (self._path, self._lines, self._about):
                path.unlink(missing_ok=True)
        write_json(self._about, {"question": self._question})
        write_text(self._lines, _text(self.rows))
        self._begun = self._clean = True


def complete_rows(
    count: int,
    rows_from: Callable[[int], Iterator[list[ImageResult]]],
    *,
    domain: Domain,
    file: VerdictFile | None,
    report: Report,
) -> list[ImageResult]:
    """The rows of `count` images: those in the file, and the missing ones computed and added to it.

    rows_from: yields the rows of the images from a given number on, in order, some at a time.
    Raises what rows_from and the file raise.
    """
    rows = [] if file is None else file.rows
    what = f"certifying with {domain}"
    if 0 < len(rows) < count:
        report(what, len(rows), before=True)
    counts = Counter(row.verdict for row in rows)
    images, began = 0, time.perf_counter()  # of this run
    for new in rows_from(len(rows)):
        if file is None:
            rows += new
        else:
            file.append(new)  # to rows, too
        counts.update(row.verdict for row in new)
        images += len(new)
        told = ", ".join(f"{counts[standing]:,} {standing}" for standing in reversed(STANDINGS))
        report(what, len(new), note=f"{images / (time.perf_counter() - began):.0f} images/s, {told}")
    if file is not None:
        file.finish()
    return rows[:count]


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == _DIGEST else f"{value}"


def _csv(rows: Sequence[ImageResult]) -> str:
    """Lines of CSV. Margins keep all their digits, an empty cell is NaN."""
    return "".join(
        f"{row.index},{row.label},{row.predicted},{row.verdict},"
        f"{'' if math.isnan(row.margin) else row.margin},{row.seconds}\n"
        for row in rows
    )


def _text(rows: Sequence[ImageResult]) -> str:
    return f"{_HEADER}\n{_csv(rows)}"


def _read_csv(path: Path) -> tuple[str, list[ImageResult]]:
    """A file's text, and the rows before the first incomplete one."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be read ({error.strerror})") from error
    # What comes after the last newline was cut off while it was written.
    header, *lines = text.split("\n")[:-1] or [""]
    if header != _HEADER:
        raise SoftadvError(f"{path}: not the rows of softadv certify (they begin with {_HEADER})")
    rows: list[ImageResult] = []
    for line in lines:
        row = _parse(line)
        if row is None:
            break  # a power cut can leave zeros where the last lines were
        rows.append(row)
    return text, rows


def _in_order(rows: Sequence[ImageResult], *, where: Path) -> list[ImageResult]:
    """One row per image, from image 0 on. Two processes at once may have written an image twice, with one verdict."""
    kept: list[ImageResult] = []
    for row in rows:
        if row.index == len(kept):
            kept.append(row)
        elif not 0 <= row.index < len(kept) or _verdict(row) != _verdict(kept[row.index]):
            raise SoftadvError(
                f"{where}: not as softadv wrote it (image {row.index} stands where image {len(kept)} is expected); "
                "use --fresh or another file"
            )
    return kept


def _verdict(row: ImageResult) -> tuple[int, int, Standing]:
    return row.label, row.predicted, row.verdict


def _parse(line: str) -> ImageResult | None:
    try:
        index, label, predicted, verdict, margin, seconds = line.split(",")
        row = ImageResult(
            int(index), int(label), int(predicted), cast(Standing, verdict), float(margin or "nan"), float(seconds)
        )
    except ValueError:
        return None
    return row if verdict in STANDINGS else None


def _parquet(rows: Sequence[ImageResult]) -> bytes:
    pa, parquet = _pyarrow()
    table = {
        name: pa.array([getattr(row, name) for row in rows], kind, from_pandas=True)  # NaN: null
        for name, kind in _kinds(pa).items()
    }
    file = io.BytesIO()
    parquet.write_table(pa.table(table), file)
    return file.getvalue()


def _read_parquet(path: Path) -> list[ImageResult]:
    pa, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
        columns = {name: table[name].cast(kind).to_pylist() for name, kind in _kinds(pa).items()}
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SoftadvError(f"{path}: not the rows of softadv certify, or damaged ({reason})") from error
    columns["margin"] = [math.nan if margin is None else margin for margin in columns["margin"]]
    rows = [ImageResult(*cells) for cells in zip(*columns.values(), strict=True)]
    if any(None in (row.index, row.label, row.predicted, row.seconds) or row.verdict not in STANDINGS for row in rows):
        raise SoftadvError(f"{path}: not the rows of softadv certify, or damaged (a cell is empty or no verdict)")
    return rows


def _kinds(pa: Any) -> dict[str, Any]:
    """The type of each column."""
    other = {"verdict": pa.string(), "margin": pa.float64(), "seconds": pa.float64()}
    return {name: other.get(name, pa.int64()) for name in _COLUMNS}


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, which are an extra of softadv's."""
    try:
        import pyarrow  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise SoftadvError("Parquet needs pyarrow: pip install pyarrow, or name a .csv file") from error
    return pyarrow, parquet
