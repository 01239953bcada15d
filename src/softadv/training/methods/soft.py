"""Soft adversarial training, section 4 of the paper: images that are verified are not attacked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from softadv.certify.domains import Certifier, Domain
from softadv.training.methods.base import EpochStart, Method, register
from softadv.training.partition import Partition


@dataclass(frozen=True, kw_only=True)
class Certifying(Method):
    """A method that certifies the training set before an epoch.

    domain, certifier: what bounds the network, and who computes it, as softadv.partition takes them.
    split_every: epochs between two certifications of the training set.
    """

    certifies = True
    domain: Domain = "deeppoly"
    certifier: Certifier = "native"
    split_every: int = 1

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
