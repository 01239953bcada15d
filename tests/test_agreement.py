"""Runs compared with the reference: what each tolerance allows, to its edge."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from softadv.agreement import (
    ENOUGH_SEEDS,
    ONE_SEED,
    ONE_SEED_UNTRAINED,
    OTHER_START,
    RESOLUTION,
    SAME_WEIGHTS,
    agree,
)
from softadv.claims import Verdict
from softadv.entries import read_entries
from softadv.evidence import Run, finished_runs
from softadv.reference import (
    Record,
    read_grid_reference,
    read_reference,
    training_difference,
)


def runs_and_records(tiny: Path, reference: Path) -> tuple[list[Run], list[Record]]:
    """Of soft training alone."""
    runs = [found for found in finished_runs(read_entries(tiny)) if found.result.trial.method == "soft"]
    return runs, [record for record in read_grid_reference(reference / "tiny") if record.trial.method == "soft"]


def with_results(run: Run, **changes: Any) -> Run:
    return replace(run, result=replace(run.result, **changes))


def verdict_on(runs: list[Run], records: list[Record]) -> Verdict:
    (verdict,) = agree(runs, records)
    return verdict


def test_the_same_runs_agree(tiny: Path, reference: Path) -> None:
    found = agree(finished_runs(read_entries(tiny)), read_reference(reference, grid="tiny"))
    assert [(verdict.claim.id, verdict.outcome) for verdict in found] == [
        (f"reference digits-tiny {method}", "holds") for method in ("natural", "adversarial", "soft")
    ]
    assert "(the same weights)" in found[0].reason


@pytest.mark.parametrize("figure", ["natural_accuracy", "adversarial_accuracy"])
def test_the_same_weights_have_next_to_no_tolerance(figure: str, tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    was = getattr(run.result, figure)
    for points, outcome in ((SAME_WEIGHTS, "holds"), (SAME_WEIGHTS + 0.001, "fails")):
        found = verdict_on([with_results(run, **{figure: was + points / 100})], records)
        assert found.outcome == outcome
    assert f"differs by {SAME_WEIGHTS + 0.001:.2f} points" in found.reason


def test_a_gpu_starts_its_attacks_elsewhere(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    gpu = run.result.environment | {"device": "NVIDIA H100"}
    for points, outcome in ((OTHER_START, "holds"), (OTHER_START + 0.01, "fails")):
        moved = run.result.adversarial_accuracy + points / 100
        assert verdict_on([with_results(run, adversarial_accuracy=moved, environment=gpu)], records).outcome == outcome
    moved = run.result.natural_accuracy + 2 * SAME_WEIGHTS / 100
    assert verdict_on([with_results(run, natural_accuracy=moved, environment=gpu)], records).outcome == "fails"


def test_the_same_weights_verify_as_many_images_but_for_rounding(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    (certified,) = record.result.certified
    reasons = {}
    for images, verified, recorded, outcome in ((1000, 502, 500, "holds"), (1000, 503, 500, "fails")):
        here = with_results(run, certified=(replace(certified, images=images, verified=verified),))
        there = replace(record.result, certified=(replace(certified, images=images, verified=recorded),))
        verdict = verdict_on([here], [replace(record, result=there)])
        assert verdict.outcome == outcome
        reasons[outcome] = verdict.reason
    assert "certified accuracy of 1,000 by DeepPoly 50.20%, reference 50.00 ± 0.20" in reasons["holds"]


def test_one_seed_trained_again_has_a_margin(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    there = [replace(record, result=replace(record.result, natural_accuracy=0.5))]
    for points, outcome in ((ONE_SEED, "holds"), (ONE_SEED + 0.1, "fails")):
        again = with_results(run, weights_sha256="other", natural_accuracy=0.5 + points / 100)
        found = verdict_on([again], there)
        assert found.outcome == outcome
    assert found.reason.startswith("natural accuracy 53.10%, reference 50.00 ± 3.00: differs by 3.10 points; ")
    assert found.reason.endswith("(trained again: 1 seed against 1)")


def test_several_seeds_say_how_far_means_may_lie_apart(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)

    def seeds(*values: float) -> list[Record]:
        trials = [replace(record.trial, seed=seed) for seed in range(len(values))]
        results = [
            replace(record.result, trial=trial, natural_accuracy=value)
            for trial, value in zip(trials, values, strict=True)
        ]
        return [replace(record, result=result) for result in results]

    def outcome(natural: float, *values: float) -> str:
        return verdict_on([with_results(run, weights_sha256="other", natural_accuracy=natural)], seeds(*values)).outcome

    values = (0.78, 0.79, 0.8, 0.81, 0.82)
    spread = 5 * stdev(values) * (1 / 5 + 1) ** 0.5
    assert outcome(0.8 + spread - 0.001, *values) == "holds"
    assert outcome(0.8 + spread + 0.001, *values) == "fails"
    # Seeds that happen to be alike do not make the tolerance nothing, and few of them not even a small one.
    for count, least in ((ENOUGH_SEEDS, RESOLUTION), (ENOUGH_SEEDS - 1, ONE_SEED), (2, ONE_SEED)):
        assert outcome(0.8 + (least - 0.1) / 100, *[0.8] * count) == "holds"
        assert outcome(0.8 - (least + 0.1) / 100, *[0.8] * count) == "fails"


def test_what_is_not_trained_for_has_a_wider_margin(tiny: Path, reference: Path) -> None:
    runs = {run.result.trial.method: run for run in finished_runs(read_entries(tiny))}
    records = {record.trial.method: record for record in read_grid_reference(reference / "tiny")}
    margins = {}
    for method in ("natural", "soft"):
        again = with_results(runs[method], weights_sha256="other")
        margins[method] = re.findall(r"± ([\d.]+)", verdict_on([again], [records[method]]).reason)
    one, untrained = f"{ONE_SEED:.2f}", f"{ONE_SEED_UNTRAINED:.2f}"
    # Natural, adversarial, certified.
    assert margins == {"natural": [one, untrained, untrained], "soft": [one, one, untrained]}


def test_only_the_same_training_is_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    trial = run.result.trial
    for change in ({"eps": 0.03}, {"steps": 3}, {"batch_size": 16}, {"update": "two-pass"}, {"test_images": 31}):
        assert agree([with_results(run, trial=replace(trial, **change))], records) == []
    for change in ({"seed": 4}, {"certifier": "gpupoly"}, {"autoattack_images": 10}, {"certified_images": 5}):
        assert len(agree([with_results(run, trial=replace(trial, **change))], records)) == 1
    assert agree([run], []) == []
    assert training_difference(trial, replace(trial, eps=0.03, seed=3)) == "eps 0.03 instead of 0.02"


def test_what_was_certified_otherwise_is_said_not_to_be_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    fewer = tuple(replace(certified, images=5, verified=0) for certified in run.result.certified)
    found = verdict_on([with_results(run, certified=fewer, data_fingerprint="0" * 64)], records)
    assert "certified accuracy" not in found.reason
    assert "on other digits images, certified on different numbers of images: not compared" in found.reason
