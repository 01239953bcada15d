"""How tests look at what softadv refuses: always one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from softadv.errors import SoftadvError


def refusal(function: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The line by which a call is refused, which it must be."""
    line = said(function, *arguments, **options)
    if line is None:
        pytest.fail(f"{function} did not refuse {arguments} {options}")
    return line


def said(function: Callable[..., object], *arguments: Any, **options: Any) -> str | None:
    """The line by which a call is refused; None where it is not."""
    try:
        function(*arguments, **options)
    except SoftadvError as error:
        line = str(error)
        assert "\n" not in line
        return line
    return None
