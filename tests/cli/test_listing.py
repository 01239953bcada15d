"""What can be named, as the commands list it; and the schema of grid files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from softadv import data, models
from softadv._io import parse_toml
from softadv.attacks.base import attacks
from softadv.certify.domains import DOMAINS
from softadv.cli.app import main
from softadv.cli.listing import schema_text
from softadv.experiments.schema import grid_schema
from softadv.experiments.spec import METHODS, packaged_grids
from softadv.training.methods import methods

ROOT = Path(__file__).parents[2]
GRIDS = ROOT / "src" / "softadv" / "experiments" / "grids"
NAMES = {
    "datasets": data.names,
    "models": models.names,
    "methods": methods.names,
    "attacks": attacks.names,
    "grids": packaged_grids,
    "domains": lambda: DOMAINS,
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_list_has_a_described_line_for_each_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["list", kind])
    assert ended.value.code == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, *_ in lines] == list(NAMES[kind]())
    assert all(len(line) == 2 for line in lines)


def test_a_list_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["list", "colours"])
    assert ended.value.code == 2
    assert "datasets" in capsys.readouterr().err


def test_the_documents_have_the_schema_of_grid_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert (ROOT / "docs" / "grid.schema.json").read_text() == schema_text() + "\n", (
        "make it again: .venv/bin/softadv schema > docs/grid.schema.json"
    )
    with pytest.raises(SystemExit) as ended:
        main(["schema"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == grid_schema()


def faults(value: object, schema: dict[str, Any], place: str = "grid") -> list[str]:
    """Where a value breaks a schema, by as much of JSON Schema as this one uses."""
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool}
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{place}: no {kind}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value} is not offered")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{place}: {value} has another form")
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{place}: {value} is out of range")
    if "anyOf" in schema and all(faults(value, other) for other in schema["anyOf"]):
        found.append(f"{place}: fits nothing of {len(schema['anyOf'])}")
    if isinstance(value, dict):
        found += [f"{place}: {key} is missing" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            known = schema.get("properties", {key: {}} if schema.get("additionalProperties", True) else {})
            found += faults(item, known[key], f"{place}.{key}") if key in known else [f"{place}: {key} is unknown"]
    if isinstance(value, list):
        found += ["too short"] * (len(value) < schema.get("minItems", 0))
        found += [fault for item in value for fault in faults(item, schema.get("items", {}), f"{place}[]")]
    return found


def grid(name: str) -> dict[str, Any]:
    text = (GRIDS / f"{name}.toml").read_text()
    return parse_toml(text, where=name)


@pytest.mark.parametrize("name", packaged_grids())
def test_every_packaged_grid_fits_the_schema(name: str) -> None:
    schema = grid_schema()
    (form,) = [form for form in schema["anyOf"] if ("include" in form["properties"]) == ("include" in grid(name))]
    assert faults(grid(name), form) == []
    assert faults(grid(name), schema) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", 3), ("epochs", 0), ("epochs", "3"), ("eps", "much"), ("eps", 2), ("optimizer", "adamw"),
        ("certified_domains", ["zonotope"]), ("seed", 1), ("method", "soft"), ("normalize", 1), ("model", 3),
        ("schedule_epochs", ["3"]), ("patience", 0),
    ],
)  # fmt: skip
def test_what_the_reader_refuses_in_a_setting_does_not_fit(key: str, value: object) -> None:
    table = grid("smoke")
    table["setting"][0][key] = value
    assert faults(table, grid_schema())


def test_an_editor_is_offered_the_registered_names_and_takes_ones_own() -> None:
    (own, _) = grid_schema()["anyOf"]
    offered = own["properties"]["methods"]["items"]["anyOf"][0]["enum"]
    assert set(METHODS) < set(offered)
    table = grid("smoke") | {"methods": ["my.module:Method", "trades(beta=6)"]}
    table["setting"][0] |= {"dataset": "npz:mine.npz", "model": "my.nets:small", "eps": "8/255", "attack": "m:f"}
    assert faults(table, grid_schema()) == []
