"""Soft adversarial training, section 4 of the paper: verified images are not attacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import Tensor

from softadv._ranges import MOST_EPOCHS, check_count, check_real, shown
from softadv.certify.certifiers import certifier_for
from softadv.certify.domains import DOMAINS, Certifier, Domain
from softadv.errors import SoftadvError
from softadv.training.methods.base import EpochStart, Method, register
from softadv.training.partition import Partition

SplitName = Literal["full", "rolling"]


class SplitSettings(Protocol):
    """The settings of a split that a method and a trial's spec share."""

    @property
    def split_every(self) -> int: ...
    @property
    def split(self) -> SplitName: ...
    @property
    def split_share(self) -> float: ...


def check_split(settings: SplitSettings) -> None:
    """Raise SoftadvError for settings of a split that are out of range, or do not fit together."""
    check_count(settings.split_every, key="split_every", least=1, most=MOST_EPOCHS)
    check_real(settings.split_share, key="split_share")
    if settings.split not in get_args(SplitName):
        raise SoftadvError(f"split: unknown value {shown(settings.split)}, expected one of full, rolling")
    if not 0 < settings.split_share <= 1:
        raise SoftadvError(f"split_share: must be more than 0 and at most 1, got {settings.split_share:g}")
    if settings.split == "rolling" and settings.split_every != 1:
        raise SoftadvError("split_every: a rolling split certifies some images before every epoch")


@dataclass(frozen=True, kw_only=True)
class Certifying(Method):
    """A method that certifies the training set before an epoch.

    domain: the abstract domain. certifier: "native", "gpupoly" or "eran".
    split_every: certify before every n-th epoch; the epochs in between reuse the last split.
    split: "rolling" certifies all training images before the first epoch, and before each later one only a fraction
    split_share of them, those with the oldest verdicts; the others keep their verdicts.
    Raises SoftadvError for values out of range, and for a certifier that does not compute the domain.
    """

    certifies = True
    domain: Domain = "deeppoly"
    certifier: Certifier = "native"
    split_every: int = 1
    split: SplitName = "full"
    split_share: float = 0.1

    def __post_init__(self) -> None:
        check_split(self)
        object.__setattr__(self, "split_every", int(self.split_every))
        object.__setattr__(self, "split_share", float(self.split_share))
        if self.domain not in DOMAINS:
            raise SoftadvError(f"domain: unknown value {shown(self.domain)}, expected one of {', '.join(DOMAINS)}")
        certifier_for(self.certifier, domain=self.domain)

    def splits_before(self, nth: int) -> bool:
        return (nth - 1) % self.split_every == 0

    def certified_share(self, nth: int) -> float:
        if self.split == "rolling" and nth > 1:
            return self.split_share
        return float(self.splits_before(nth))

    def split_of(self, epoch: EpochStart) -> Partition:
        """The split for this epoch: certified now, wholly or in part, where that is due; else the last one."""
        if epoch.last_split is None or self.splits_before(epoch.nth):
            share = self.certified_share(epoch.nth)
            return epoch.split(domain=self.domain, certifier=self.certifier, share=share or 1.0)
        return epoch.last_split


@register("soft")
@dataclass(frozen=True, kw_only=True)
class Soft(Certifying):
    """Misclassified and unverified images are attacked; verified ones are trained clean."""

    title, color = "Soft adversarial training", "#009E73"

    def attacked(self, epoch: EpochStart) -> Tensor:
        return self.split_of(epoch).attacked
