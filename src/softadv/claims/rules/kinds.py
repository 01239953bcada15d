"""The rules by name, and the rules that do not compare trainings: neuron counts and exported models.

Every rule answers holds, fails or inconclusive, with the figures that say so. Differences between accuracies are in
percentage points; accuracies in the files are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

from softadv.claims.decision import Decision, Rule, binary
from softadv.claims.rules.domains import DomainOrder, DomainSeconds, DomainTotals
from softadv.claims.rules.matched import Matched
from softadv.claims.rules.methods import Comparable, Gain, SettingsAlike
from softadv.claims.rules.radii import (
    AdversarialFalls,
    GapFalls,
    NothingVerified,
    VerifiedAtLeast,
    VerifiedAtMost,
    VerifiedFalls,
)
from softadv.claims.selection import Evidence
from softadv.experiments.runs import NotRun
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons


@dataclass(frozen=True, kw_only=True)
class NeuronCount:
    """The networks have this many neurons, layer outputs counted."""

    mnist: int
    cifar10: int

    def decide(self, evidence: Evidence) -> Decision:
        found = {name: count_neurons(conv_small(name, seed=0), IMAGE_SHAPES[name]) for name in ("mnist", "cifar10")}
        holds = (found["mnist"], found["cifar10"]) == (self.mnist, self.cifar10)
        return binary(holds, f"MNIST {found['mnist']:,} and CIFAR-10 {found['cifar10']:,} neurons")


@dataclass(frozen=True, kw_only=True)
class ExportParity:
    """The exported ONNX model gives the same classes, and outputs within `tolerance`, in onnxruntime."""

    setting: str
    tolerance: float

    def decide(self, evidence: Evidence) -> Decision:
        parities = [run.result.parity for run in evidence.of_any_method(self.setting) if run.result.parity is not None]
        if not parities:
            raise NotRun(f"no model of {self.setting} was exported")
        largest = max(parity.largest_difference for parity in parities)
        holds = largest <= self.tolerance and all(parity.classes_equal for parity in parities)
        return binary(holds, f"largest difference {largest:.1e} over {len(parities)} models")


RULES: dict[str, type[Rule]] = {
    "neuron-count": NeuronCount,
    "gain": Gain,
    "comparable": Comparable,
    "settings-alike": SettingsAlike,
    "matched": Matched,
    "verified-falls": VerifiedFalls,
    "verified-at-least": VerifiedAtLeast,
    "verified-at-most": VerifiedAtMost,
    "nothing-verified": NothingVerified,
    "gap-falls": GapFalls,
    "adversarial-falls": AdversarialFalls,
    "domain-order": DomainOrder,
    "domain-seconds": DomainSeconds,
    "domain-totals": DomainTotals,
    "export-parity": ExportParity,
}
