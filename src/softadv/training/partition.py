"""The partition of images into misclassified, unverified and verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from softadv._ranges import UNIT, Clip
from softadv.certify import Domain
from softadv.certify.certifiers import CertifierSession, Engine, certifier_for


@dataclass(frozen=True)
class Partition:
    """A split of N images into three parts; each is bool (N,), and every image is in exactly one.

    Section 4 of the paper: images that are misclassified, or classified correctly but unverified,
    are attacked; images that are verified are left as they are.
    """

    misclassified: Tensor
    unverified: Tensor
    verified: Tensor
    certifier: str = ""  # its name, version and soundness
    made_in: Tensor | None = None  # int32 (N,): the epoch, from 1, at whose start each verdict was made; in trainings

    @property
    def attacked(self) -> Tensor:
        """bool (N,): the images that soft training attacks."""
        return ~self.verified

    def renewed(self, images: Tensor, newer: Partition) -> Partition:
        """This split with newer verdicts for some images. images: int64 (K,), their indices in this split."""

        def put(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, images, new)

        assert self.made_in is not None
        assert newer.made_in is not None
        return Partition(
            misclassified=put(self.misclassified, newer.misclassified),
            unverified=put(self.unverified, newer.unverified),
            verified=put(self.verified, newer.verified),
            certifier=newer.certifier,
            made_in=put(self.made_in, newer.made_in),
        )


def partition(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    domain: Domain = "deeppoly",
    engine: Engine = "native",
    clip: Clip = UNIT,
    on_progress: Callable[[int], None] | None = None,
) -> Partition:
    """Split images by whether the model classifies them correctly, and provably so over their box.

    x: float (N, C, H, W), pixels within clip; y: int64 (N,); eps: L-infinity radius in the units of x.
    clip: the smallest and the largest pixel value.
    Misclassified images are not certified, since they cannot be verified. The model is used in eval mode and left in
    the mode it was in. Raises what certify raises.
    """
    with CertifierSession(certifier_for(engine, domain=domain)) as session:
        certificates, provenance = session.certify(
            model,
            x,
            y,
            eps=eps,
            domain=domain,
            clip=clip,
            margins=False,
            effort="exact",
            on_progress=on_progress,
        )
    return Partition(
        misclassified=~certificates.correct,
        unverified=certificates.correct & ~certificates.verified,
        verified=certificates.verified,
        certifier=str(provenance),
    )
