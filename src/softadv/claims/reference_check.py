"""Compare runs with the reference: a verdict for each setting and method that both have.

Trials are compared if their specs differ at most in the seed, the certifier and the measurements at the end. All others
are listed as not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softadv.claims.judge import Claim, Outcome, Verdict
from softadv.claims.tolerances import (
    Deviation,
    RunPair,
    gain_again,
    not_compared,
    other_seeds,
    same_weights,
    trained_again,
)
from softadv.experiments.reference import Record, training_difference, training_of
from softadv.experiments.runs import Run
from softadv.experiments.spec import Trial


def agree(runs: Sequence[Run], records: Sequence[Record]) -> list[Verdict]:
    """A verdict for each setting and method that runs and reference both have, in the order of the runs.

    Then one for each setting in which soft and adversarial training were run again with the reference's seeds, on
    the difference of the two. The last one, "not run", names the trials that the reference lacks or has with other
    settings. Datasets and settings that the reference does not have are left out.
    """
    groups: dict[Trial, list[Run]] = {}
    for run in runs:
        groups.setdefault(training_of(run.result.trial), []).append(run)
    compared, pairs, lacking = [], dict[str, dict[str, dict[int, RunPair]]](), list[Trial]()
    for training, here in groups.items():
        there = [record for record in records if training_of(record.trial) == training]
        if there:
            compared.append(_verdict(here, there))
            pairs.setdefault(training.setting, {})[training.method] = _pairs(here, there)
        elif any(record.trial.dataset == training.dataset for record in records):
            lacking.append(training)
    gains = [
        _gain(setting, by_method["soft"], by_method["adversarial"], source=_source(records, setting))
        for setting, by_method in pairs.items()
        if by_method.get("soft", {}).keys() & by_method.get("adversarial", {}).keys()
    ]
    known = {record.trial.setting for record in records} & {training.setting for training in groups}
    return [*compared, *(gain for gain in gains if gain), *([_not_run(lacking, records)] if lacking and known else [])]


def _verdict(runs: Sequence[Run], records: Sequence[Record]) -> Verdict:
    trial = runs[0].result.trial
    pairs = _pairs(runs, records)
    same = {seed: pair for seed, pair in pairs.items() if _same(pair)}
    other = {seed: pair for seed, pair in pairs.items() if seed not in same}
    rest = [run for run in runs if run.result.trial.seed not in pairs]
    there = [_run(record) for record in records]
    parts = []
    if same:
        parts.append(_Part(same_weights(same), f"the same weights, {_seeds(len(same))}", _not_compared(same.values())))
    if other:
        how = f"trained again, {_seeds(len(other))} of the reference's"
        parts.append(_Part(trained_again(other.values()), how, _not_compared(other.values())))
    if rest:
        how = f"trained with other seeds, {len(rest)} against {len(there)}"
        parts.append(_Part(other_seeds(rest, there), how, not_compared(rest, there)))
    claim = Claim(
        id=f"reference {trial.setting} {trial.method}",
        title=f"{trial.setting}, {trial.method} training: the accuracies of the reference",
        source=_source(records, trial.setting),
        kind="check",
    )
    return _decided(claim, parts, images=_other_images([*runs, *there]))


def _gain(setting: str, soft: dict[int, RunPair], adversarial: dict[int, RunPair], *, source: str) -> Verdict | None:
    """None where all weights equal the reference's: the difference would then repeat the figures themselves."""
    both = sorted(soft.keys() & adversarial.keys())
    seeds = [seed for seed in both if not (_same(soft[seed]) and _same(adversarial[seed]))]
    if not seeds:
        return None
    claim = Claim(
        id=f"reference {setting} soft - adversarial",
        title=f"{setting}: the difference between soft and adversarial training of the reference",
        source=source,
        kind="check",
    )
    sides = [soft[seed] for seed in seeds], [adversarial[seed] for seed in seeds]
    part = _Part(gain_again(*sides), f"trained again, {_seeds(len(seeds))} of the reference's", "")
    return _decided(claim, [part], images=_other_images([run for side in sides for pair in side for run in pair]))


@dataclass(frozen=True)
class _Part:
    """Some of a setting's seeds: their deviations, how they were made, and which figures were not compared."""

    found: Sequence[Deviation]
    how: str
    lacking: str

    def __str__(self) -> str:
        return f"{'; '.join(map(str, self.found))} ({self.how}{self.lacking and f'; not compared: {self.lacking}'})"


def _decided(claim: Claim, parts: Sequence[_Part], *, images: str) -> Verdict:
    outcome: Outcome = "holds" if all(found.agrees for part in parts for found in part.found) else "fails"
    return Verdict(claim=claim, outcome=outcome, reason=f"{'. '.join(map(str, parts))}{images}")


def _not_run(lacking: Sequence[Trial], records: Sequence[Record]) -> Verdict:
    reasons: dict[str, dict[str, list[str]]] = {}  # the methods of each setting
    for training in lacking:
        settings = reasons.setdefault(_otherwise(training, records), {})
        settings.setdefault(training.setting, []).append(training.method)
    parts = []
    for reason, settings in reasons.items():
        named = [f"{setting} {'/'.join(methods)}" for setting, methods in settings.items()]
        parts.append(f"{', '.join(named)} ({reason})")
    claim = Claim(id="reference", title="The accuracies of the reference", source="measured, reference", kind="check")
    return Verdict(claim=claim, outcome="not run", reason=f"the reference does not have {'; '.join(parts)}")


def _otherwise(training: Trial, records: Sequence[Record]) -> str:
    """How a training differs from the reference's of the same name."""
    for record in records:
        if (record.trial.setting, record.trial.method) == (training.setting, training.method):
            return training_difference(record.trial, training) or ""
    return "none of that name"


def _pairs(runs: Sequence[Run], records: Sequence[Record]) -> dict[int, RunPair]:
    """The seeds that both have, each with its run and its record."""
    by_seed = {record.trial.seed: record for record in records}
    return {seed: (run, _run(by_seed[seed])) for run in runs if (seed := run.result.trial.seed) in by_seed}


def _same(pair: RunPair) -> bool:
    return pair[0].result.weights_sha256 == pair[1].result.weights_sha256


def _not_compared(pairs: Iterable[RunPair]) -> str:
    runs, records = zip(*pairs, strict=True)
    return not_compared(runs, records)


def _other_images(runs: Sequence[Run]) -> str:
    dataset = runs[0].result.trial.dataset
    return f", on other {dataset} images" if len({run.result.data_fingerprint for run in runs}) > 1 else ""


def _run(record: Record) -> Run:
    return Run(record.result, record.epochs)


def _source(records: Sequence[Record], setting: str) -> str:
    folder = next(record.path.parent.name for record in records if record.trial.setting == setting)
    return f"measured, reference/{folder}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"
