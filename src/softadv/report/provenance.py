"""Remarks on the code that the results were measured with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from softadv.experiments.environment import CHANGED
from softadv.experiments.runs import Run


def commit_remarks(runs: Sequence[Run]) -> list[str]:
    """Sentences that say whose code is not wholly known; none where every trial names a commit as it is checked out."""
    remarks = []
    commits = [run.result.environment.get("commit", "unknown") for run in runs]
    dirty = Counter(commit.removesuffix(CHANGED)[:7] for commit in commits if commit.endswith(CHANGED))
    if dirty:
        named = ", ".join(f"{commit} in {count}" for commit, count in dirty.most_common())
        remarks.append(
            f"{_of(dirty.total(), runs)} trained with changes that were not committed (on commit {named}): "
            f"{_theirs(dirty.total())} code cannot be checked out."
        )
    unknown = commits.count("unknown")
    if unknown:
        remarks.append(f"{_of(unknown, runs)} trained by a commit that is not known.")
    # Epochs name their commit since trials can go on elsewhere; before, it was asked for once, as a rule at the end.
    late = sum(commit != "unknown" and not _named(run) for commit, run in zip(commits, runs, strict=True))
    if late:
        remarks.append(
            f"{_of(late, runs)} recorded when epochs did not yet name their commit: "
            "the commit in the record is the one that was checked out when the trial ended."
        )
    return remarks


def source_remarks(runs: Sequence[Run]) -> list[str]:
    """Sentences that name code of one's own that changed between trials of a setting, which are compared."""
    versions: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        for kind, source in run.names.sources.items():
            key = (run.result.trial.setting, kind, source.path)
            versions.setdefault(key, set()).add((source.sha256 or "unknown")[:12])
    return [
        f"{setting}: the source file of {kind} {path} changed between its trials (SHA-256 {', '.join(sorted(found))}); "
        "their differences may be the code's."
        for (setting, kind, path), found in versions.items()
        if len(found) > 1
    ]


def _named(run: Run) -> bool:
    return all("commit " in epoch.engine for epoch in run.metrics)


def _of(count: int, runs: Sequence[Run]) -> str:
    return f"{count} of {len(runs)} trials {'was' if count == 1 else 'were'}"


def _theirs(count: int) -> str:
    return "its" if count == 1 else "their"
