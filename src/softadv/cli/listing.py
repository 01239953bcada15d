"""The commands that list names for grid files and other commands, and the schema of grid files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import typer

from softadv import data, models
from softadv.attacks.base import attacks
from softadv.certify.domains import CERTIFIER_DOMAINS, DOMAIN_DESCRIPTIONS
from softadv.cli import output
from softadv.experiments.schema import grid_schema
from softadv.experiments.spec import load_grid, packaged_grids
from softadv.training.methods import methods

ListedKind = Literal["datasets", "models", "methods", "attacks", "grids", "domains"]


def list_names(
    kind: Annotated[ListedKind, typer.Argument(help="Of what to list the names.", show_default=False)],
) -> None:
    """What a grid file or a command can name, a line each.

    Of datasets, models, methods and attacks, package.module:attribute names one of your own.
    """
    output.show_names(_KINDS[kind]())


def schema() -> None:
    """Print the JSON Schema of a grid file.

    For editors that complete one.
    """
    output.say(schema_text())


def schema_text() -> str:
    """The JSON Schema of a grid file, as docs/grid.schema.json holds it."""
    return json.dumps(grid_schema(), indent=2)


def _grids() -> dict[str, str]:
    return {name: load_grid(name).description for name in packaged_grids()}


def _domains() -> dict[str, str]:
    by = {
        name: [who for who, computes in CERTIFIER_DOMAINS.items() if name in computes] for name in DOMAIN_DESCRIPTIONS
    }
    return {name: f"{text} Certifiers: {', '.join(by[name])}." for name, text in DOMAIN_DESCRIPTIONS.items()}


_KINDS: Mapping[ListedKind, Callable[[], Mapping[str, str]]] = {
    "datasets": data.registry.described,
    "models": models.registry.described,
    "methods": methods.described,
    "attacks": attacks.described,
    "grids": _grids,
    "domains": _domains,
}
