"""How long a trial of the reference took, setting by setting (benchmarks.documents writes the table)."""

from __future__ import annotations

from benchmarks.reference_table import REFERENCE
from softadv.cli.progress_bar import duration
from softadv.experiments.estimate import end_seconds
from softadv.experiments.runs import all_series, read_entries
from softadv.experiments.spec_text import Series, by_method, by_setting
from softadv.report.words import setting_words

# Those of the experiments that reviewers are shown.
_GRIDS = ("cifar10", "mnist", "paper-short")


def table() -> str:
    """A row a setting and number of threads: of each method the trial that took least.

    A machine that does other work at the same time makes a trial slower, so the least time says most.
    """
    stored = {
        (run.trial.setting, run.trial.method, run.trial.seed): run
        for grid in _GRIDS
        for run in all_series(read_entries(REFERENCE / grid))  # grids share trials
        if run.result and not any(epoch.trained_by for epoch in run.epochs)
    }
    words = setting_words(list(stored.values()))
    rows = ["| setting | threads | the fastest trial of each method |", "| --- | --- | --- |"]
    for setting, runs in by_setting(list(stored.values())).items():
        for threads in sorted({_threads(run) for run in runs}):
            alike = [run for run in runs if _threads(run) == threads]
            told = [f"{method} {duration(min(map(_seconds, same)))}" for method, same in by_method(alike).items()]
            rows.append(f"| {words[setting]} | {threads} | {', '.join(told)} |")
    return "\n".join(rows)


def _threads(run: Series) -> str:
    assert run.result is not None
    return run.result.environment.get("threads", "unknown")


def _seconds(run: Series) -> float:
    """Of all epochs with their evaluations, and of the evaluation at the end."""
    assert run.result is not None
    return sum(epoch.seconds for epoch in run.epochs) + end_seconds(run.result)
