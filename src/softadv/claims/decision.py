"""Decisions of rules: one answer from several findings, and a sentence with mean, interval and number of seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeVar

from softadv._decimals import decimal
from softadv.claims.selection import Evidence
from softadv.claims.stats import Answer, Estimate, all_of
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a claim holds, the sentence that says why, and the estimates it rests on."""

    outcome: Answer
    reason: str
    estimates: tuple[Estimate, ...] = ()


class Rule(Protocol):
    """Decides a claim from the runs; raises NotRun where they are missing."""

    def decide(self, evidence: Evidence) -> Decision: ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One estimate, and its answer to the claim."""

    heading: str  # what was measured, which neighbours in the sentence share
    name: str  # where, such as the setting
    estimate: Estimate
    answer: Answer | None  # None for an estimate that is only shown
    shown: str = ""  # what stands for the name in the list, with levels between which the estimate is a step
    remark: str = ""  # what a reader must know of this estimate alone


def binary(holds: bool, reason: str) -> Decision:
    """The decision of a rule that does not compare means."""
    return Decision(outcome="holds" if holds else "fails", reason=reason)


def decision_from(findings: Sequence[Finding], *, claimed: str, note: str = "", equivalence: bool = False) -> Decision:
    """The decision from findings: holds if all hold, fails if any fails.

    claimed: the range, in words that say whether it is claimed or what its words are taken for. note: what else the
    reader must know of the runs. equivalence: whether the answers are those of two one-sided tests.
    """
    deciding = [finding for finding in findings if finding.answer is not None]
    beside = [finding for finding in findings if finding.answer is None]
    outcome = all_of(finding.answer for finding in deciding if finding.answer is not None)
    why = _why(deciding, outcome, equivalence=equivalence) if deciding else "nothing of this decides it"
    reason = f"{listed(deciding or beside)}; {claimed}: {why}"
    if deciding and beside:
        reason += f"; beside it, {listed(beside)}"
    if note:
        reason += f"; {note}"
    return Decision(outcome=outcome, reason=reason, estimates=tuple(f.estimate for f in [*deciding, *beside]))


def joint_decision(decisions: Sequence[Decision]) -> Decision:
    """One decision from those about the parts of a claim."""
    return Decision(
        outcome=all_of(decision.outcome for decision in decisions),
        reason=". ".join(decision.reason for decision in decisions),
        estimates=tuple(found for decision in decisions for found in decision.estimates),
    )


def for_each(settings: Sequence[str], look: Callable[[str], T]) -> list[T]:
    """The value of `look` in each setting. Raises NotRun that names the missing settings, and those that were run."""
    found: dict[str, T] = {}
    lacking: dict[str, list[str]] = {}  # by what is said of them
    for setting in settings:
        try:
            found[setting] = look(setting)
        except NotRun as gap:
            # "no finished soft run of a and b" rather than a sentence for each. Called in words, a and b have commas.
            lacking.setdefault(str(gap).removesuffix(f" {setting}"), []).append(setting)
    if lacking:
        gaps = [f"{said} {' and '.join(names)}" if said.endswith(" of") else said for said, names in lacking.items()]
        there = [f"run in part only: {' and '.join(found)}"] if found else []
        raise NotRun("; ".join(gaps + there))
    return list(found.values())


def need(count: int, items: Sequence[object], *, key: str) -> None:
    """Raise SoftadvError unless a rule's list has at least `count` entries: a claim about nothing would hold."""
    if len(items) < count:
        raise SoftadvError(f"{key}: at least {count} needed, got {len(items)}")


def known(name: str, names: Sequence[str], *, key: str) -> None:
    """Raise SoftadvError unless a rule's key has one of the values it may have."""
    if name not in names:
        raise SoftadvError(f"{key}: unknown {name!r}, expected one of {', '.join(names)}")


def listed(findings: Sequence[Finding]) -> str:
    """Means with their intervals, under their headings, and the number of seeds."""
    counts = {finding.estimate.seeds for finding in findings}
    parts = []
    for heading, group in groupby(findings, key=lambda finding: finding.heading):
        shown = [_item(found) + (f", {_seeds(found.estimate.seeds)}" if len(counts) > 1 else "") for found in group]
        parts.append(f"{heading}: {', '.join(shown)}")
    return "; ".join(parts) + (f", {_seeds(counts.pop())}" if len(counts) == 1 else "")


def figure(value: float, *, unit: str) -> str:
    """A value with two decimals, or more if it would round to zero, and a sign if it is a difference."""
    tiny = abs(value) < 1e-9
    return decimal(0.0 if tiny else value, places=2 if tiny or abs(value) >= 0.005 else 4, sign=unit == "points")


def _item(found: Finding) -> str:
    if found.shown:
        return f"{found.shown} ({_shown(found.estimate)}{'; ' * bool(found.remark)}{found.remark})"
    return f"{found.name} {_shown(found.estimate)}" + (f" ({found.remark})" if found.remark else "")


def _shown(found: Estimate) -> str:
    gap = "" if found.unit == "%" else " "
    mean = f"{figure(found.mean, unit=found.unit)}{gap}{found.unit}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{figure(found.low, unit=found.unit)}, {figure(found.high, unit=found.unit)}]"


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count != 1)


def _why(findings: Sequence[Finding], outcome: Answer, *, equivalence: bool) -> str:
    one_heading = len({finding.heading for finding in findings}) == 1
    named = [f.name if one_heading else f"{f.name} ({f.heading})" for f in findings if f.answer == outcome]
    names = ", ".join(dict.fromkeys(named)) if len(findings) > 1 else "the mean"
    match outcome:
        case "holds":
            whose = "its" if len(findings) == 1 else "every"
            if equivalence:
                return f"{whose} 90% interval lies within that (two one-sided tests at 5%)"
            return f"{whose} interval lies within that"
        case "fails":
            return f"the whole interval of {names} lies {_side(findings)}"
        case "inconclusive":
            undecided = [f for f in findings if f.answer == outcome]
            if any(f.estimate.seeds == 1 for f in undecided):
                return "one seed gives no interval"
            return f"the interval of {names} lies neither within that nor outside"


def _side(findings: Sequence[Finding]) -> str:
    sides = {_beyond(found.estimate) for found in findings if found.answer == "fails"}
    return f"{sides.pop()} that" if len(sides) == 1 else "outside that"


def _beyond(found: Estimate) -> str:
    return "below" if found.claimed is not None and found.mean < found.claimed[0] else "above"
