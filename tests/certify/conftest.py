"""Both implementations of back-substitution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from softadv.certify import backsub_cpp as native


def engines() -> list[AbstractContextManager[object]]:
    """Contexts, within which certify uses the compiled kernel, if there is one, and torch's operations.

    For tests of which most is not certify: they do that once for both.
    """
    return [*([nullcontext()] if native.available() else []), native.disabled()]


@pytest.fixture(params=["native", "torch"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The back-substitution that certify uses in a test: the compiled kernel, or torch's operations."""
    if request.param == "torch":
        with native.disabled():
            yield request.param
        return
    if not native.available():
        pytest.skip("needs a C++ compiler")
    yield request.param
