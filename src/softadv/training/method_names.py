"""Parsing the name of a method, with optional settings, such as "trades(beta=6)"."""

from __future__ import annotations

import re

from softadv._ranges import number, shown
from softadv.errors import SoftadvError

_FORM = re.compile(r"(?P<name>[^\s()]+)(?:\((?P<settings>[^()]*)\))?")
_SETTING = re.compile(r"\s*(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>[^=,]+?)\s*")


def parse_method(text: str) -> tuple[str, dict[str, float | int]]:
    """Split "trades(beta=6)" into name and settings; values are numbers, or fractions such as 6/255.

    Raises SoftadvError for any other form.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise SoftadvError(
            f"method: expected a name, or a name with settings such as trades(beta=6), got {shown(text)}"
        )
    settings: dict[str, float | int] = {}
    for part in filter(None, (form["settings"] or "").split(",")):
        setting = _SETTING.fullmatch(part)
        if setting is None:
            raise SoftadvError(f"method: {text}: expected KEY=NUMBER, got {shown(part.strip())}")
        if setting["key"] in settings:
            raise SoftadvError(f"method: {text}: {setting['key']} is given twice")
        value = number(setting["value"], key=f"method: {text}: {setting['key']}")
        settings[setting["key"]] = int(value) if re.fullmatch(r"[+-]?\d+", setting["value"]) else value
    return form["name"], settings
