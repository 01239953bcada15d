"""The commands on the page that rerun the grid, or one trial, on any machine."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import PurePath

from softadv._ranges import number
from softadv.experiments.spec import Trial, trial_to_table
from softadv.experiments.spec_text import fraction

_OPTIONS = ("dataset", "method", "eps", "alpha", "steps", "epochs", "seed")  # of softadv train itself


def trial_command(trial: Trial) -> str:
    """The command that trains a trial again, into runs/again; it makes the same spec."""
    options = [text for key in _OPTIONS for text in (f"--{key}", _number_text(trial, key))]
    defaults = {field.name: field.default for field in fields(Trial)}
    table = trial_to_table(trial)
    for key, value in table.items():
        if key not in _OPTIONS and getattr(trial, key) != defaults[key] and value is not None:
            options += ["--set", f"{key}={_toml(value)}"]
    return shlex.join([".venv/bin/softadv", "train", f"runs/again/{trial.name}", *options])


def _number_text(trial: Trial, key: str) -> str:
    value = getattr(trial, key)
    if not isinstance(value, float):
        return str(value)
    short = fraction(value)
    return short if number(short, key=key) == value else repr(value)


def _toml(value: object) -> str:
    """A value as --set reads it: TOML, or a bare word where TOML would take it for nothing else."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return json.dumps(value)


def portable_grid_command(command: str) -> str:
    """The command that ran the grid, without the paths of the machine that ran it.

    An absolute folder for the runs is left out, one for the data becomes DIR, a grid's file only keeps its name.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return without_paths(command)
    if not any(_is_absolute(word.partition("=")[2] or word) for word in words):
        return command
    kept: list[str] = []
    for word in words:
        option = kept[-1] if kept else ""
        if _is_absolute(word) and option == "--out":
            kept.pop()
        elif _is_absolute(word):
            kept.append("DIR" if option == "--data" else PurePath(word.replace("\\", "/")).name)
        else:
            kept.append(without_paths(word))
    return shlex.join(kept)


def _is_absolute(word: str) -> bool:
    return word.startswith("/") or re.match(r"[A-Za-z]:[\\/]", word) is not None


def without_paths(text: str) -> str:
    """A text in which absolute paths keep their last part only, such as "…/file.json"."""
    return re.sub(r"(?<![\w./:<])(?:/|[A-Za-z]:[\\/])(?:[^\s'\":/\\]+[/\\])+", "…/", text)
