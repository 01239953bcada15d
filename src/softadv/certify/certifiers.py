"""The choice of a certifier: softadv's own, GPUPoly or ERAN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from softadv._ranges import UNIT, Clip, check_radius
from softadv._versions import package_version
from softadv.certify import Certificates, Domain, Effort, Rounding
from softadv.certify import certify as certify_natively
from softadv.certify.boxes import Radius
from softadv.certify.domains import CERTIFIER_DOMAINS, CERTIFIERS, Certifier
from softadv.errors import SoftadvError

if TYPE_CHECKING:
    from softadv.certify.eran import Bridge, EngineReport

Engine = Certifier | Literal["eran"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which certifier gave the verdicts, and what they hold for.

    soundness: the arithmetic that they hold for. timeouts, failed: how many images are unverified for that reason.
    """

    certifier: Certifier
    version: str
    soundness: str
    timeouts: int = 0
    failed: int = 0

    def __str__(self) -> str:
        lost = f", {self.timeouts} out of time, {self.failed} failed" if self.timeouts or self.failed else ""
        return f"{self.certifier} {self.version} ({self.soundness}){lost}"


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Radius | None = None,
    domain: Domain = "deeppoly",
    rounding: Rounding = "sound",
    engine: Engine = "native",
    clip: Clip = UNIT,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    margins: bool = True,
    effort: Effort = "least",
    memory_budget: int | None = None,
    seconds_per_image: float = 60.0,
    on_progress: Callable[[int], None] | None = None,
) -> Certificates:
    """Certify that a model classifies every point of an L-infinity ball as the image's label.

    engine: "native" is softadv's own certifier; softadv.certify.api.certify documents its arguments. "gpupoly", and
    "eran" for the domains deeppoly and deepzono, run in the container or wherever SOFTADV_ERAN names a worker. They
    give no margins (NaN), ignore effort, take one radius for all pixels, and certify only models that softadv can
    export.
    seconds_per_image: for gpupoly and eran. An image that takes longer counts as unverified. Time during which the
    engine waits for a processor does not count.
    memory_budget: bytes; for gpupoly and eran, the resident size at which the engine's process is restarted between
    two images. Raises SoftadvError where an engine is not available.
    """
    with CertifierSession(certifier_for(engine, domain=domain), seconds_per_image=seconds_per_image) as session:
        return session.certify(
            model, x, y, eps=eps, domain=domain, rounding=rounding, clip=clip, lower=lower, upper=upper,
            margins=margins, effort=effort, memory_budget=memory_budget, on_progress=on_progress,
        )[0]  # fmt: skip


def certifier_for(engine: Engine, *, domain: Domain) -> Certifier:
    """The certifier for an engine's name and a domain. Raises SoftadvError where the engine lacks that domain."""
    name = f"eran-{domain}" if engine == "eran" else engine
    if name not in CERTIFIERS:
        known = ", ".join(dict.fromkeys((*CERTIFIERS, "eran")))
        raise SoftadvError(f"engine: there is no {name!r}, known are {known}")
    certifier: Certifier = name
    computes = CERTIFIER_DOMAINS[certifier]
    if domain not in computes:
        raise SoftadvError(f"domain: {certifier} computes {', '.join(computes)}, not {domain}")
    return certifier


class CertifierSession:
    """A certifier for many calls: an engine is started once. A context manager; leaving it stops the engine."""

    def __init__(self, certifier: Certifier, *, seconds_per_image: float = 60.0) -> None:
        """Raises SoftadvError where the certifier is not available on this machine."""
        self._certifier = certifier
        self._bridge: Bridge | None = None
        if certifier != "native":
            from softadv.certify.eran import Bridge  # noqa: PLC0415 (brings onnx, which softadv's own does without)

            self._bridge = Bridge(certifier, seconds_per_image=seconds_per_image)

    def __enter__(self) -> CertifierSession:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bridge is not None:
            self._bridge.close()

    @property
    def native(self) -> bool:
        """Whether this is softadv's own certifier."""
        return self._bridge is None

    def provenance(self, *, rounding: Rounding) -> Provenance:
        """The certifier's name, version and soundness. Raises SoftadvError where an engine does not answer."""
        if self._bridge is None:
            return _native(rounding)
        offer = self._bridge.offer()
        soundness = offer.soundness.get(rounding, "unknown")
        return Provenance(certifier=self._certifier, version=offer.version, soundness=soundness)

    def certify(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: Radius | None,
        domain: Domain,
        rounding: Rounding = "sound",
        clip: Clip = UNIT,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        margins: bool = True,
        effort: Effort = "least",
        memory_budget: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Certificates, Provenance]:
        """The certificates of softadv.certify, and which certifier gave them. An engine has only one domain."""
        if self._bridge is None:
            found = certify_natively(
                model, x, y, eps=eps, domain=domain, rounding=rounding, clip=clip, lower=lower, upper=upper,
                margins=margins, effort=effort, memory_budget=memory_budget, on_progress=on_progress,
            )  # fmt: skip
            return found, _native(rounding)
        if lower is not None or upper is not None or x.ndim != 4:
            raise SoftadvError(
                f"engine: {self._certifier} takes images (N, C, H, W) and one radius; native takes any box"
            )
        radius = check_radius(eps, clip=clip)
        found, report = self._bridge.certify(
            model, x, y, eps=radius, clip=clip, rounding=rounding, memory_limit=memory_budget, on_progress=on_progress
        )  # fmt: skip
        return found, _of_engine(report)


def check_certifier(certifier: Certifier) -> None:
    """Raise SoftadvError where a certifier is not available on this machine."""
    with CertifierSession(certifier) as session:
        session.provenance(rounding="sound")


def _native(rounding: Rounding) -> Provenance:
    soundness = "any summation order" if rounding == "sound" else "rounding not bounded"
    return Provenance(certifier="native", version=package_version("softadv"), soundness=soundness)


def _of_engine(report: EngineReport) -> Provenance:
    return Provenance(
        certifier=report.engine, version=report.version, soundness=report.soundness, timeouts=report.timeouts,
        failed=report.failed,
    )  # fmt: skip
