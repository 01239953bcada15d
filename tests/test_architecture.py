"""What is written twice is kept equal. Which module may import which: import-linter, by pyproject.toml."""

from __future__ import annotations

from typing import get_args

from softadv.certify import DOMAINS, Domain
from softadv.experiments import spec


def test_a_spec_knows_the_certifiers_domains() -> None:
    assert get_args(spec.Domain) == get_args(Domain) == DOMAINS
