"""Compare expected with measured results: a verdict for each claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softadv._io import parse_toml, read_text
from softadv._ranges import number, shown
from softadv._typed import build
from softadv.claims.decision import Rule
from softadv.claims.rules.kinds import RULES
from softadv.claims.selection import Evidence, Required
from softadv.claims.stats import Estimate
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun, Run
from softadv.experiments.spec import packaged_grids, refuse_unknown

Outcome = Literal["holds", "fails", "inconclusive", "not run"]
# paper: made by the paper; short: the same for runs with fewer epochs; own: softadv's own; check: a check of softadv.
ClaimKind = Literal["paper", "short", "own", "check"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of expected_results/: where it comes from and how it is decided."""

    id: str
    title: str
    source: str  # for a reader: the paper's section, or the file that holds the measured expectation
    kind: ClaimKind
    assumption: str = ""  # what the rule assumes beyond the source


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a claim, with a sentence of the figures it rests on."""

    claim: Claim
    outcome: Outcome
    reason: str
    estimates: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class Expectations:
    """A file of expected results: claims with their rules, and what its settings require."""

    claims: Sequence[tuple[Claim, Rule]]
    required: Mapping[str, Required]

    def verdicts(self, runs: Sequence[Run]) -> list[Verdict]:
        """A verdict for each claim; one whose trials were not run never counts as holding."""
        evidence = Evidence(runs, self.required)
        return [_verdict(claim, rule, evidence) for claim, rule in self.claims]


def judge(runs: Sequence[Run], *, grid: str, settings: Collection[str], expected: Path) -> list[Verdict]:
    """The verdicts on a grid's runs. grid, settings, expected: as in expectations_of."""
    return [verdict for found in expectations_of(grid, settings, expected) for verdict in found.verdicts(runs)]


def expectations_of(grid: str, settings: Collection[str], expected: Path) -> list[Expectations]:
    """The expectations of a grid: its own file, if it has one, then the paper's.

    The paper's claims do not apply to a user's grid, unless one of its settings has the name of a paper's setting.
    grid: its name. settings: those of its trials. expected: the folder of these files. Raises SoftadvError for bad
    files.
    """
    paper, own = load_expectations(expected / "paper.toml"), expected / f"{grid}.toml"
    found = [load_expectations(own)] if grid != "paper" and own.exists() else []
    return [*found, paper] if grid in packaged_grids() or not paper.required.keys().isdisjoint(settings) else found


def load_expectations(path: Path) -> Expectations:
    """Read a file of expected results.

    `[settings.NAME]` tables say what a trial must be like to count as that setting; each `[[claim]]` has
    an id, a title, a source, perhaps an assumption, the name of a rule (rules/kinds.py) and the rule's own keys.
    `kind` above them says whose claims these are; a claim may say otherwise, and a file that says nothing has its own.
    There is nothing else: a misspelt table would ask for nothing.

    Raises SoftadvError naming the file, the claim and the key for whatever is missing or unknown.
    """
    table = parse_toml(read_text(path), where=str(path))
    refuse_unknown(table, {"claim", "kind", "settings"}, where=str(path))
    required = {}
    settings = table.get("settings", {})
    if not isinstance(settings, dict):
        raise SoftadvError(f"{path}: settings: expected a table, got {shown(settings)}")
    for name, entry in settings.items():
        where = f"{path}: settings.{name}"
        if not isinstance(entry, dict):
            raise SoftadvError(f"{where}: expected a table, got {shown(entry)}")
        values = {k: number(v, key=f"{where}: {k}") if k in ("eps", "alpha") else v for k, v in entry.items()}
        required[name] = build(Required, values, where=where)
    claims = table.get("claim", [])
    if not isinstance(claims, list) or not all(isinstance(entry, dict) for entry in claims):
        raise SoftadvError(f"{path}: claim: expected [[claim]] tables")
    kind = table.get("kind", "own")
    return Expectations([_read_claim({"kind": kind} | entry, path) for entry in claims], required)


_ABOUT: tuple[str, ...] = ("id", "title", "source", "kind", "assumption")


def _read_claim(entry: dict[str, Any], path: Path) -> tuple[Claim, Rule]:
    name = entry.get("id", "?")
    where = f"{path}: claim {name if isinstance(name, str) else shown(name)}"
    rule = entry.get("rule")
    if not isinstance(rule, str) or rule not in RULES:
        raise SoftadvError(f"{where}: unknown rule {shown(rule)}, expected one of {', '.join(RULES)}")
    about = {key: entry[key] for key in _ABOUT if key in entry}
    settings = {k: v for k, v in entry.items() if k not in {*_ABOUT, "rule"}}
    return build(Claim, about, where=where), build(RULES[rule], settings, where=where)


def _verdict(claim: Claim, rule: Rule, evidence: Evidence) -> Verdict:
    try:
        found = rule.decide(evidence)
    except NotRun as gap:
        return Verdict(claim=claim, outcome="not run", reason=str(gap))
    return Verdict(claim=claim, outcome=found.outcome, reason=found.reason, estimates=found.estimates)
