"""The command that reruns a grid: as it was given, and as it can be given on any machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath

_PLACES = ("--data", "--out")  # the options that say where things lie on one machine


def given_command(program: Sequence[str], argument: str, options: Mapping[str, object]) -> str:
    """The command line as it was given, quoted for a shell; options that are None or False are left out."""
    words = [*program, argument]
    for option, value in options.items():
        if value is not None and value is not False:
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def portable_command(command: str) -> str:
    """A grid's command without the paths of the machine that ran it; "" where a shell could not read it.

    An absolute folder for the runs or the data is left out, and of any other absolute path the name is kept.
    """
    try:
        words = [re.fullmatch(r"(--[\w-]+=|)(.*)", word, re.DOTALL) for word in shlex.split(command)]
    except ValueError:
        return ""
    pairs = [(word[1], word[2]) for word in words if word]
    if not any(_is_absolute(value) for _, value in pairs):
        return command
    kept: list[str] = []
    for option, value in pairs:
        if not _is_absolute(value):
            kept.append(option + value)
        elif option.rstrip("=") in _PLACES:
            continue
        elif kept and kept[-1] in _PLACES:
            kept.pop()
        else:
            kept.append(option + PurePath(value.replace("\\", "/")).name)
    return shlex.join(kept)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path) is not None
