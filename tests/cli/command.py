"""A command line as the tests call it."""

from __future__ import annotations

import pytest

from softadv.cli.app import main


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)
