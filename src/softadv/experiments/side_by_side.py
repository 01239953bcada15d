"""Trains a grid's trials that differ only in the seed as one stacked model, which fills a GPU."""

from __future__ import annotations

import logging
from collections.abc import Set
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from softadv.experiments.grid import GridReport, Prepared
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.experiments.trial import TrialRun, train_side_by_side
from softadv.training.stacked import can_be_stacked

_LOG = logging.getLogger(__name__)


def train_all_seeds(prepared: Prepared, trial: Trial, *, but: Set[Trial], report: GridReport) -> set[Trial]:
    """Train the trials like this one side by side, those together that are at the same epoch.

    but: trials of which this was tried already. Returns those of which it was tried now.
    Errors are ignored here: each trial later goes on alone from its last epoch, where they occur and are handled again.
    """
    kind = _but_for_the_seed(trial)
    alike = [other for other in prepared.grid.trials if _but_for_the_seed(other) == kind and other not in but]
    at_epoch: dict[int, list[TrialRun]] = {}
    with ExitStack() as holding:
        for other in alike if can_be_stacked(train_config(kind)) else ():
            folder, data = RunFolder(prepared.folder / other.name), prepared.datasets[other]
            with suppress(Exception):
                holding.enter_context(folder.begun(other))
                if folder.result() is None:
                    run = TrialRun.resume(other, run=folder, data=data, report=partial(report, other.name))
                    at_epoch.setdefault(run.epoch, []).append(run)
        for runs in at_epoch.values():
            if len(runs) > 1:
                try:
                    train_side_by_side(runs)
                except Exception as error:
                    names = ", ".join(run.trial.name for run in runs)
                    _LOG.warning("%s: side by side they failed (%s), and go on one by one", names, error)
    return {run.trial for runs in at_epoch.values() for run in runs}


def _but_for_the_seed(trial: Trial) -> Trial:
    return replace(trial, seed=0)
