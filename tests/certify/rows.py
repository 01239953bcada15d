"""Rows of a certification, and the files that hold them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pyarrow.parquet as pq

from softadv.certify.per_image import ImageResult, Question


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV or a Parquet file, all as text; a missing margin is an empty cell."""
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    records = pq.read_table(path).to_pylist()
    return [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in records]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
