"""Evaluate a grid's trials from the reference's weights: minutes without a GPU, where training takes hours.

Natural and certified accuracy, the attack with the random start of the epoch that ended with these weights, and the
exports are computed as at the end of training; the curves are the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from safetensors.torch import load

from softadv._io import tensors_bytes, tensors_sha256
from softadv._progress import Report, stage
from softadv.attacks import AtRadius
from softadv.data import Dataset, load_dataset
from softadv.errors import SoftadvError
from softadv.experiments.final_evaluation import conclude, conclusion_work
from softadv.experiments.grid import Prepared
from softadv.experiments.load_model import Saved, find_saved
from softadv.experiments.records import Result
from softadv.experiments.reference import FROM_WEIGHTS, Record, training_of
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Grid, Trial
from softadv.experiments.train_config import attack_of
from softadv.experiments.trial_job import TrialJob
from softadv.training.config import generator_for
from softadv.training.early_stopping import final_epoch
from softadv.training.evaluation import adversarial_accuracy, natural_accuracy
from softadv.training.records import EpochMetrics


@dataclass(frozen=True)
class Stored:
    """The trials of a grid that can be evaluated from weights.

    grid: of these trials alone, with a name of its own. records: by the trial's name.
    remarks: lines that say what is not computed: the trials without weights, AutoAttack.
    refused: the data sets whose images are not those of the reference, so that their trials are left out; with a line
    that says so.
    """

    grid: Grid
    records: Mapping[str, Record]
    remarks: tuple[str, ...]
    refused: dict[str, str]

    side_by_side = False  # nothing is trained

    def work(self, prepared: Prepared) -> float:
        """The cost of all trials in attack steps on one image."""
        return sum(self.work_on(trial, prepared.datasets[trial]) for trial in prepared.grid.trials)

    def work_on(self, trial: Trial, data: Dataset) -> float:
        """The cost of one trial in attack steps on one image."""
        return trial.steps * len(data.test_x) + conclusion_work(trial, data)

    def check(self, done: Result, run: RunFolder, data: Dataset) -> None:
        """Raise SoftadvError where a result is of other images, or of other weights than the reference now has."""
        if done.data_fingerprint != data.fingerprint:
            raise SoftadvError(f"{_other_data(str(run.path), done, data)}; use --fresh")
        if done.weights_sha256 != self.records[done.trial.name].result.weights_sha256:
            raise SoftadvError(f"{run.path}: was evaluated with other weights than the reference now has; use --fresh")

    def job(self, job: TrialJob) -> EvaluationJob:
        """The job that evaluates a trial. Raises SoftadvError for weights that are not the record's."""
        record = self.records[job.trial.name]
        weights = find_saved(record.weights).weights
        found, recorded = tensors_sha256(weights), record.result.weights_sha256
        if found != recorded:
            raise SoftadvError(
                f"{record.weights}: not the weights that {record.path.name} records "
                f"(sha256 {found[:12]}, recorded {recorded[:12]})"
            )
        parts = {field.name: getattr(job, field.name) for field in fields(job)} | {
            "files": {},
            "beside": {},
            "trained_by": None,
        }
        return EvaluationJob(**parts, path=record.weights, weights=tensors_bytes(weights), epochs=record.epochs)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob(TrialJob):
    """Measure the stored weights of a trial as the epoch did that ended with them, and conclude it.

    weights: as safetensors; path: of their file, for messages. epochs: the reference's, which become the folder's.
    """

    path: Path
    weights: bytes
    epochs: tuple[EpochMetrics, ...]

    def work(self, run: RunFolder, data: Dataset, *, report: Report, on_kept: Callable[[], None]) -> None:
        """Evaluate the trial. run: its folder here, with nothing in it. data: its images, where they are to be.

        Raises SoftadvError for weights that are not the network's.
        """
        trial = self.trial
        with run.begun(trial):
            saved = Saved(self.path, load(self.weights), trial.dataset, trial)
            final = final_epoch(self.epochs, patience=trial.patience)
            model = saved.model(data, device=data.test_x.device, name=trial.model)
            natural = natural_accuracy(model, data.test_x, data.test_y)
            adversarial = adversarial_accuracy(
                model,
                data.test_x,
                data.test_y,
                attack=AtRadius(attack_of(trial), trial.eps),
                # Of the epoch that ended with these weights: on the same machine the figure comes out the same.
                generator=generator_for(trial.seed, final.epoch, "evaluation", data.test_x.device),
                on_progress=stage(report, "attacking", cost=trial.steps),
            )
            run.write_metrics(list(self.epochs))
            last = replace(final, natural_accuracy=natural, adversarial_accuracy=adversarial)
            run.write_result(conclude(model, trial=trial, run=run, data=data, report=report, last=last))


def stored_trials(
    grid: Grid, records: Sequence[Record], *, data_root: Path | None, autoattack: bool, other_images: bool = False
) -> Stored:
    """Look up the weights of a grid's trials.

    data_root: as load_dataset takes it. autoattack: whether AutoAttack is asked where the grid asks it.
    other_images: whether images that the reference was not measured on will do, too.
    Raises SoftadvError where no trial has weights, or all that have are of other images.
    """
    by_training = {(training_of(r.trial), r.trial.seed): r for r in records if r.weights.is_file()}
    found = {trial: by_training.get((training_of(trial), trial.seed)) for trial in grid.trials}
    there = {trial: record for trial, record in found.items() if record is not None}
    lacking = [trial for trial in grid.trials if trial not in there]
    if not there:
        stored = ", ".join(sorted({record.path.parent.name for record in records if record.weights.is_file()}))
        there_are = f"there are weights for {stored}" if stored else "no grid has weights"
        raise SoftadvError(
            f"no reference weights for any trial of {grid.name} with this spec; train them instead ({there_are})"
        )
    differing = _other_images(there, data_root)
    refused = {} if other_images else differing
    kept = {trial: record for trial, record in there.items() if trial.dataset not in refused}
    if not kept:
        raise SoftadvError("; ".join(refused.values()))
    remarks = [f"no reference weights for {_listed(lacking)}"] if lacking else []
    if not autoattack and any(trial.autoattack_images for trial in kept):
        remarks.append("AutoAttack is left out, since it takes long without a GPU; --autoattack asks for it")
    remarks += differing.values() if other_images else ()
    trials = [trial if autoattack else replace(trial, autoattack_images=0) for trial in kept]
    description = f"{grid.description} Evaluated from stored weights: nothing was trained.".strip()
    return Stored(
        replace(grid, name=grid.name + FROM_WEIGHTS, description=description, trials=tuple(trials)),
        {trial.name: record for trial, record in kept.items()},
        tuple(remarks),
        refused,
    )


def _other_images(found: Mapping[Trial, Record], data_root: Path | None) -> dict[str, str]:
    """By dataset, a line that says so where the images here are not those that the reference was measured on."""
    whole = {name: load_dataset(name, data_root) for name in {trial.dataset for trial in found}}
    fingerprints: dict[tuple[str, int | None, int | None], Dataset] = {}
    refused: dict[str, str] = {}
    for trial, record in found.items():
        key = (trial.dataset, trial.train_images, trial.test_images)
        if key not in fingerprints:
            fingerprints[key] = whole[trial.dataset].first(train=trial.train_images, test=trial.test_images)
        if record.result.data_fingerprint != fingerprints[key].fingerprint:
            told = _other_data(str(record.path), record.result, fingerprints[key])
            refused[trial.dataset] = f"{told}; --other-images evaluates on these all the same"
    return refused


def _other_data(where: str, recorded: Result, data: Dataset) -> str:
    prints = f"fingerprint {recorded.data_fingerprint[:12]}, here {data.fingerprint[:12]}"
    return f"{where}: was measured on other {data.name} images ({prints})"


def _listed(trials: Sequence[Trial]) -> str:
    """Trials by setting and method, such as "mnist-eps0.1-soft seeds 1, 2"."""
    groups: dict[str, list[str]] = {}
    for trial in trials:
        groups.setdefault(f"{trial.setting}-{trial.method}", []).append(str(trial.seed))
    texts = [f"{name} seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}" for name, seeds in groups.items()]
    return "; ".join(texts)
