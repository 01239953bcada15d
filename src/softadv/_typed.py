"""The typed reader: builds dataclasses from JSON and TOML, strictly, and reports the first problem in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from softadv._ranges import shown
from softadv.errors import SoftadvError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}

_WORDS: dict[object, str] = {
    str: "a text", int: "a whole number", int | None: "a whole number", float: "a number", float | None: "a number",
}  # fmt: skip


def build(kind: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """A dataclass from the keys and values of JSON or TOML: each of the right type and in its range, and no other key.

    Types are strict: neither a text nor true is a number. Nested dataclasses, and tuples of them, are read likewise.
    Raises SoftadvError, "WHERE: KEY: WHAT", for the first thing that is wrong, also by the dataclass's own checks.
    """
    from pydantic import ValidationError  # noqa: PLC0415 (a tenth of a second that `import softadv` does without)

    try:
        # Via JSON, where an array is accepted for a tuple, and all values are plain.
        text = json.dumps(table, default=str)
        return cast(T, _adapter(cast(Any, kind)).validate_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SoftadvError(f"{where}: {_line(first['loc'], first, kind)}") from error
    except (ValueError, RecursionError) as error:
        raise SoftadvError(f"{where}: nested too deeply, or a number of thousands of digits") from error


def check_types(made: object) -> None:
    """Raise SoftadvError, "KEY: WHAT", for the first field of a dataclass that is not of its type.

    For dataclasses that are constructed directly instead of read: as strict as build, but without pydantic.
    """
    for key, kind in get_type_hints(type(made)).items():
        value = getattr(made, key)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                raise SoftadvError(f"{key}: unknown value {shown(value)}, expected one of {', '.join(get_args(kind))}")
        elif get_origin(kind) is tuple:
            item_kind, words = (int, "whole numbers") if get_args(kind)[0] is int else (str, "strings")
            if not isinstance(value, tuple) or not all(type(item) is item_kind for item in value):
                raise SoftadvError(f"{key}: expected a list of {words}, got {shown(value)}")
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            expected = _WORDS.get(kind) or f"a {kind.__name__}"
            raise SoftadvError(f"{key}: expected {expected}, got {shown(value)}")


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of what build reads as a dataclass."""
    return _adapter(cast(Any, kind)).json_schema()


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415

    _be_strict(kind)
    return TypeAdapter(kind)


def _be_strict(kind: object) -> None:
    """Tell a dataclass, and those in its fields, how pydantic is to read them."""
    from pydantic import with_config  # noqa: PLC0415

    if isinstance(kind, type) and is_dataclass(kind):
        if "__pydantic_config__" not in vars(kind):
            with_config({"strict": True, "extra": "forbid", "allow_inf_nan": False})(kind)
        for hint in get_type_hints(kind).values():
            _be_strict(hint)
    for part in get_args(kind):
        _be_strict(part)


def _line(loc: Sequence[int | str], error: Mapping[str, Any], kind: type[Any]) -> str:
    """What is wrong, and at which key."""
    what, value, context = error["type"], error["input"], error.get("ctx", {})
    key = _path(loc)
    if what in ("missing", "missing_argument"):
        return f"{key} is missing"
    if what in ("unexpected_keyword_argument", "extra_forbidden"):
        known = f"; known are {', '.join(sorted(field.name for field in fields(kind)))}" if len(loc) == 1 else ""
        inside = f"{_path(loc[:-1])}: " if loc[:-1] else ""
        return f"{inside}unknown key {shown(loc[-1])}{known}"
    if what == "value_error":  # of the dataclass itself
        said = " ".join(str(context.get("error", error["msg"])).split())
    elif what == "literal_error":
        said = f"unknown value {shown(value)}, expected {context['expected']}"
    elif what in _BOUNDS:
        bound, words = _BOUNDS[what]
        said = f"must be {words} {context[bound]}, got {shown(value)}"
    elif what in _EXPECTED:
        said = f"expected {_EXPECTED[what]}, got {shown(value)}"
    else:
        said = " ".join(f"{error['msg']}, got {shown(value)}".split())
    return f"{key}: {said}" if key else said


def _path(loc: Sequence[int | str]) -> str:
    """A place in a table, such as epochs[3].loss."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
