"""Runs against the reference: a verdict for each setting and method that both have.

Trials are compared where their specs are the same but for the seed, the certifier and how much is measured at the
end; of others it is said that they are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from softadv.claims import Claim, Outcome, Verdict
from softadv.deviations import Deviation, Pair, gain_again, other_seeds, same_weights, trained_again
from softadv.evidence import Run
from softadv.reference import Record, training_difference, training_of
from softadv.spec import Trial


def agree(runs: Sequence[Run], records: Sequence[Record]) -> list[Verdict]:
    """A verdict for each setting and method that runs and reference both have, in the order of the runs.

    Then one for each setting in which soft and adversarial training were run again with the reference's seeds, on
    the difference of the two; last, one that is "not run" names what the reference has otherwise or not at all. Of
    datasets that no record is of nothing is said.
    """
    groups: dict[Trial, list[Run]] = {}
    for run in runs:
        groups.setdefault(training_of(run.result.trial), []).append(run)
    compared, pairs, lacking = [], dict[str, dict[str, dict[int, Pair]]](), list[Trial]()
    for training, here in groups.items():
        there = [record for record in records if training_of(record.trial) == training]
        if there:
            compared.append(_verdict(here, there))
            pairs.setdefault(training.setting, {})[training.method] = dict(_pairs(here, there))
        elif any(record.trial.dataset == training.dataset for record in records):
            lacking.append(training)
    gains = [
        _gain(setting, by_method["soft"], by_method["adversarial"], source=_source(records, setting))
        for setting, by_method in pairs.items()
        if by_method.get("soft", {}).keys() & by_method.get("adversarial", {}).keys()
    ]
    return [*compared, *(gain for gain in gains if gain), *([_not_run(lacking, records)] if lacking else [])]


def _verdict(runs: Sequence[Run], records: Sequence[Record]) -> Verdict:
    trial = runs[0].result.trial
    there = [_run(record) for record in records]
    pairs = [pair for _, pair in _pairs(runs, records)]
    if len(pairs) == len(runs) and _same(pairs):
        found, how = same_weights(pairs), "the same weights"
    elif pairs:
        left_out = f", {_seeds(len(runs) - len(pairs))} left out that it has not" if len(pairs) < len(runs) else ""
        found, how = trained_again(pairs), f"trained again, {_seeds(len(pairs))} of the reference's{left_out}"
    else:
        found, how = other_seeds(runs, there), f"trained with other seeds: {len(runs)} against {len(there)}"
    results = [run.result for run in (*runs, *there)]
    if len({result.data_fingerprint for result in results}) > 1:
        how += f", on other {trial.dataset} images"
    if any(result.certified for result in results) and not any("certified" in deviation.name for deviation in found):
        how += ", certified on different numbers of images: not compared"
    return _decided(
        Claim(
            id=f"reference {trial.setting} {trial.method}",
            title=f"{trial.setting}, {trial.method} training: the accuracies of the reference",
            source=_source(records, trial.setting),
        ),
        found,
        how=how,
    )


def _gain(setting: str, soft: dict[int, Pair], adversarial: dict[int, Pair], *, source: str) -> Verdict | None:
    """None where every weight is the reference's: then this difference says no more than the figures themselves."""
    seeds = sorted(soft.keys() & adversarial.keys())
    sides = [soft[seed] for seed in seeds], [adversarial[seed] for seed in seeds]
    if _same([*sides[0], *sides[1]]):
        return None
    claim = Claim(
        id=f"reference {setting} soft - adversarial",
        title=f"{setting}: the difference between soft and adversarial training of the reference",
        source=source,
    )
    return _decided(claim, gain_again(*sides), how=f"trained again, {_seeds(len(seeds))} of the reference's")


def _decided(claim: Claim, found: Sequence[Deviation], *, how: str) -> Verdict:
    outcome: Outcome = "holds" if all(deviation.agrees for deviation in found) else "fails"
    return Verdict(claim=claim, outcome=outcome, reason=f"{'; '.join(map(str, found))} ({how})")


def _not_run(lacking: Sequence[Trial], records: Sequence[Record]) -> Verdict:
    reasons: dict[str, dict[str, list[str]]] = {}  # the methods of each setting
    for training in lacking:
        settings = reasons.setdefault(_otherwise(training, records), {})
        settings.setdefault(training.setting, []).append(training.method)
    parts = []
    for reason, settings in reasons.items():
        named = [f"{setting} {'/'.join(methods)}" for setting, methods in settings.items()]
        parts.append(f"{', '.join(named)} ({reason})")
    claim = Claim(id="reference", title="The accuracies of the reference", source="measured, reference")
    return Verdict(claim=claim, outcome="not run", reason=f"the reference does not have {'; '.join(parts)}")


def _otherwise(training: Trial, records: Sequence[Record]) -> str:
    """What tells a training from the reference's of the same name."""
    for record in records:
        if (record.trial.setting, record.trial.method) == (training.setting, training.method):
            return training_difference(record.trial, training) or ""
    return "none of that name"


def _pairs(runs: Sequence[Run], records: Sequence[Record]) -> list[tuple[int, Pair]]:
    """The seeds that both have, each with its run and its record."""
    by_seed = {record.trial.seed: record for record in records}
    return [(seed, (run, _run(by_seed[seed]))) for run in runs if (seed := run.result.trial.seed) in by_seed]


def _same(pairs: Sequence[Pair]) -> bool:
    return all(run.result.weights_sha256 == record.result.weights_sha256 for run, record in pairs)


def _run(record: Record) -> Run:
    return Run(record.result, record.epochs)


def _source(records: Sequence[Record], setting: str) -> str:
    folder = next(record.path.parent.name for record in records if record.trial.setting == setting)
    return f"measured, reference/{folder}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"
