"""What two runs of one trial must have in common: everything but seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def bits(folder: Path) -> dict[str, str]:
    """Every file of a grid's trials by its content; seconds, and the digest of the metrics that hold some, left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith("report/") or name == "grid.json":
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_without_seconds(json.loads(data))).encode()
        found[name] = data.hex()
    return found


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if "seconds" not in k and k != "metrics.json"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value
