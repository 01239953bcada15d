"""Locates expected_results/: the claims, and the reference that runs are compared with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from softadv.errors import SoftadvError

_NAME = "expected_results"


def expected_folder() -> Path:
    """softadv's own expected_results/: of the checkout that it runs from, else of the installed package.

    Raises SoftadvError where neither has one.
    """
    checkout = checkout_expected()
    installed = Path(str(resources.files("softadv") / _NAME))
    if checkout is None and not installed.is_dir():
        raise SoftadvError(f"{installed}: no such folder; name one with --expected")
    return checkout or installed


def checkout_expected() -> Path | None:
    """expected_results/ of the checkout that softadv runs from, where results may be stored; None if installed."""
    root = Path(__file__).parents[3]
    folder = root / _NAME
    return folder if (root / "pyproject.toml").is_file() and folder.is_dir() else None
