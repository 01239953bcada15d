"""The JSON Schema of a grid file, for editors that complete and check one while it is written."""

from __future__ import annotations

from typing import Any

from softadv import data, models
from softadv._ranges import MOST_SEED
from softadv._typed import json_schema
from softadv.attacks.base import attacks
from softadv.experiments.spec import COUNTS, Trial, packaged_grids
from softadv.training.methods import methods

Schema = dict[str, Any]

_FRACTION: Schema = {"type": "string", "pattern": r"^ *[0-9.eE+-]+ *(/ *[0-9]+ *)?$"}
_NAME: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}


def grid_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of what parse_grid reads.

    The keys, types and choices are those of Trial. What only parse_grid can say is left to it, such as which keys
    belong together. Names of one's own ("package.module:attribute") are allowed beside the registered ones.
    """
    keys = _keys_of_a_setting()
    about: Schema = {"name": _NAME, "description": {"type": "string"}}
    its_methods: Schema = {"type": "array", "items": _named(methods.names()), "minItems": 1}
    seed: Schema = {"type": "integer", "minimum": 0, "maximum": MOST_SEED}
    its_seeds: Schema = {"type": "array", "items": seed, "minItems": 1}
    own = about | {
        "methods": its_methods,
        "seeds": its_seeds,
        "defaults": _table(keys),
        "setting": {
            "type": "array",
            "items": _table(keys | {"methods": its_methods, "seeds": its_seeds}, required=["setting"]),
            "minItems": 1,
        },
    }  # fmt: skip
    include: Schema = {"type": "array", "items": {"enum": packaged_grids()}, "minItems": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A grid of trials for softadv",
        "anyOf": [
            _table(own, required=["name", "methods", "seeds", "setting"]),
            _table(about | {"include": include}, required=["name", "include"]),
        ],
    }


def _keys_of_a_setting() -> dict[str, Schema]:
    """The keys of a trial, without those that the grid names above its settings."""
    keys: dict[str, Schema] = {key: _plain(found) for key, found in json_schema(Trial)["properties"].items()}
    del keys["seed"], keys["method"]
    for key, least, most in COUNTS:
        if key in keys:
            keys[key] |= {"minimum": least, "maximum": most}
    for key in ("eps", "alpha"):
        keys[key] = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, _FRACTION]}
    keys["setting"] = _NAME
    for key, names in (("dataset", data.names()), ("model", models.names()), ("attack", attacks.names())):
        keys[key] |= _named(names)
    return keys


def _plain(found: Schema) -> Schema:
    """A key without its title, which only repeats its name, and without null, which TOML does not have."""
    kinds = [kind for kind in found.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {key: value for key, value in found.items() if key not in ("title", "anyOf") and value is not None}
    return kept | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _named(names: tuple[str, ...]) -> Schema:
    """Registered names for an editor to offer, or any other text."""
    return {"type": "string", "anyOf": [{"enum": [name for name in names if ":" not in name]}, {"type": "string"}]}


def _table(keys: dict[str, Schema], *, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": keys, "additionalProperties": False, "required": required or []}
