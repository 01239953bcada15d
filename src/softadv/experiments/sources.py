"""The user code that a trial runs: where it is defined, and whether it has changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from softadv import data, models
from softadv._io import read_json, write_json
from softadv._typed import build
from softadv.attacks import attacks
from softadv.errors import SoftadvError
from softadv.experiments.names import SourceKind
from softadv.experiments.run_folder import SOURCES
from softadv.experiments.spec import Trial
from softadv.registry import Origin, check_unchanged, is_softadvs, origin
from softadv.training.methods import methods, parse_method


def sources_of(trial: Trial) -> dict[SourceKind, Origin]:
    """Import path and digest of the source file of each data set, model, method and attack that is not softadv's own.

    By kind. Imports what the trial names. Raises SoftadvError where that cannot be.
    """
    named: dict[SourceKind, tuple[Any, str]] = {
        "dataset": (data.registry, trial.dataset),
        "model": (models.registry, trial.model),
        "method": (methods, parse_method(trial.method)[0]),
        "attack": (attacks, trial.attack),
    }
    found = {
        kind: origin(registry.get(name), name=None if registry.is_registered(name) else name)
        for kind, (registry, name) in named.items()
    }
    return {kind: source for kind, source in found.items() if not is_softadvs(source.path)}


def check_sources(folder: Path, now: dict[SourceKind, Origin]) -> None:
    """Record a trial's sources in its folder when it begins, and refuse to go on with others later.

    Raises SoftadvError, in one line, for code that has changed since the run began, and for a damaged record.
    """
    path = folder / SOURCES
    if not path.exists():
        if now:
            write_json(path, {kind: {"path": one.path, "sha256": one.sha256} for kind, one in now.items()})
        return
    table = read_json(path)
    recorded = {kind: build(Origin, table[kind], where=f"{path}: {kind}") for kind in table}
    if recorded.keys() != now.keys():
        raise SoftadvError(f"{path}: names the sources of {_listed(recorded)}, the trial has those of {_listed(now)}")
    for kind, source in now.items():
        check_unchanged(kind, recorded=recorded[kind], now=source)


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(kinds)) or "nothing"
