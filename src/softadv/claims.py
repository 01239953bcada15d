"""Expected results against measured ones: a verdict for each claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["holds", "fails", "not run"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of expected_results/: where it comes from and how it is decided."""

    id: str
    title: str
    source: str  # the paper's section, or the file that holds the measured expectation


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs say about a claim, and the figures it rests on, in one sentence."""

    claim: Claim
    outcome: Outcome
    reason: str
