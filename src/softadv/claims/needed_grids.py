"""Which packaged grids contain the trials of claims that were not run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass

from softadv.claims.judge import Claim, Expectations
from softadv.experiments.spec import load_grid, packaged_grids


def needed_grids(claims: Collection[Claim], expected: Sequence[Expectations]) -> list[str]:
    """The fewest packaged grids that together have every setting these claims ask about; the smaller of two equals.

    expected: where the claims come from, with their rules. A claim that no one grid has all settings of is left out.
    """
    grids = {name: load_grid(name).trials for name in packaged_grids()}
    settings = {name: {trial.setting for trial in trials} for name, trials in grids.items()}
    known = set().union(*settings.values())
    lacking = [
        asked
        for one in expected
        for claim, rule in one.claims
        if claim in claims and (asked := set(_texts(rule)) & known)
    ]
    found: list[str] = []
    while lacking:
        covered = {name: sum(asked <= its_own for asked in lacking) for name, its_own in settings.items()}
        best = max(covered, key=lambda name: (covered[name], -len(grids[name])))
        if not covered[best]:
            break
        found.append(best)
        lacking = [asked for asked in lacking if not asked <= settings[best]]
    return found


def _texts(value: object) -> Iterator[str]:
    """Every text in a rule's fields, whatever they are called: the names of settings are among them."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _texts(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
