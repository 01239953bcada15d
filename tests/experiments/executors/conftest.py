"""The order of the tests on Ray."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that join a cluster come first.

    A process keeps the token of the Ray that it first started, and a cluster that was started without one refuses it.
    """
    items.sort(key=lambda item: "cluster" not in getattr(item, "fixturenames", ()))
