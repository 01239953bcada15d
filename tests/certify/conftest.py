"""Both implementations of back-substitution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from softadv.certify import backsub_cpp as native


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
