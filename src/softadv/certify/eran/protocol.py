"""The worker's messages, checked line by line; docker/eran/worker.py documents the protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from softadv.errors import SoftadvError

PROTOCOL = 1
# How the reason begins if GPUPoly is missing because no CUDA device answers.
NO_DEVICE = "NoDevice: "

EngineName = Literal["gpupoly", "eran-deeppoly", "eran-deepzono"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

EngineVerdict = Literal["verified", "unverified", "failed"]
# What is recorded of an image. softadv itself adds "timeout"; a worker never sends it.
EngineOutcome = EngineVerdict | Literal["timeout"]

_EXCERPT = 200


@dataclass(frozen=True)
class Offer:
    """An engine that a worker has. soundness: for each rounding, the arithmetic that verdicts hold for."""

    version: str
    soundness: Mapping[str, str]


@dataclass(frozen=True)
class Hello:
    """A worker's first message: the engines it has, and why others are missing."""

    offers: Mapping[str, Offer]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class EngineAnswer:
    """The result of one image. index: its row in the request's files; margin: NaN where the engine has none."""

    index: int
    verdict: EngineOutcome
    seconds: float
    margin: float
    error: str | None


def read_hello(line: bytes) -> Hello:
    """The worker's first message. Raises SoftadvError for another protocol version, and for any other line."""
    said = _object(line)
    if said.get("protocol") != PROTOCOL:
        if isinstance(said.get("protocol"), int):
            raise SoftadvError(
                f"SOFTADV_ERAN: the worker speaks protocol {said['protocol']}, this softadv speaks {PROTOCOL}; "
                "take the worker.py that came with it"
            )
        raise invalid_line(line)
    engines, missing = said.get("engines"), said.get("missing")
    if not isinstance(engines, dict) or not _is_texts(missing):
        raise invalid_line(line)
    offers = {}
    for name, about in engines.items():
        if not (
            isinstance(about, dict) and isinstance(about.get("version"), str) and _is_texts(about.get("soundness"))
        ):
            raise invalid_line(line)
        offers[name] = Offer(about["version"], about["soundness"])
    return Hello(offers, cast(dict[str, str], missing))


def read_ready(line: bytes, *, request: int) -> None:
    """Check that the worker has read the request's files. Raises SoftadvError where it could not, and for any other
    line.
    """
    said = _object(line)
    if said.get("request") != request:
        raise invalid_line(line)
    if isinstance(said.get("error"), str):
        raise SoftadvError(f"the engine cannot read this model ({said['error']})")
    if said.get("ready") is not True:
        raise invalid_line(line)


def read_answer(line: bytes, *, request: int, among: Collection[int]) -> EngineAnswer:
    """The answer for one image, in any order.

    among: the rows that are not answered yet. Raises SoftadvError for another row, for an invalid line, and for a
    verdict that contradicts its own margin.
    """
    said = _object(line)
    index, verdict, error = said.get("index"), said.get("verdict"), said.get("error")
    seconds = _number(said.get("seconds"))
    margin = _number(said["margin"]) if "margin" in said else math.nan  # one that is there is a number
    if said.get("request") != request or type(index) is not int or verdict not in get_args(EngineVerdict):
        raise invalid_line(line)
    if seconds is None or seconds < 0 or margin is None or not isinstance(error, str | None):
        raise invalid_line(line)
    if index not in among:
        raise SoftadvError(f"the worker answered for image {index}, which was not asked about or is answered already")
    if verdict == "verified" and margin <= 0:
        raise SoftadvError(f"the worker says that image {index} is verified, with a margin of {margin:g}")
    return EngineAnswer(index, cast(EngineVerdict, verdict), seconds, margin, error)


def invalid_line(line: bytes) -> SoftadvError:
    """The error for an invalid line."""
    text = line[:_EXCERPT].decode(errors="replace")
    return SoftadvError(f"the worker answered nonsense: {text!r}{'…' if len(line) > _EXCERPT else ''}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise invalid_line(line)
    return said


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no end
        return None
    return number if math.isfinite(number) else None  # Python reads NaN and Infinity, which are not JSON


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
