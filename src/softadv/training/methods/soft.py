"""Soft adversarial training, section 4 of the paper: images that are verified are not attacked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from softadv._ranges import MOST_EPOCHS, check_count, shown
from softadv.certify.certifiers import chosen_certifier
from softadv.certify.domains import DOMAINS, Certifier, Domain
from softadv.errors import SoftadvError
from softadv.training.methods.base import EpochStart, Method, register
from softadv.training.partition import Partition


@dataclass(frozen=True, kw_only=True)
class Certifying(Method):
    """A method that certifies the training set before an epoch.

    domain, certifier: what bounds the network, and who computes it, as softadv.partition takes them.
    split_every: epochs between two certifications of the training set.
    Raises SoftadvError for what is out of range, and for a certifier that does not compute the domain.
    """

    certifies = True
    domain: Domain = "deeppoly"
    certifier: Certifier = "native"
    split_every: int = 1

    def __post_init__(self) -> None:
        check_count(self.split_every, key="split_every", least=1, most=MOST_EPOCHS)
        if self.domain not in DOMAINS:
            raise SoftadvError(f"domain: unknown value {shown(self.domain)}, expected one of {', '.join(DOMAINS)}")
        chosen_certifier(self.certifier, domain=self.domain)

    def splits_before(self, nth: int) -> bool:
        return (nth - 1) % self.split_every == 0

    def split(self, epoch: EpochStart) -> Partition:
        """The split in force: made now where one is due, else the last one."""
        if epoch.last_split is None or self.splits_before(epoch.nth):
            return epoch.split(domain=self.domain, certifier=self.certifier)
        return epoch.last_split


@register("soft")
@dataclass(frozen=True, kw_only=True)
class Soft(Certifying):
    """Images that are misclassified or not verified are attacked; verified ones are trained as they are."""

    title, color = "Soft adversarial training", "#009E73"

    def attacked(self, epoch: EpochStart) -> Tensor:
        return self.split(epoch).attacked
