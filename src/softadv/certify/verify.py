"""Check a VNN-LIB property of a network: a proof by DeepPoly and input splitting, or a counterexample.

"unsat" is proven for the network as it is evaluated (rounding.py): for each case of the property, and each box that
its inputs are split into, one comparison fails at every point. "sat" comes with a counterexample: onnxruntime computes
its outputs, and the property's comparisons hold for them in exact arithmetic.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, nextafter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from softadv._onnx import OnnxModel, read_onnx
from softadv.certify import onnx_runtime
from softadv.certify.api import check_convolutions
from softadv.certify.bounds import lower_bounds
from softadv.certify.computed_by import computed_by
from softadv.certify.rounding import check_evaluation, outwards
from softadv.certify.spot_check import check_scores
from softadv.certify.trace import read_network
from softadv.certify.vnnlib import Case, LinearConstraint, Property, PropertyError, Variable, bounds_of, without_bounds
from softadv.errors import SoftadvError
from softadv.kernels import threads

Status = Literal["unsat", "sat", "unknown", "timed-out"]

# Inputs are split where there are no more than this.
_MOST_SPLIT = 16
_BOXES_AT_ONCE = 64
_STARTS, _STEPS = 32, 60
# Floating-point numbers that several boxes, or several points, may take together.
_MOST_TOGETHER = 2**26
_FORMS_ALIVE = 5  # copies of a box's forms at the peak, of which one in float64 is two
# Comparisons times variables of one case.
_MOST_FACTORS = 2**23


@dataclass(frozen=True)
class PropertyAnswer:
    """The answer.

    inputs, outputs: of a counterexample, flattened, as onnxruntime computes it; else None. boxes: how many were
    analysed. computed_by: which engine analyses this network, and for which reason (computed_by.py).
    """

    status: Status
    inputs: Any = None
    outputs: Any = None
    boxes: int = 0
    computed_by: str = ""


def verify(model: OnnxModel, property: Property, *, timeout: float = inf, seed: int = 0) -> PropertyAnswer:
    """Answer a property about the network of an ONNX file.

    timeout: seconds, after which the answer is "timed-out". seed: of the search for an assignment.
    Raises PropertyError where the property is about a network of another shape or type, or leaves an input unbounded;
    SoftadvError for a network that the certifier does not read.
    """
    deadline = time.monotonic() + timeout
    if model.batch not in (None, 1):  # a property is about all of the input
        model = read_onnx(model.path, whole=True)
    solver = _Solver(model, property, deadline=deadline, seed=seed)
    return replace(solver.answer(), computed_by=str(solver.engine))


@dataclass(frozen=True)
class _Rows:
    """A case's comparisons, apart from input bounds, as matrices: outputs @ y + inputs @ x + constant <= 0.

    outputs: (R, K), in the network's dtype. missed: (R, K) float64, the rounding errors of these coefficients. inputs:
    (R, D), constant: (R,), float64, each rounded to nearest.
    """

    comparisons: tuple[LinearConstraint, ...]
    outputs: Tensor
    missed: Tensor
    inputs: Tensor
    constant: Tensor


@dataclass(frozen=True)
class _Box:
    """A case restricted to a box of inputs, float64 bounds (D,)."""

    case: Case
    rows: _Rows
    lower: Tensor
    upper: Tensor


class _Solver:
    def __init__(self, model: OnnxModel, property: Property, *, deadline: float, seed: int) -> None:
        self.model, self.property, self.deadline = model, property, deadline
        self.generator = torch.Generator().manual_seed(seed)
        self.like = next((t for t in model.parameters()), torch.zeros(0, dtype=model.dtype))
        check_evaluation(self.like.dtype, self.like.device)
        wanted = str(model.dtype).removeprefix("torch.")
        if property.version != "1.0" and property.type not in (wanted, "real"):
            raise PropertyError(f"the property is about elements of type {property.type}, the network's are {wanted}")
        self.whole = nn.Sequential(model, nn.Flatten())
        with torch.no_grad():
            outputs = self.whole(torch.zeros(1, *model.shape, dtype=model.dtype)).shape[1]
        sizes = torch.Size(model.shape).numel(), outputs
        if property.sizes != sizes:
            raise PropertyError(f"the property has {property.sizes} inputs and outputs, the network {sizes}")
        self.inputs, self.outputs = sizes
        self.network = read_network(self.whole, model.shape, like=self.like, least_outputs=1)
        check_convolutions(self.network, self.like.device)
        if self.network.ending is not None:
            raise PropertyError("the network ends in a softmax, whose outputs are not bounded; leave it out")
        self.engine = computed_by(self.network, domain="deeppoly", dtype=self.like.dtype, device=self.like.device)
        self.session = onnx_runtime.open_session(model.path)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def answer(self) -> PropertyAnswer:
        """Search each case for a counterexample, then prove them all."""
        boxes = deque(box for case in self.property.cases for box in self.boxes(case))
        for box in boxes:
            found = self.search(box)
            if found is not None:
                return found
            if self.is_late:
                return PropertyAnswer("timed-out")
        return self.prove(boxes)

    def boxes(self, case: Case) -> list[_Box]:
        """The inputs of a case as a box; none where its bounds contradict each other."""
        lower: list[Fraction | None] = [None] * self.inputs
        upper: list[Fraction | None] = [None] * self.inputs
        for found in map(bounds_of, case):
            if found is not None:
                at, bound, above = found
                known = (upper if above else lower)[at]
                if known is None or (bound < known if above else bound > known):
                    (upper if above else lower)[at] = bound
        ends = []
        for at, (least, most) in enumerate(zip(lower, upper, strict=True)):
            if least is None or most is None:
                raise PropertyError(f"{self.property.name(Variable(False, at))} is not bounded on both sides")
            if least > most:
                return []
            ends.append((_rounded(least, -1), _rounded(most, 1)))
        low, high = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2).unbind(1)
        return [_Box(case, self._rows(without_bounds(case)), low, high)]

    def prove(self, boxes: deque[_Box]) -> PropertyAnswer:
        """Prove each box, or split it; may find a counterexample on the way."""
        done = 0
        unknown = False
        if boxes:
            self.check_reading(boxes[0])
        with threads.of_their_own(), torch.no_grad():
            while boxes:
                if self.is_late:
                    return PropertyAnswer("timed-out", boxes=done)
                batch = [boxes.popleft()]
                while boxes and len(batch) < self.at_once(batch[0].rows) and boxes[0].rows is batch[0].rows:
                    batch.append(boxes.popleft())
                lower, upper = (torch.stack([getattr(box, end) for box in batch]) for end in ("lower", "upper"))
                proven = self._proven(batch[0].rows, lower, upper)
                done += len(batch)
                for box, holds in zip(batch, proven.tolist(), strict=True):
                    if holds:
                        continue
                    found = self._confirmed(box.case, (box.lower + box.upper) / 2, box)
                    if found is not None:
                        return found
                    halves = self._halves(box)
                    unknown |= not halves
                    boxes.extendleft(reversed(halves))
        return PropertyAnswer("unknown" if unknown else "unsat", boxes=done)

    def at_once(self, rows: _Rows) -> int:
        """How many boxes are proven together: each takes a pass, and the forms that are bounded, of all K outputs."""
        forms = _FORMS_ALIVE * (len(rows.comparisons) + 2 * self.outputs) * self.outputs
        return max(1, min(_BOXES_AT_ONCE, _MOST_TOGETHER // (self.engine.floats_per_image + forms)))

    def check_reading(self, box: _Box) -> None:
        """Raise SoftadvError where onnxruntime computes something else of a box's middle than the network read."""
        point = ((box.lower + box.upper) / 2).to(self.like.dtype)
        outputs = torch.from_numpy(self._computed(point))[None]
        try:
            check_scores(self.network, point.reshape(1, *self.model.shape), outputs, backsub=self.engine.backsub)
        except SoftadvError as error:
            raise SoftadvError(f"{self.model.path}: onnxruntime computes something else than was read of it") from error

    def search(self, box: _Box) -> PropertyAnswer | None:
        """Search for a counterexample by gradient steps from many points of a box."""
        low, high = self._floats(box)
        if not (low <= high).all():
            return None
        width = high - low
        count = max(1, min(_STARTS, _MOST_TOGETHER // self.network.neurons))
        points = low + width * torch.rand(count, self.inputs, generator=self.generator).to(low.dtype)
        points[0] = low + width / 2
        rows, dtype = box.rows, low.dtype
        outputs, inputs, constant = (part.to(dtype) for part in (rows.outputs, rows.inputs, rows.constant))
        for step in range(_STEPS):
            points = torch.minimum(torch.maximum(points, low), high).detach().requires_grad_()
            values = self.whole(points.reshape(-1, *self.model.shape)) @ outputs.T + points @ inputs.T + constant
            worst = values.amax(1) if len(rows.comparisons) else points.sum(1) * 0
            for at in (worst <= 0).nonzero()[:4, 0].tolist():
                found = self._confirmed(box.case, points[at].detach(), box)
                if found is not None:
                    return found
            if self.is_late or not len(rows.comparisons):
                return None
            (gradient,) = torch.autograd.grad(worst.sum(), points)
            points = points.detach() - gradient.sign() * width * (0.25 * 0.9**step)
        return None

    def _rows(self, case: Case) -> _Rows:
        if len(case) * (self.inputs + self.outputs) > _MOST_FACTORS:
            raise PropertyError(f"has {len(case):,} comparisons of a network of {self.inputs:,} inputs in one case")
        exact = {
            side: np.zeros((len(case), size), object) for side, size in ((True, self.outputs), (False, self.inputs))
        }
        for row, comparison in enumerate(case):
            for variable, factor in comparison.sum.terms.items():
                exact[variable.output][row, variable.index] = factor
        outputs = torch.tensor(exact[True].astype(float)).reshape(len(case), self.outputs).to(self.like.dtype)
        missed = np.zeros(exact[True].shape)
        if not outputs.isfinite().all():
            raise PropertyError(f"has a factor beyond the numbers of {self.like.dtype}")
        for row, at in np.argwhere(exact[True]):
            factor = Fraction(exact[True][row, at])
            missed[row, at] = float(abs(factor - Fraction(outputs[row, at].item()))) * (1 + 1e-9)
        inputs = torch.tensor(exact[False].astype(float)).reshape(len(case), self.inputs)
        constant = torch.tensor([float(comparison.sum.constant) for comparison in case], dtype=torch.float64)
        return _Rows(case, outputs, torch.from_numpy(missed), inputs, constant)

    def _proven(self, rows: _Rows, lower: Tensor, upper: Tensor) -> Tensor:
        """bool (N,): the boxes on which one comparison fails at every point."""
        least = self._least(rows, lower, upper)
        strict = torch.tensor([c.strict for c in rows.comparisons], dtype=torch.bool)
        usable = torch.tensor([not c.differs for c in rows.comparisons], dtype=torch.bool)
        return (((least > 0) | (strict & (least >= 0))) & usable).any(1)

    def _least(self, rows: _Rows, lower: Tensor, upper: Tensor, *, sign: int = 1) -> Tensor:
        """Lower bounds (N, R) of the rows, or of their negatives, over boxes (N, D); in float64."""
        count = len(rows.comparisons)
        if not count:
            return lower.new_zeros(len(lower), 0)
        bounds = self._of_outputs(sign * rows.outputs, lower, upper, magnitudes=bool((rows.missed > 0).any()))
        inputs = sign * rows.inputs
        least, most = inputs[:, None] * lower, inputs[:, None] * upper  # (R, N, D)
        parts = torch.minimum(least, most).sum(2).T
        size = torch.maximum(least.abs(), most.abs()).sum(2).T + bounds.value.abs() + rows.constant.abs()
        # Each number is rounded once, and so is each sum of them.
        room = size * ((self.inputs + 16) * 2.0**-52)
        found = bounds.value + parts + sign * rows.constant - room
        return found - (bounds.largest @ rows.missed.T) * (1 + 1e-9)

    def _of_outputs(self, forms: Tensor, lower: Tensor, upper: Tensor, *, magnitudes: bool) -> _Bounds:
        """Lower bounds of forms (R, K) over the network's outputs, and bounds of the outputs' magnitudes."""
        planes = [self.network.as_planes(end.reshape(-1, *self.model.shape)) for end in
                  outwards(lower, upper, self.like.dtype)]  # fmt: skip
        one = torch.eye(self.outputs, dtype=self.like.dtype)
        asked = torch.cat([forms, one, -one]) if magnitudes else forms
        middle = ((lower + upper) / 2).to(self.like.dtype).reshape(-1, *self.model.shape)
        found = lower_bounds(
            self.network, (planes[0], planes[1]), asked.expand(len(lower), -1, -1).contiguous(), domain="deeppoly",
            rounding=self.engine.backsub.arithmetic(self.network, self.like.dtype), backsub=self.engine.backsub,
            scores=self.whole(middle),
        ).double()  # fmt: skip
        value = found[:, : len(forms)]
        if not magnitudes:
            return _Bounds(value, found.new_zeros(len(found), self.outputs))
        below, above = found[:, len(forms) :].split(self.outputs, 1)
        return _Bounds(value, torch.maximum(-below, -above).clamp(min=0))

    def _confirmed(self, case: Case, point: Tensor, box: _Box) -> PropertyAnswer | None:
        """The answer with a point as counterexample, if onnxruntime's outputs and exact arithmetic confirm it."""
        low, high = self._floats(box)
        point = torch.minimum(torch.maximum(point.to(self.like.dtype), low), high)
        inputs: Any = point.numpy()
        outputs = self._computed(point)
        if not np.isfinite(outputs).all() or not all(c.holds(inputs, outputs) for c in case):
            return None
        if self.property.type == "real" and not self._holds_in_reals(case, point):
            return None
        return PropertyAnswer("sat", inputs, outputs)

    def _computed(self, point: Tensor) -> Any:
        """What onnxruntime computes of an input (D,): an array (K,)."""
        shape = self.model.shape if self.model.unbatched else (1, *self.model.shape)
        (found,) = self.session.run(None, {self.session.get_inputs()[0].name: point.numpy().reshape(shape)})
        return np.asarray(found).reshape(-1)

    def _holds_in_reals(self, case: Case, point: Tensor) -> bool:
        """Whether sound bounds prove a point to be a counterexample of the network in real arithmetic, too."""
        rows = self._rows(without_bounds(case))
        with torch.no_grad():
            exact = point.double()[None]
            above, below = -self._least(rows, exact, exact, sign=-1), self._least(rows, exact, exact)
        for row, comparison in enumerate(rows.comparisons):
            most, least = float(above[0, row]), float(below[0, row])
            sure = most < 0 or least > 0 if comparison.differs else most < 0 or (most == 0 and not comparison.strict)
            if not sure:
                return False
        return True

    def _floats(self, box: _Box) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number of the network's dtype within a box, for each input."""
        low, high = box.lower.to(self.like.dtype), box.upper.to(self.like.dtype)
        infinity = low.new_tensor(torch.inf)
        low = torch.where(low.double() < box.lower, low.nextafter(infinity), low)
        return low, torch.where(high.double() > box.upper, high.nextafter(-infinity), high)

    def _halves(self, box: _Box) -> list[_Box]:
        """A box split at its widest input; empty where there are too many inputs, or no number lies in between."""
        if self.inputs > _MOST_SPLIT:
            return []
        at = int((box.upper - box.lower).argmax())
        middle = (box.lower[at] + box.upper[at]) / 2
        if not box.lower[at] < middle < box.upper[at]:
            return []
        below, above = box.upper.clone(), box.lower.clone()
        below[at] = above[at] = middle
        return [_Box(box.case, box.rows, box.lower, below), _Box(box.case, box.rows, above, box.upper)]


@dataclass(frozen=True)
class _Bounds:
    """value: (N, R), lower bounds of forms. largest: (N, K), the outputs' largest magnitudes, 0 if not requested."""

    value: Tensor
    largest: Tensor


def _rounded(number: Fraction, sign: int) -> float:
    """The float64 next to a number that is not below it (sign 1), or not above it (-1)."""
    try:
        found = float(number)
    except OverflowError:
        raise PropertyError(f"a bound of an input is too large: about 10^{len(str(abs(number.numerator)))}") from None
    wrong = Fraction(found) < number if sign > 0 else Fraction(found) > number
    return nextafter(found, sign * inf) if wrong else found
