"""A short share of the search for broken certificates; benchmarks/soundness.py does all of it, for the documents."""

import pytest

from benchmarks.soundness import BODIES, RADII, search


@pytest.mark.parametrize("name", BODIES)
def test_a_directed_search_breaks_no_certificate_of_an_operator(tmp_path, name):
    at = list(BODIES).index(name)
    found = search(name, radius=RADII[at % len(RADII)], seed=100 + at, count=2_000, rounding="sound", folder=tmp_path)
    assert (found.torch, found.onnxruntime, found.broken) == (2_000, 8_000, 0)


def test_the_same_search_breaks_certificates_that_leave_rounding_out(tmp_path):
    assert any(
        search(name, radius=1e-7, seed=seed, count=500, rounding="none", folder=tmp_path).broken
        for name in ("BatchNormalization", "Reshape", "Concat of channels")
        for seed in range(3)
    )
