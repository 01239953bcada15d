"""What two runs of the same trials must have in common: every file, but for seconds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

Bits = dict[str, bytes]  # what is in a file, by the file's path in its folder


def contents(folder: Path) -> Bits:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def bits(folder: Path) -> Bits:
    """The same of a grid's trials, or of files of verdicts, without what differs between two equal runs."""
    return {
        name: _without_seconds_of(name, data)
        for name, data in contents(folder).items()
        if not name.startswith("report/") and name != "grid.json"
    }


def _without_seconds_of(name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return json.dumps(_without_seconds(json.loads(data))).encode()
    if name.endswith(".csv"):
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return json.dumps(_without_seconds(rows)).encode()
    return data


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        # The digest of metrics.json is of its seconds, too.
        return {k: _without_seconds(v) for k, v in value.items() if "second" not in k and k != "metrics.json"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value
