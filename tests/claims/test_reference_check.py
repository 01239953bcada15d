"""Runs compared with the reference: what each tolerance allows, to its edge."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from softadv.claims.judge import Verdict
from softadv.claims.reference_check import agree
from softadv.claims.tolerances import (
    ONE_SEED,
    ONE_SEED_AUTOATTACK,
    ONE_SEED_LEAST,
    ONE_SEED_UNTRAINED,
    OTHER_START,
    OTHER_START_IMAGES,
    SAME_WEIGHTS,
    SAME_WEIGHTS_AUTOATTACK,
    SIGMAS,
)
from softadv.experiments.records import Autoattacked
from softadv.experiments.reference import (
    Record,
    read_grid_reference,
    read_reference,
    training_difference,
)
from softadv.experiments.runs import Run, finished_runs, read_entries
from softadv.experiments.spec import METHODS


def runs_and_records(tiny: Path, reference: Path) -> tuple[list[Run], list[Record]]:
    """Of soft training alone, as if there were 10,000 test images."""
    runs = [found for found in finished_runs(read_entries(tiny)) if found.result.trial.method == "soft"]
    records = [record for record in read_grid_reference(reference / "tiny") if record.trial.method == "soft"]
    return (
        [with_results(run, test_images=10_000) for run in runs],
        [replace(record, result=replace(record.result, test_images=10_000)) for record in records],
    )


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
    assert found[0].reason.endswith("(the same weights, 1 seed)")


@pytest.mark.parametrize("figure", ["natural_accuracy", "adversarial_accuracy"])
def test_the_same_weights_have_next_to_no_tolerance(figure: str, tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    was = getattr(run.result, figure)
    for points, outcome in ((SAME_WEIGHTS, "holds"), (SAME_WEIGHTS + 0.001, "fails")):
        found = verdict_on([with_results(run, **{figure: was + points / 100})], records)
        assert found.outcome == outcome
    assert "± 0.05: seed 0 differs by 0.0510 points" in found.reason


@pytest.mark.parametrize("figure", ["natural_accuracy", "adversarial_accuracy"])
def test_the_same_weights_may_turn_one_image_of_few(figure: str, tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    for images, turned, outcome in ((360, 1, "holds"), (360, 2, "fails"), (10_000, 5, "holds"), (10_000, 6, "fails")):
        there = replace(record, result=replace(record.result, test_images=images, **{figure: 0.5}))
        here = with_results(run, test_images=images, **{figure: 0.5 + turned / images})
        assert verdict_on([here], [there]).outcome == outcome


def test_a_gpu_starts_its_attacks_elsewhere(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    gpu = run.result.environment | {"device": "NVIDIA H100"}
    for points, outcome in ((OTHER_START, "holds"), (OTHER_START + 0.01, "fails")):
        moved = run.result.adversarial_accuracy + points / 100
        assert verdict_on([with_results(run, adversarial_accuracy=moved, environment=gpu)], records).outcome == outcome
    moved = run.result.natural_accuracy + 2 * SAME_WEIGHTS / 100
    assert verdict_on([with_results(run, natural_accuracy=moved, environment=gpu)], records).outcome == "fails"
    few = [replace(record, result=replace(record.result, test_images=360)) for record in records]
    for images, outcome in ((OTHER_START_IMAGES, "holds"), (OTHER_START_IMAGES + 1, "fails")):
        moved = run.result.adversarial_accuracy + images / 360
        here = with_results(run, test_images=360, adversarial_accuracy=moved, environment=gpu)
        assert verdict_on([here], few).outcome == outcome


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
    assert found.reason.endswith("(trained again, 1 seed of the reference's)")


def seeded(run: Run, seed: int, natural: float) -> Run:
    trial = replace(run.result.trial, seed=seed)
    return with_results(run, trial=trial, weights_sha256="other", natural_accuracy=natural)


def recorded(record: Record, seed: int, natural: float) -> Record:
    trial = replace(record.trial, seed=seed)
    return replace(record, result=replace(record.result, trial=trial, natural_accuracy=natural))


def test_seeds_trained_again_are_compared_one_by_one(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    values = (0.35, 0.45, 0.55, 0.65)
    there = [recorded(record, seed, value) for seed, value in enumerate(values)]

    def verdict(*values: tuple[int, float]) -> Verdict:
        return verdict_on([seeded(run, seed, value) for seed, value in values], there)

    # How far seeds lie apart makes no difference, and the more of them there are, the nearer the mean must be.
    assert verdict((3, 0.65 + 0.028)).outcome == "holds"
    assert verdict((3, 0.55)).outcome == "fails"
    for points, outcome in ((ONE_SEED / 2 - 0.01, "holds"), (ONE_SEED / 2 + 0.01, "fails")):
        moved = [(seed, value + points / 100) for seed, value in enumerate(values)]
        assert verdict(*moved).outcome == outcome
    # A seed that the reference has not is compared with its mean.
    for natural, outcome in ((0.5, "holds"), (1.3, "fails")):  # no accuracy, but seeds lie far apart here
        some = verdict((3, 0.65), (7, natural))
        assert some.outcome == outcome
        assert "(trained again, 1 seed of the reference's). natural accuracy" in some.reason
        assert some.reason.endswith("(trained with other seeds, 1 against 4)")


def test_the_same_weights_are_held_to_their_figures_whatever_else_was_run(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    seeds = [recorded(record, seed, 0.5) for seed in (0, 1)]
    same = [with_results(seeded(run, seed, 0.5), weights_sha256=record.result.weights_sha256) for seed in (0, 1)]
    for moved, outcome in ((0.0, "holds"), (0.004, "fails")):
        up, down = (with_results(s, natural_accuracy=0.5 + sign * moved) for s, sign in zip(same, (1, -1), strict=True))
        found = verdict_on([up, down, seeded(run, 4, 0.5)], seeds)
        assert found.outcome == outcome
    assert "50.00%, reference 50.00 ± 0.05: seed 0 differs by 0.40 points" in found.reason
    assert "(the same weights, 2 seeds). natural accuracy 50.00%" in found.reason


@pytest.mark.parametrize(
    ("accuracy", "allowed"),
    [(0.5, ONE_SEED), (0.1, 0.6 * ONE_SEED), (0.9, 0.6 * ONE_SEED), (0.0, ONE_SEED_LEAST), (1.0, ONE_SEED_LEAST)],
)
def test_the_tolerance_falls_as_the_deviation_of_a_share(
    accuracy: float, allowed: float, tiny: Path, reference: Path
) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    inwards = 0.01 if accuracy < 0.7 else -0.01
    for points, outcome in ((allowed, "holds"), (allowed + 0.01, "fails")):
        moved = seeded(run, record.trial.seed, accuracy + points * inwards)
        assert verdict_on([moved], [recorded(record, record.trial.seed, accuracy)]).outcome == outcome


def test_other_seeds_may_lie_as_far_apart_as_seeds_do(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)

    def verdict(natural: float, *values: float) -> Verdict:
        return verdict_on([seeded(run, 9, natural)], [recorded(record, seed, v) for seed, v in enumerate(values)])

    values = (0.48, 0.49, 0.5, 0.51, 0.52)
    spread = SIGMAS * stdev(values) * (1 / 5 + 1) ** 0.5
    assert spread > ONE_SEED / 100
    assert verdict(0.5 + spread - 0.001, *values).outcome == "holds"
    assert verdict(0.5 + spread + 0.001, *values).outcome == "fails"
    assert verdict(0.5, *values).reason.endswith("(trained with other seeds, 1 against 5)")
    # Seeds that happen to be alike do not make the tolerance nothing.
    for count in (5, 2, 1):
        assert verdict(0.5 + (ONE_SEED - 0.1) / 100, *[0.5] * count).outcome == "holds"
        assert verdict(0.5 - (ONE_SEED + 0.1) / 100, *[0.5] * count).outcome == "fails"


def test_what_is_not_trained_for_has_a_wider_margin(tiny: Path, reference: Path) -> None:
    records = {record.trial.method: record for record in read_grid_reference(reference / "tiny")}
    margins = {}
    for method in ("natural", "soft"):
        half = halves(records[method])
        again = Run(replace(half.result, weights_sha256="other"), half.epochs)
        margins[method] = re.findall(r"± ([\d.]+)", verdict_on([again], [half]).reason)
    one, untrained = f"{ONE_SEED:.2f}", f"{ONE_SEED_UNTRAINED:.2f}"
    # Natural, adversarial, certified, and the share that soft training's certifier verified.
    assert margins == {"natural": [one, untrained, untrained], "soft": [one, one, untrained, untrained]}


def halves(record: Record) -> Record:
    """The record with one half for every figure."""
    images = record.result.train_images
    certified = tuple(replace(found, images=2, verified=1) for found in record.result.certified)
    result = replace(record.result, natural_accuracy=0.5, adversarial_accuracy=0.5, certified=certified)
    split = images // 2 if record.trial.method == "soft" else None
    epochs = [replace(epoch, verified=split) for epoch in record.epochs]
    return replace(record, result=replace(result, train_images=images // 2 * 2), epochs=tuple(epochs))


@pytest.mark.parametrize(
    ("weights", "allowed"), [("same", SAME_WEIGHTS_AUTOATTACK), ("other", 10 * ONE_SEED_AUTOATTACK)]
)
def test_autoattack_is_compared_on_its_images(weights: str, allowed: float, tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    there = replace(
        record, result=replace(record.result, autoattack=Autoattacked(images=1000, correct=500, seconds=1.0))
    )
    sha = record.result.weights_sha256 if weights == "same" else "other"
    for images, outcome in ((allowed, "holds"), (allowed + 1, "fails")):
        attacked = Autoattacked(images=1000, correct=500 - int(images), seconds=1.0)
        found = verdict_on([with_results(run, weights_sha256=sha, autoattack=attacked)], [there])
        assert found.outcome == outcome
    assert "accuracy of 1,000 under AutoAttack" in found.reason
    assert "not compared: accuracy under AutoAttack (no images, reference 1,000 images)" in (
        verdict_on([run], [there]).reason
    )


def test_the_gain_of_soft_training_is_compared(tiny: Path, reference: Path) -> None:
    records = [halves(record) for record in read_reference(reference, grid="tiny")]
    soft, adversarial = (
        Run(replace(record.result, weights_sha256="other"), record.epochs)
        for method in ("soft", "adversarial")
        for record in records
        if record.trial.method == method
    )

    def gain(points: float) -> Verdict:
        """The last verdict, once soft training gained so much more, and adversarial training lost it."""
        moved = [
            with_results(soft, natural_accuracy=soft.result.natural_accuracy + points / 200),
            with_results(adversarial, natural_accuracy=adversarial.result.natural_accuracy - points / 200),
        ]
        return agree(moved, records)[-1]

    assert gain(0.0).claim.id == "reference digits-tiny soft - adversarial"
    edge = ONE_SEED * 2**0.5
    assert gain(edge - 0.01).outcome == "holds"
    assert gain(edge + 0.01).outcome == "fails"
    assert re.search(r"natural accuracy [+-]?[\d.]+ points, reference [+-]?[\d.]+ ± 4.24", gain(0.0).reason)


def test_only_the_same_training_is_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    trial = run.result.trial
    changes = {"eps": 0.03, "steps": 3, "batch_size": 16, "update": "two-pass", "test_images": 31}
    for key, value in changes.items():
        found = verdict_on([with_results(run, trial=replace(trial, **{key: value}))], records)
        assert found.outcome == "not run"
        was = getattr(trial, key)
        assert found.reason == (f"the reference does not have digits-tiny soft ({key} {value} instead of {was})")
    other = with_results(run, trial=replace(trial, setting="digits-other"))
    assert agree([other], records) == []  # a grid of one's own: the reference has nothing of it
    beside = agree([run, other], records)[-1]
    assert (beside.outcome, beside.reason) == (
        "not run",
        "the reference does not have digits-other soft (none of that name)",
    )
    several = [replace(trial, setting=name, method=method) for name in "ab" for method in METHODS]
    all_lacking = verdict_on([with_results(run, trial=one) for one in [*several, replace(trial, eps=0.03)]], records)
    assert all_lacking.reason == (
        "the reference does not have a natural/adversarial/soft, b natural/adversarial/soft (none of that name); "
        f"digits-tiny soft (eps 0.03 instead of {trial.eps:g})"
    )
    assert agree([with_results(run, trial=replace(trial, dataset="mnist"))], records) == []
    for change in ({"seed": 4}, {"certifier": "gpupoly"}, {"autoattack_images": 10}, {"certified_images": 5}):
        assert verdict_on([with_results(run, trial=replace(trial, **change))], records).outcome == "holds"
    assert agree([run], []) == []
    assert training_difference(trial, replace(trial, eps=0.03, seed=3)) == "eps 0.03 instead of 0.02"


def test_what_was_certified_otherwise_is_said_not_to_be_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    fewer = tuple(replace(certified, images=5, verified=0) for certified in run.result.certified)
    for certified, images in ((fewer, "5"), ((), "no")):
        found = verdict_on([with_results(run, certified=certified, data_fingerprint="0" * 64)], records)
        lacking = f"certified accuracy by DeepPoly ({images} images, reference 32 images)"
        assert found.reason.endswith(f"; not compared: {lacking}), on other digits images")
