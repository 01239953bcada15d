"""The commands on the page that rerun one trial, on any machine, and texts without a machine's paths."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import fields

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


def without_paths(text: str) -> str:
    """A text in which absolute paths keep their last part only, such as "…/file.json"."""
    return re.sub(r"(?<![\w./:<])(?:/|[A-Za-z]:[\\/])(?:[^\s'\":/\\]+[/\\])+", "…/", text)
