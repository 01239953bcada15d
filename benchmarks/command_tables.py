"""The commands and their options, as tables of docs/commands.md."""

from __future__ import annotations

from typing import Any

import typer.main

from softadv.cli.app import app

_PARAGRAPH = "\n\n"
_NOWHERE = typer.Context(typer.main.get_command(app))


def commands() -> str:
    """A row for each command: what it does, and an example."""
    rows = [
        f"| `{name}` | {_cell(command.help.partition(_PARAGRAPH)[0])} | `{example(command)}` |"
        for name, command in _commands().items()
    ]
    return "\n".join(["| command | what it does | example |", "| --- | --- | --- |", *rows])


def options() -> str:
    """A row for each option, whichever commands take it; where it means two things, a row for each."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, command in _commands().items():
        for parameter in command.params:
            if parameter.opts[0].startswith("-"):
                found.setdefault((_spelled(parameter), parameter.help or ""), []).append(name)
    rows = [f"| `{spelled}` | {', '.join(names)} | {_cell(text)} |" for (spelled, text), names in sorted(found.items())]
    return "\n".join(["| option | of | what it does |", "| --- | --- | --- |", *rows])


def example(command: Any) -> str:
    """The example at the end of a command's help."""
    return str(command.epilog).partition(_PARAGRAPH)[0].removeprefix("Example: ")


def _commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _spelled(parameter: Any) -> str:
    """As the help spells it: "--eps X"."""
    parameter.hidden = False  # what a help only names is in the table
    return str(parameter.get_help_record(_NOWHERE)[0]).replace("|", r"\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
