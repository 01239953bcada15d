"""Runs against the reference: for each setting and method that both have, whether the accuracies agree.

Trials are compared where their specs are the same but for the seed, the certifier and how much is measured at the
end; of others nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from softadv.claims import Claim, Outcome, Verdict
from softadv.evidence import Run
from softadv.reference import Record, training_of
from softadv.runs import Certified, Result
from softadv.series import DOMAIN_TITLES
from softadv.spec import Trial

# The tolerances, in percentage points; the README's table of assumptions lists them.
#
# The same weights: another processor adds in another order, which may turn an image at the border of two classes.
# Measured on MNIST's 10,000 test images: another kernel of the attack turned none; 0.05 points are 5 images.
SAME_WEIGHTS = 0.05
# A GPU draws other random starts of PGD than a CPU from the same seed. Measured with the weights of seed 0 of
# mnist-eps0.1: nine starts lie within 0.11 points after adversarial and within 0.54 points after natural training.
OTHER_START = 1.0
# The same weights, but a domain's sums rounded otherwise, or by another certifier: images of 1,000.
SAME_WEIGHTS_VERIFIED = 2
# The same weights on images of which some were decoded otherwise, in points of any accuracy. An assumption.
OTHER_IMAGES = 1.0
# Trained again, and the reference has several seeds: standard errors of the difference of the two means.
SIGMAS = 5.0
# A deviation may be small by chance: no tolerance is less, about half an effect that the paper speaks of.
RESOLUTION = 1.0
# Of fewer seeds the deviation itself says little (two are by chance so alike one time in eight that 5 standard
# errors are exceeded), so that no tolerance is less than one seed's.
ENOUGH_SEEDS = 5
# Trained again, and the reference has one seed: no spread is known. Assumptions: what a method trains for spreads
# little, natural accuracy and, after attacks, adversarial accuracy; adversarial accuracy after natural training
# moved by 2 points from one late epoch to the next on MNIST, and certified accuracy by 5 points from seed to seed on
# the digits.
ONE_SEED = 3.0
ONE_SEED_UNTRAINED = 10.0

_CPU = " cores"  # ends the device of a result that was computed on a processor


@dataclass(frozen=True)
class _Comparison:
    """One figure of the runs against the reference's. here, there, tolerance: in per cent and points.

    largest: the largest difference that must be within the tolerance, of the means or of any seed.
    """

    name: str
    here: float
    there: float
    tolerance: float
    largest: float

    @property
    def agrees(self) -> bool:
        # Accuracies are quotients of whole numbers: what equals the tolerance on paper must not miss it by rounding.
        return self.largest <= self.tolerance + 1e-9

    def __str__(self) -> str:
        text = f"{self.name} {self.here:.2f}%, reference {self.there:.2f} ± {self.tolerance:.2f}"
        return text if self.agrees else f"{text}: differs by {self.largest:.2f} points"


def agree(runs: Sequence[Run], records: Sequence[Record]) -> list[Verdict]:
    """A verdict for each setting and method that runs and reference both have, in the order of the runs."""
    groups: dict[Trial, list[Run]] = {}
    for run in runs:
        groups.setdefault(training_of(run.result.trial), []).append(run)
    verdicts = []
    for training, here in groups.items():
        there = [record for record in records if training_of(record.trial) == training]
        if there:
            verdicts.append(_verdict(here, there))
    return verdicts


def _verdict(runs: Sequence[Run], records: Sequence[Record]) -> Verdict:
    trial = runs[0].result.trial
    by_seed = {record.trial.seed: record for record in records}
    pairs = [(run, by_seed[run.result.trial.seed]) for run in runs if run.result.trial.seed in by_seed]
    same = all(run.result.weights_sha256 == record.result.weights_sha256 for run, record in pairs)
    if same and len(pairs) == len(runs):
        found, how = _same_weights(pairs), "the same weights"
    else:
        found, how = _trained_again(runs, records), f"trained again: {_seeds(len(runs))} against {len(records)}"
    results = [run.result for run in runs] + [record.result for record in records]
    if len({result.data_fingerprint for result in results}) > 1:
        how += f", on other {trial.dataset} images"
    if any(result.certified for result in results) and not _certified(runs, records):
        how += ", certified on different numbers of images: not compared"
    claim = Claim(
        id=f"reference {trial.setting} {trial.method}",
        title=f"{trial.setting}, {trial.method} training: the accuracies of the reference",
        source=f"measured, reference/{records[0].path.parent.name}",
    )
    outcome: Outcome = "holds" if all(comparison.agrees for comparison in found) else "fails"
    return Verdict(claim=claim, outcome=outcome, reason=f"{'; '.join(str(c) for c in found)} ({how})")


def _same_weights(pairs: Sequence[tuple[Run, Record]]) -> list[_Comparison]:
    """Seed by seed, since each must give its own figures again."""
    least = OTHER_IMAGES if any(_other_images(run, record) for run, record in pairs) else 0.0
    start = max(SAME_WEIGHTS if _same_starts(run, record) else OTHER_START for run, record in pairs)
    found = []
    for name, key, tolerance in (
        ("natural accuracy", "natural_accuracy", max(SAME_WEIGHTS, least)),
        ("adversarial accuracy", "adversarial_accuracy", max(start, least)),
    ):
        here = [100 * float(getattr(run.result, key)) for run, _ in pairs]
        there = [100 * float(getattr(record.result, key)) for _, record in pairs]
        found.append(_seed_by_seed(name, here, there, tolerance=tolerance))
    for domain, mine, theirs in _certified([run for run, _ in pairs], [record for _, record in pairs]):
        images = mine[0].images
        allowed = max(100 * math.ceil(SAME_WEIGHTS_VERIFIED * images / 1000) / images, least)
        here, there = [100 * c.accuracy for c in mine], [100 * c.accuracy for c in theirs]
        found.append(_seed_by_seed(_certified_name(domain, images), here, there, tolerance=allowed))
    return found


def _trained_again(runs: Sequence[Run], records: Sequence[Record]) -> list[_Comparison]:
    """Means over whichever seeds there are."""
    found = []
    for name, key in (("natural accuracy", "natural_accuracy"), ("adversarial accuracy", "adversarial_accuracy")):
        here = [100 * float(getattr(run.result, key)) for run in runs]
        there = [100 * float(getattr(record.result, key)) for record in records]
        trained_for = key == "natural_accuracy" or records[0].trial.method != "natural"
        found.append(_means(name, here, there, margin=ONE_SEED if trained_for else ONE_SEED_UNTRAINED))
    for domain, mine, theirs in _certified(runs, records):
        here, there = [100 * c.accuracy for c in mine], [100 * c.accuracy for c in theirs]
        found.append(_means(_certified_name(domain, mine[0].images), here, there, margin=ONE_SEED_UNTRAINED))
    return found


def _seed_by_seed(name: str, here: Sequence[float], there: Sequence[float], *, tolerance: float) -> _Comparison:
    largest = max(abs(a - b) for a, b in zip(here, there, strict=True))
    return _Comparison(name, fmean(here), fmean(there), tolerance, largest)


def _means(name: str, here: Sequence[float], there: Sequence[float], *, margin: float) -> _Comparison:
    """margin: the tolerance for a reference of one seed."""
    tolerance = margin
    if len(there) > 1:
        least = RESOLUTION if len(there) >= ENOUGH_SEEDS else margin
        tolerance = max(SIGMAS * stdev(there) * (1 / len(there) + 1 / len(here)) ** 0.5, least)
    return _Comparison(name, fmean(here), fmean(there), tolerance, abs(fmean(here) - fmean(there)))


def _certified(runs: Sequence[Run], records: Sequence[Record]) -> list[tuple[str, list[Certified], list[Certified]]]:
    """The domains by which all were certified, on equally many of the test images."""
    found = []
    for first in records[0].result.certified:
        mine = _all_by(first.domain, [run.result for run in runs])
        theirs = _all_by(first.domain, [record.result for record in records])
        if mine and theirs and len({c.images for c in (*mine, *theirs)}) == 1:
            found.append((first.domain, mine, theirs))
    return found


def _all_by(domain: str, results: Sequence[Result]) -> list[Certified]:
    """Each result's certification by a domain; none where any lacks it."""
    found = [certified for result in results if (certified := result.certified_by(domain)) is not None]
    return found if len(found) == len(results) else []


def _same_starts(run: Run, record: Record) -> bool:
    """Whether both drew the same random starts of the attack, which a GPU draws otherwise than a processor."""
    devices = [result.environment.get("device", "") for result in (run.result, record.result)]
    return devices[0] == devices[1] or all(device.endswith(_CPU) for device in devices)


def _other_images(run: Run, record: Record) -> bool:
    return run.result.data_fingerprint != record.result.data_fingerprint


def _certified_name(domain: str, images: int) -> str:
    return f"certified accuracy of {images:,} by {DOMAIN_TITLES.get(domain, domain)}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"
