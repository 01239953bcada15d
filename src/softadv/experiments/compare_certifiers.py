"""Certify the same images by softadv, ERAN and GPUPoly: where they differ, and whether one is wrong.

Certifiers may differ, since each is sound and none is complete. But an image that one of them verified must never have
a counterexample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv._modes import in_eval_mode
from softadv.attacks import pgd
from softadv.certify import Certificates, Domain, certify
from softadv.certify.eran import ENGINES, Bridge, EngineName, EngineReport
from softadv.certify.rounding import box
from softadv.errors import SoftadvError

# The native domain that each engine computes as well, up to rounding.
COUNTERPARTS: dict[EngineName, Domain] = {
    "gpupoly": "deeppoly",
    "eran-deeppoly": "deeppoly",
    "eran-deepzono": "deepzono",
}

_ATTACK_STEPS = 50
_ATTACK_STARTS = 4


@dataclass(frozen=True)
class Disagreement:
    """An image that one verifies and the other does not. Margins are NaN where there is none."""

    index: int
    label: int
    native: bool
    native_margin: float
    engine: bool
    engine_margin: float


@dataclass(frozen=True, kw_only=True)
class EngineComparison:
    """An engine against softadv's own domain, on the images that the model classifies correctly."""

    domain: Domain
    report: EngineReport
    both: int
    native_only: int
    engine_only: int
    neither: int
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True)
class Counterexample:
    """A point of the box of an image that is classified as `predicted`; verified_by: who says there is none."""

    index: int
    label: int
    predicted: int
    verified_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EngineParity:
    """The result of the comparison. missing: engines that were not available, and why."""

    images: int
    misclassified: int
    comparisons: tuple[EngineComparison, ...]
    missing: dict[EngineName, str]
    counterexamples: tuple[Counterexample, ...]

    @property
    def passed(self) -> bool:
        """Whether no verdict was refuted."""
        return not self.counterexamples


def compare_engines(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    seconds_per_image: float = 60.0,
    on_progress: Callable[[str, int], None] | None = None,
) -> EngineParity:
    """Certify images by every available engine and by its native counterpart, and attack all verified images.

    model, x, y: as in Bridge.certify, pixels in [0, 1]. eps: radius, in the units of x.
    generator: source of the attacks' random starts, on the device of x.
    on_progress: called with a certifier's name and the number of images it has done.

    Raises SoftadvError where there is no engine at all, and what Bridge.certify raises.
    """

    def progress(who: str) -> Callable[[int], None]:
        return lambda done: None if on_progress is None else on_progress(who, done)

    asked, missing = {}, {}
    for engine in ENGINES:
        with Bridge(engine, seconds_per_image=seconds_per_image) as bridge:
            try:
                bridge.offer()
            except SoftadvError as error:
                missing[engine] = str(error)
                continue
            asked[engine] = bridge.certify(model, x, y, eps=eps, on_progress=progress(engine))
    if not asked:
        raise SoftadvError(f"no engine can be asked ({'; '.join(missing.values())})")
    domains = dict.fromkeys(COUNTERPARTS[engine] for engine in asked)
    native = {domain: certify(model, x, y, eps=eps, domain=domain, on_progress=progress(domain)) for domain in domains}
    verdicts: dict[str, Tensor] = {f"native {domain}": found.verified for domain, found in native.items()}
    verdicts |= {engine: report.verified for engine, (_, report) in asked.items()}
    return EngineParity(
        images=len(x),
        misclassified=len(x) - int(next(iter(native.values())).correct.sum()),
        comparisons=tuple(_compare(y, native, found, report) for found, report in asked.values()),
        missing=missing,
        counterexamples=_refute(model, x, y, verdicts, eps=eps, generator=generator),
    )


def parity_tables(found: EngineParity) -> list[tuple[str, dict[str, str]]]:
    """What there is to read: titles, each with named figures; the confusion table of an engine is one."""
    tables = [_table(comparison) for comparison in found.comparisons]
    rows = {
        "images": f"{found.images:,}, of which {found.misclassified:,} misclassified",
        **{f"{engine} was not asked": why for engine, why in found.missing.items()},
        "counterexamples to a verdict": f"{len(found.counterexamples):,}",
    }
    for case in found.counterexamples:
        rows[f"image {case.index}, label {case.label}"] = (
            f"a point of its box is classified as {case.predicted}; verified by {', '.join(case.verified_by)}"
        )
    return [*tables, ("All together", rows)]


def _table(comparison: EngineComparison) -> tuple[str, dict[str, str]]:
    report, counts = comparison.report, comparison
    rows = {
        "verified by both": f"{counts.both:,}",
        "by softadv alone": f"{counts.native_only:,}",
        f"by {report.engine} alone": f"{counts.engine_only:,}",
        "by neither": f"{counts.neither:,}",
        f"{report.engine} out of time, failed": f"{report.timeouts:,}, {report.failed:,}",
        "seconds an image": f"{float(report.seconds.sum()) / max(1, int((report.seconds > 0).sum())):.3g}",
    }
    for case in comparison.disagreements:
        rows[f"image {case.index}, label {case.label}"] = (
            f"softadv {_says(case.native, case.native_margin)}; "
            f"{report.engine} {_says(case.engine, case.engine_margin)}"
        )
    title = f"{report.engine} ({report.version}; {report.soundness}) against softadv's {comparison.domain}"
    return title, rows


def _says(verified: bool, margin: float) -> str:
    said = "verified" if verified else "unverified"
    return said if math.isnan(margin) else f"{said}, margin {margin:.3g}"


def _compare(
    y: Tensor, native: dict[Domain, Certificates], found: Certificates, report: EngineReport
) -> EngineComparison:
    domain = COUNTERPARTS[report.engine]
    ours, theirs = native[domain].verified, found.verified
    return EngineComparison(
        domain=domain,
        report=report,
        both=int((ours & theirs).sum()),
        native_only=int((ours & ~theirs).sum()),
        engine_only=int((~ours & theirs).sum()),
        neither=int((found.correct & ~ours & ~theirs).sum()),
        disagreements=tuple(
            Disagreement(
                index=i,
                label=int(y[i]),
                native=bool(ours[i]),
                native_margin=float(native[domain].margin[i]),
                engine=bool(theirs[i]),
                engine_margin=float(found.margin[i]),
            )
            for i in (ours != theirs).nonzero().flatten().tolist()
        ),
    )


@in_eval_mode
def _refute(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    verdicts: dict[str, Tensor],
    *,
    eps: float,
    generator: torch.Generator,
) -> tuple[Counterexample, ...]:
    """Attack the images that anyone verified, from several random points."""
    lower, upper = box(x, eps=eps, clip=(0.0, 1.0), dtype=torch.float32, sound=True)
    open_cases = torch.stack(list(verdicts.values())).any(0)
    found = []
    for _ in range(_ATTACK_STARTS):
        at = open_cases.nonzero().flatten()
        if not len(at):
            break
        points = pgd(
            model, x[at], y[at], eps=eps, alpha=2.5 * eps / _ATTACK_STEPS, steps=_ATTACK_STEPS, generator=generator
        )
        # PGD may round its ball differently; the certified set is this box.
        with torch.no_grad():
            predicted = model(torch.clamp(points, lower[at], upper[at])).argmax(1)
        for i, wrong in zip(at.tolist(), predicted.tolist(), strict=True):
            if wrong != int(y[i]):
                by = tuple(name for name, verified in verdicts.items() if verified[i])
                found.append(Counterexample(i, int(y[i]), wrong, by))
                open_cases[i] = False
    return tuple(sorted(found, key=lambda case: case.index))
