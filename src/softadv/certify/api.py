"""softadv.certify with the native certifier: prove that a model classifies every point of a box as the label."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from softadv._as_built import has_own_code
from softadv._modes import in_eval_mode
from softadv._ranges import UNIT, Clip
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.bounds import BackSubstitution, lower_bounds
from softadv.certify.boxes import Boxes, Radius, make_boxes
from softadv.certify.computed_by import ComputedBy, computed_by
from softadv.certify.counterexample import broken
from softadv.certify.domains import DOMAINS, Domain
from softadv.certify.graph import Network
from softadv.certify.operators import Conv
from softadv.certify.rounding import check_evaluation
from softadv.certify.spot_check import check_scores
from softadv.certify.trace import read_network
from softadv.data import check_images, check_labels
from softadv.errors import SoftadvError
from softadv.kernels import threads

Rounding = Literal["sound", "none"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
Effort = Literal["least", "exact"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)

# Bytes. Larger chunks are no faster on a CPU: these keep all cores busy.
_CPU_BUDGET = 2**28
# Images whose scores are compared with those of the network that was read.
_COMPARED = 4
# Copies of an image's objective that are in memory at the peak; one in float64 is two (box: 5; before a softmax: 7).
_FORMS_ALIVE = 7
# How PyTorch says that memory ran out: on Windows, on Linux, and where a C++ library asked for it.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc")
# Images. Small enough that progress is shown often and an interrupted run loses little.
_MOST_AT_ONCE = 512


@dataclass(frozen=True)
class Certificates:
    """What was proven about N images; every tensor is on the device of the images.

    correct: bool (N,), the model classifies the image itself as y, with scores that are all finite.
    verified: bool (N,), correct, and every point of the box is classified as y.
    margin: float (N,), a lower bound over the box of the minimum of o_y - o_j over j != y; NaN where no margin was
        requested.
    computed_by: which engine computed, the compiled kernel or PyTorch, and for which reason (computed_by.py).
    """

    correct: Tensor
    verified: Tensor
    margin: Tensor
    computed_by: str


@in_eval_mode
def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Radius | None = None,
    domain: Domain = "deeppoly",
    rounding: Rounding = "sound",
    clip: Clip = UNIT,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    margins: bool = True,
    effort: Effort = "least",
    memory_budget: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Certificates:
    """Certify that a model classifies every point of an L-infinity ball as the image's label.

    The box of an image is {x' : |x' - x| <= eps and clip[0] <= x' <= clip[1]}, pixel by pixel, or, where they are
    given, {x' : lower <= x' <= upper}.

    model: a module that torch.fx can trace, of the operations that layers.SUPPORTED names.
    x: float (N, C, H, W), or (N, ...) of any shape that the model takes, within clip or lower and upper.
    y: int64 (N,).
    eps: radius, in the units of x: a number, or a float tensor that broadcasts to x, such as (C, 1, 1) for a radius
        for each channel and (N, 1, 1, 1) for one for each image.
    lower, upper: instead of eps and clip, the box: float tensors that broadcast to x.
    domain: "box" (interval arithmetic), "deepzono" (Singh et al., NeurIPS 2018) or "deeppoly" (Singh
        et al., POPL 2019, with full back-substitution; CROWN's adaptive relaxation).
    rounding: "sound" proves the verdict for the model as PyTorch or onnxruntime evaluates it in its
        floating-point type, in any summation order (the theorem and what it covers: rounding.py);
        "none" leaves rounding errors unbounded.
    margins: True computes the margins exactly as the domain defines them. False computes verdicts only: margins
        that no verdict needs are skipped, and the others may be any lower bound with the verdict's sign.
    effort: for verdicts only. "least" stops as soon as an image is proven (early_proof.py): it verifies every image
        that the domain's whole pass verifies, and now and then one more. "exact" verifies only those.
    memory_budget: bytes the analysis may use for tensors; the images are split into chunks that fit.
        Default: 256 MiB on a CPU, half of the free memory on a GPU. Where memory runs out all the same,
        the chunk is halved.
    on_progress: called after each chunk with the number of images done so far.

    Where the model ends in softmax or log_softmax, margins are those of what enters it.

    The analysis runs in the model's floating-point type on the model's device. The model is certified as it is in
    eval mode, and left in the mode it was in. Raises SoftadvError for a model that cannot be read, inputs out of
    range, or an arithmetic that sound mode does not cover.
    """
    for name, value, known in (
        ("domain", domain, DOMAINS),
        ("rounding", rounding, ROUNDINGS),
        ("effort", effort, EFFORTS),
    ):
        if value not in known:
            raise SoftadvError(f"{name}: unknown name {value!r}, expected one of {', '.join(known)}")
    check_images(x, y)
    boxes = make_boxes(x, eps=eps, clip=clip, lower=lower, upper=upper)
    like = next(model.parameters(), x)
    network = read_network(model, tuple(x.shape[1:]), like=like)
    check_labels(y, classes=network.classes)
    question = _Settings(model, network, boxes, domain, rounding, margins, effort, like)
    budget = memory_budget or _default_budget(question.like.device)
    chunk = max(1, budget // (question.floats_per_image * question.like.element_size()))

    correct = torch.empty(len(x), dtype=torch.bool, device=x.device)
    margin = torch.full((len(x),), float("nan"), dtype=question.like.dtype, device=x.device)
    read, told, chunk, waiting = 0, 0, min(chunk, _MOST_AT_ONCE), question.nothing
    with question.threads():
        question.check_reading(x[: min(chunk, _COMPARED)])
    # Many images need no proof, and proofs take less time together: images are evaluated until a chunk is waiting.
    while read < len(x) or len(waiting):
        evaluates = read < len(x) and len(waiting) < chunk
        size = min(chunk, len(x) - read if evaluates else len(waiting))
        try:
            with question.threads():
                if evaluates:
                    part = slice(read, read + size)
                    correct[part], found = question.evaluate(x, y, part)
                    read, waiting = part.stop, waiting.beside(found)
                else:
                    now, later = waiting.split(size)
                    margin[now.rows.to(x.device)] = question.margin(now).to(x.device)
                    waiting = later
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not _is_memory(error):
                raise
            chunk = -(-size // 2)
            continue
        done = int(waiting.rows[0]) if len(waiting) else read
        if on_progress is not None and done > told:
            on_progress(done)
        told = done
    # Only a finite positive margin is a proof: NaN and infinity are not.
    verified = correct & (margin > question.gap) & margin.isfinite()
    return Certificates(correct, verified, margin, str(question.engine))


@dataclass(frozen=True)
class _Open:
    """Images whose margin is wanted, on the model's device. rows: int64 (R,), their numbers; the others are theirs."""

    rows: Tensor
    lower: Tensor
    upper: Tensor
    labels: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def beside(self, others: _Open) -> _Open:
        """These images and then others."""
        if not len(self) or not len(others):
            return self if len(self) else others
        return _Open(*(torch.cat(pair) for pair in zip(self._parts, others._parts, strict=True)))

    def split(self, size: int) -> tuple[_Open, _Open]:
        """So many images, and the rest."""
        return _Open(*(part[:size] for part in self._parts)), _Open(*(part[size:] for part in self._parts))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.rows, self.lower, self.upper, self.labels, self.scores


@dataclass(frozen=True)
class _Settings:
    """The settings that all chunks of images share."""

    model: nn.Module
    network: Network
    boxes: Boxes
    domain: Domain
    rounding: Rounding
    margins: bool
    effort: Effort
    like: Tensor

    def __post_init__(self) -> None:
        if self.rounding == "sound":
            check_evaluation(self.like.dtype, self.like.device)
            check_convolutions(self.network, self.like.device)

    @cached_property
    def engine(self) -> ComputedBy:
        """What computes."""
        return computed_by(self.network, domain=self.domain, dtype=self.like.dtype, device=self.like.device)

    @property
    def backsub(self) -> type[BackSubstitution]:
        """The implementation of back-substitution; Box needs none."""
        return self.engine.backsub

    @property
    def floats_per_image(self) -> int:
        """What one image needs at the peak: the pass, and K functions of K outputs, also of what these are made of."""
        network = self.network
        entering = sum(prod(network.shapes[at]) for at in network.nodes[-1].inputs) if network.nodes else 0
        forms = _FORMS_ALIVE * network.classes * (network.classes + entering)
        return self.engine.floats_per_image + forms

    @property
    def gap(self) -> float:
        """How far two scores must be apart so that a softmax, too, returns two different numbers.

        The largest score's exponential is 1, another's is at most 1 - gap / 2, and each is off by a few units; a
        log_softmax subtracts one number from both, which is less than 1,000 times as large as they are apart.
        """
        return 0.0 if self.network.ending is None else 2.0**11 * torch.finfo(self.like.dtype).eps

    def threads(self) -> AbstractContextManager[None]:
        """A context in which the kernel's threads sleep, rather than spin, while they wait."""
        return threads.of_their_own() if self.backsub is CompiledBackSubstitution else nullcontext()

    @property
    def nothing(self) -> _Open:
        """No image."""
        none = self.like.new_empty(0)
        return _Open(none.long(), none, none, none.long(), none)

    def evaluate(self, x: Tensor, y: Tensor, part: slice) -> tuple[Tensor, _Open]:
        """correct, bool (N,), and the images whose margin is wanted and not known to be negative.

        part: the positions of these images among all images.
        """

        def of(rows: Tensor) -> tuple[Tensor, _Open]:
            return self._evaluate(x, y, slice(int(rows[0]), int(rows[-1]) + 1))

        rows = torch.arange(part.start, part.stop)
        # What a model's own code keeps on the model, another thread would overwrite.
        parts = [of(rows)] if has_own_code(self.model) else threads.in_parts(of, rows)
        correct, found = zip(*parts, strict=True)
        return torch.cat(correct), reduce(_Open.beside, found)

    @torch.no_grad()
    def _evaluate(self, x: Tensor, y: Tensor, part: slice) -> tuple[Tensor, _Open]:
        x, labels = x[part].to(self.like.device), y[part].to(self.like.device)
        scores = self._scores(x)
        # NaN scores rank no class, but argmax would return the first NaN.
        correct = (scores.argmax(1) == labels) & scores.isfinite().all(1)
        (rows,) = (torch.ones_like(correct) if self.margins else correct).nonzero(as_tuple=True)
        if not len(rows):
            return correct, self.nothing
        sound = self.rounding == "sound"
        lower, upper = self.boxes.bounds(x[rows], part.start + rows, dtype=self.like.dtype, sound=sound)
        if sound and not self.margins:
            whole = ~broken(self.model, x[rows].to(self.like.dtype), labels[rows], lower, upper)
            rows, lower, upper = rows[whole], lower[whole], upper[whole]
        return correct, _Open(part.start + rows, lower, upper, labels[rows], scores[rows])

    def _scores(self, x: Tensor) -> Tensor:
        """What the model returns for images, (N, K)."""
        # A copy: a model that begins with an in-place layer would change the images.
        scores: Tensor = self.model(x.to(self.like.device, self.like.dtype, copy=True))
        if scores.shape != (len(x), self.network.classes) or scores.dtype != self.like.dtype:
            raise SoftadvError(
                f"model: returns {scores.dtype} of shape {tuple(scores.shape)}, where {self.like.dtype} of shape "
                f"{(len(x), self.network.classes)} was read"
            )
        return scores

    @torch.no_grad()
    def check_reading(self, x: Tensor) -> None:
        """Raise SoftadvError where the network that was read has other scores for images than the model."""
        if self.rounding != "sound" or not len(x) or not has_own_code(self.model):
            return  # layers alone are what they are read as
        point = x.to(self.like.device, self.like.dtype, copy=True)
        check_scores(self.network, point, self._scores(x), backsub=self.backsub)

    @torch.no_grad()
    def margin(self, images: _Open) -> Tensor:
        """The margins, float (R,), on the model's device."""
        lower, upper = self.network.as_planes(images.lower), self.network.as_planes(images.upper)
        return torch.cat(threads.in_parts(self._margin, lower, upper, images.labels, images.scores))

    def _margin(self, lower: Tensor, upper: Tensor, y: Tensor, scores: Tensor) -> Tensor:
        identity = torch.eye(self.network.classes, dtype=lower.dtype, device=lower.device)
        objective = identity[y][:, None, :] - identity  # row j is o_y - o_j
        sound = self.backsub.arithmetic(self.network, lower.dtype) if self.rounding == "sound" else None
        bounds = lower_bounds(
            self.network,
            (lower, upper),
            objective,
            domain=self.domain,
            rounding=sound,
            backsub=self.backsub,
            scores=scores,
            stop_above=self.gap if not self.margins and self.effort == "least" else None,
        )
        # Row y is zero by definition and not a competitor.
        return bounds.scatter(1, y[:, None], float("inf")).amin(1)


def check_convolutions(network: Network, device: torch.device) -> None:
    """Refuse what PyTorch may evaluate by Winograd or FFT: cuDNN where the stride is 1, NNPACK in place of oneDNN."""
    backends = torch.backends
    if device.type == "cuda":
        library, instead, used = "cuDNN", "torch.backends.cudnn.enabled = False", backends.cudnn.enabled
    else:
        direct = backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
        library, instead = "NNPACK", "torch.backends.mkldnn.flags(enabled=True)"
        used = backends.nnpack.is_available() and not direct
    for node in network.nodes:
        if not used or not isinstance(node.step, Conv) or max(node.step.weight.shape[2:]) == 1:
            continue
        # Substituting back through a stride takes convolutions without one (transposed_conv.py), on a CPU.
        if device.type == "cpu" or 1 in node.step.stride:
            raise SoftadvError(
                f"rounding: {library} may evaluate {node.name} by Winograd or FFT, whose errors are not bounded; "
                f"set {instead}, or ask for rounding='none'"
            )


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _CPU_BUDGET


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; PyTorch has no type for it on a CPU."""
    out_of_memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return out_of_memory or any(words in str(error) for words in _OUT_OF_MEMORY)
