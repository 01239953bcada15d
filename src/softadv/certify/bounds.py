"""Box, DeepZono and DeepPoly: one pass forwards through the network, with bounds for each activation.

Box carries intervals. DeepZono and DeepPoly refine them at every activation that feeds a ReLU or a max pooling: its
bounds come from substituting linear forms back to the input box, and from these bounds come the lines that bound the
ReLU (operators/relu.py). Back-substitution itself is compiled (backsub_cpp.py) or in PyTorch (backsub_torch.py).

Only neurons that the intervals leave unstable are refined. This changes no verdict: an interval that
starts from the ReLU's lower and upper lines is what back-substitution gives if it stops one layer
back, and continuing is never worse. Proof: a form c becomes c+ times the lower line plus c- times the
upper line. This is concave and positively homogeneous in c, hence superadditive. So the bound of a
sum of forms is at least the sum of the bounds of its terms, which is the interval.
A stable neuron's lines do not depend on its bounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from softadv.certify.domains import Domain
from softadv.certify.early_proof import last_hidden, prove
from softadv.certify.graph import FinalActivation, Network, Node
from softadv.certify.linear_forms import LinearForms, Patches
from softadv.certify.merging import terms
from softadv.certify.operators import Activation, Affine, Conv, Copy, Dense, Flatten, Gather, MaxPool, Scale, Step
from softadv.certify.operators.base import Interval, largest_magnitude
from softadv.certify.operators.lines import Lines
from softadv.certify.operators.relu import Relu, unstable
from softadv.certify.rounding import Arithmetic, Errors, outwards, overflow_limit
from softadv.errors import SoftadvError

# Bounds, lines and errors, with the temporary tensors of their computation.
FLOATS_PER_NEURON = 32

# The neurons whose lower bounds, and those whose upper bounds, are to be refined: bool (N, C, H, W) each.
Sides = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Relaxed:
    """What back-substitution needs to know of a network on a batch of boxes; grows with the pass.

    center, radius: (N, C, H, W). center +- radius contains the box, and is hardly larger.
    lines: of each ReLU and max pooling, by the number of its activation. errors: (N, C, H, W), of each linear step
    that rounds, by the number of its activation. sound: whether rounding is bounded. memo: a cache of converted
    tensors, by the id of the original, which the cache keeps alive.
    """

    network: Network
    center: Tensor
    radius: Tensor
    sound: bool
    lines: dict[int, Lines] = field(default_factory=dict)
    errors: dict[int, Tensor] = field(default_factory=dict)
    memo: dict[int, tuple[object, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def sums(self) -> torch.dtype:
        """The dtype that constants are summed in: float64 where rounding is bounded, to keep that bound small."""
        return torch.float64 if self.sound else self.center.dtype


class BackSubstitution(ABC):
    """Substitutes linear forms back to the input box. sparing: whether fewer requested bounds take less time."""

    sparing: ClassVar[bool]

    @staticmethod
    @abstractmethod
    def arithmetic(network: Network, dtype: torch.dtype) -> Arithmetic:
        """How rounding errors accumulate in its sums."""

    @staticmethod
    @abstractmethod
    def floats_per_image(network: Network) -> int:
        """What one image needs beyond FLOATS_PER_NEURON at the peak, in floating-point numbers."""

    @staticmethod
    def linear(
        step: Conv | Dense, known: Interval, *, rectified: bool, rounding: Arithmetic | None
    ) -> tuple[Interval, Tensor | None] | None:
        """The interval of a layer's outputs with its rounding errors, and what forms pay for each, all (N, C, H, W).

        known: of its inputs; rectified: whether behind a ReLU. None: the operator's formulas are to be used.
        """
        return None

    @staticmethod
    @abstractmethod
    def bounds(relaxed: Relaxed, activation: int, asked: Sides, known: Interval) -> Interval:
        """Bounds of an activation's neurons, (N, C, H, W); bounds that are not asked for stay as known."""

    @staticmethod
    @abstractmethod
    def minimum(relaxed: Relaxed, forms: Tensor, asked: Tensor) -> Tensor:
        """Lower bounds (N, R) of forms (N, R, K) over the network's K outputs; asked: bool (N, R), else -inf."""


def lower_bounds(
    network: Network,
    box: Interval,
    objective: Tensor,
    *,
    domain: Domain,
    rounding: Arithmetic | None,
    backsub: type[BackSubstitution],
    scores: Tensor,
    stop_above: float | None = None,
) -> Tensor:
    """Lower bounds of linear functions of the network's outputs over boxes.

    box: lower and upper bounds, (N, C, H, W). objective: (N, R, K), R functions of the K outputs.
    rounding: None leaves rounding errors unbounded. scores: (N, K), what the model itself returns for a
    point of each box. stop_above: return any bound above this as soon as there is one (early_proof.py); the functions
    must then be differences of two outputs, or zero. Returns (N, R); NaN for a box where anything overflows, since
    nothing is proven there.
    Raises SoftadvError where the scores lie outside of sound bounds: the model then computes something other than
    the network that was read.
    """
    analysis = Analysis(network, box, domain, rounding, backsub)
    hidden = last_hidden(network) if stop_above is not None and backsub.sparing and domain != "box" else None
    for at, node in enumerate(network.nodes[: None if hidden is None else hidden - 1], 1):
        analysis.pass_through(at, node)
    if hidden is not None and stop_above is not None:
        least = prove(analysis, hidden, objective, above=stop_above)
    elif domain == "box":
        least = analysis.box_minimum(objective)
    else:
        least = analysis.minimum(objective, torch.ones_like(objective[:, :, 0], dtype=torch.bool))
    if rounding is not None:
        analysis.finite &= analysis.largest < overflow_limit(rounding.dtype)
        lower, upper = (bound.flatten(1) for bound in analysis.bounds[-1])
        outside = _outside(scores, lower, upper, network.ending) & analysis.finite
        if outside.any():
            raise SoftadvError("model: computes something else than torch.fx reads of it, so nothing can be proven")
    return least.masked_fill(~analysis.finite[:, None], torch.nan)


class Analysis:
    """One pass through a network. bounds: of each activation so far, the box first."""

    def __init__(
        self, network: Network, box: Interval, domain: Domain, rounding: Arithmetic | None,
        backsub: type[BackSubstitution],
    ) -> None:  # fmt: skip
        self.network, self.rounding, self.backsub = network, rounding, backsub
        self.relaxes, self.parallel = domain != "box", domain == "deepzono"
        self.bounds = [box]
        self.relaxed = Relaxed(network, *_centered(box, rounding), sound=rounding is not None)
        self.finite = torch.ones(len(box[0]), dtype=torch.bool, device=box[0].device)
        self.largest = largest_magnitude(*box).flatten(1).amax(1)
        self._exact = {0}  # activations whose bounds back-substitution cannot improve, or need not

    def pass_through(self, at: int, node: Node) -> None:
        """Compute the bounds of activation `at`, the output of a node."""
        match node.step:
            case Relu() | MaxPool() | Activation() if self.relaxes:
                self.bounds.append(self._relax(at, node, node.step))
            case Activation() as step:
                self.bounds.append(self._activated(step, *self.bounds[node.inputs[0]]))
            case step:
                self.bounds.append(self._linear(at, node, step))
                if self._is_exact(node):
                    self._exact.add(at)
        self._note(*self.bounds[at])

    def minimum(self, objective: Tensor, asked: Tensor) -> Tensor:
        """Lower bounds (N, R) of the objective by back-substitution; asked: bool (N, R), else -inf."""
        least = self.backsub.minimum(self.relaxed, objective, asked)
        return least if self.rounding is None else least - self.rounding.flat(self.largest)[:, None]

    def finish(self, hidden: int) -> None:
        """Compute the bounds from a ReLU to the end of the network, and replace earlier ones."""
        del self.bounds[hidden:]
        self._exact.update(self.network.nodes[hidden - 1].inputs)
        for at, node in enumerate(self.network.nodes[hidden - 1 :], hidden):
            self.pass_through(at, node)

    def box_minimum(self, objective: Tensor) -> Tensor:
        """Lower bounds of the objective by intervals alone.

        The objective is merged into the last linear layer, so that o_y - o_j is bounded as one neuron
        and not as the difference of two intervals (Gowal et al., On the Effectiveness of Interval Bound
        Propagation, 2018, section 3).
        """
        forms, at = forms_over_outputs(objective, sums=self.relaxed.sums), len(self.network.nodes)
        last = self.network.nodes[-1] if at else None
        if last is not None and isinstance(last.step, Dense):
            forms = last.step.backward(forms.plus(last.step.bias, self.relaxed.errors.get(at)))
            (at,) = last.inputs
        least = forms.minimum(*_centered(self.bounds[at], self.rounding)).squeeze(1)
        return least if self.rounding is None else least - self.rounding.flat(self.largest)[:, None]

    def _linear(self, at: int, node: Node, step: Affine | Relu | MaxPool) -> Interval:
        """The interval of a linear step's outputs, and what a form pays for them."""
        if isinstance(step, Conv | Dense):
            (entering,) = node.inputs
            found = self.backsub.linear(
                step, self.bounds[entering], rectified=self._follows_relu(entering), rounding=self.rounding
            )
            if found is not None:
                interval, of_forms = found
                if of_forms is not None:
                    self.relaxed.errors[at] = of_forms
                return interval
        lower, upper = step.interval(*(bound for i in node.inputs for bound in self.bounds[i]))
        errors = None if self.rounding is None else self._errors(at, step, self.rounding)
        if errors is None:
            return lower, upper
        self.relaxed.errors[at] = errors.of_forms
        return lower - errors.of_bounds, upper + errors.of_bounds

    def _relax(self, at: int, node: Node, step: Relu | MaxPool | Activation) -> Interval:
        """The lines of a ReLU, an activation or max pooling, and the bounds that follow from them."""
        (entering,) = node.inputs
        if isinstance(step, Relu):
            lower, upper = self._refined(entering, unstable)
            lines = step.lines(lower, upper, self.rounding, parallel=self.parallel)
            least = lines.lower_slope * lower
            bounds = (least if lines.lower_offset is None else least + lines.lower_offset), upper.clamp(min=0)
        elif isinstance(step, Activation):
            lower, upper = self._refined(entering, step.undecided)
            lines = step.lines(lower, upper, self.rounding, parallel=self.parallel)
            bounds = self._activated(step, lower, upper)
        else:
            if self.parallel and not step.zonotope:
                raise SoftadvError(f"{node.name}: only the domains box and deeppoly read max pooling")
            lower, upper = self._refined(entering, _everything)
            lines = step.lines(lower, upper, self.rounding)
            bounds = step.interval(lower, upper)
        self.relaxed.lines[at] = lines
        return bounds

    def _activated(self, step: Activation, lower: Tensor, upper: Tensor) -> Interval:
        """Bounds of the evaluated values of an activation."""
        least, most = step.interval(lower, upper)
        if self.rounding is None:
            return least, most
        error = step.evaluation_error(self.rounding, lower.double(), upper.double())
        return outwards(least.double() - error, most.double() + error, lower.dtype)

    def _refined(self, at: int, undecided: Callable[[Tensor, Tensor], Tensor]) -> Interval:
        """The bounds of an activation by back-substitution, at least of its neurons that are undecided."""
        lower, upper = self.bounds[at]
        if at in self._exact:
            return lower, upper
        node = self.network.nodes[at - 1]
        if isinstance(node.step, Flatten | Copy):  # a neuron has one bound, wherever it stands
            shape = lower.shape
            lower, upper = self._refined(node.inputs[0], undecided)
            return lower.reshape(shape), upper.reshape(shape)
        asked = undecided(lower, upper)
        if undecided is unstable and self.backsub.sparing and isinstance(node.step, Dense):
            # The lower bound of a neuron that is dead enters nothing. (Neurons of a plane share their way back.)
            likely = asked & (upper < -lower)
            self.ask(at, (asked & ~likely, asked))
            self.ask(at, (likely & (self.bounds[at][1] > 0), torch.zeros_like(asked)))
        else:
            self.ask(at, (asked, asked))
        return self.bounds[at]

    def ask(self, at: int, sides: Sides) -> None:
        """Refine bounds of an activation's neurons by back-substitution."""
        lower, upper = self.backsub.bounds(self.relaxed, at, sides, self.bounds[at])
        if self.rounding is not None:
            flat = self.rounding.flat(self.largest)[:, None, None, None]
            # What a ReLU returns is at least 0, and exactly 0 where it is dead; max pooling compares such bounds.
            least, most = self._evaluated(at)
            lower = torch.where((lower == 0) & (least >= 0), lower, lower - flat)
            upper = torch.where((upper == 0) & (most == 0), upper, upper + flat)
        self._note(lower, upper)
        self.bounds[at] = lower, upper

    def _note(self, lower: Tensor, upper: Tensor) -> None:
        """Record which boxes overflow, and how large activations get."""
        least, most = lower.amin((1, 2, 3)), upper.amax((1, 2, 3))  # NaN if any is
        self.finite &= least.isfinite() & most.isfinite()
        self.largest = torch.maximum(self.largest, torch.maximum(-least, most))

    def _evaluated(self, at: int) -> Interval:
        """Bounds of an activation's evaluated values; after a ReLU they are narrower than its lines."""
        lower, upper = self.bounds[at]
        return (lower.clamp(min=0), upper) if self._follows_relu(at) else (lower, upper)

    def _follows_relu(self, at: int) -> bool:
        maker = self.network.before(at, Flatten, Copy, Gather)
        return maker > 0 and isinstance(self.network.nodes[maker - 1].step, Relu)

    def _errors(self, at: int, step: Step, rounding: Arithmetic) -> Errors | None:
        """The rounding errors of an activation and of forms substituted through its step; None where both are exact."""
        match step:
            case Copy() | Gather():
                return step.errors(rounding, *self._evaluated(*self.network.nodes[at - 1].inputs))
            case Flatten() | Relu() | MaxPool() | Activation():
                return None
        return step.errors(rounding, terms(self.network, at, rounding, self._evaluated))

    def _is_exact(self, node: Node) -> bool:
        """Whether intervals are already exact: one linear layer over the box, and any scaling."""
        if not self._exact.issuperset(node.inputs):
            return False
        if isinstance(node.step, Scale | Flatten | Copy | Gather):
            return True
        before = [n.step for n in self.network.nodes[: node.inputs[0]]]
        apart = all(isinstance(s, Scale | Flatten | Copy) or (isinstance(s, Gather) and not s.repeats) for s in before)
        return isinstance(node.step, Conv | Dense) and apart


def _outside(scores: Tensor, lower: Tensor, upper: Tensor, ending: FinalActivation | None) -> Tensor:
    """bool (N,): whether scores (N, K) lie outside of the bounds of the network's outputs."""
    if ending is not None:
        low, high = lower.double(), upper.double()
        own = torch.eye(low.shape[1], dtype=torch.bool, device=low.device)
        # A class's lowest log-softmax: its own lower bound with all others at their upper bounds; and the reverse.
        lower = low - torch.where(own, low[:, :, None], high[:, None, :]).logsumexp(2)
        upper = high - torch.where(own, high[:, :, None], low[:, None, :]).logsumexp(2)
        room = 1e-3 * (1 + scores.abs())
        lower, upper = (lower.exp(), upper.exp()) if ending == "softmax" else (lower, upper)
        lower, upper = lower - room, upper + room
    return ((scores < lower) | (scores > upper)).any(1)


def _everything(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.ones_like(lower, dtype=torch.bool)


def forms_over_outputs(objective: Tensor, *, sums: torch.dtype) -> LinearForms:
    """Forms (N, R, K) over the network's outputs, as LinearForms."""
    n, count, classes = objective.shape
    coefs = objective.reshape(n, 1, count, 1, 1, classes)
    return LinearForms(coefs, coefs.new_zeros(1, 1, count, dtype=sums), Patches.whole(1, 1))


def _centered(interval: Interval, rounding: Arithmetic | None) -> Interval:
    """An interval as its center and radius."""
    lower, upper = interval
    center = (lower + upper) / 2
    return center, (upper - lower) / 2 if rounding is None else rounding.radius(center, lower, upper)
