"""Certification results image by image, and their summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv.certify import Domain, Rounding
from softadv.certify.certifiers import CertifierSession

Split = Literal["train", "test"]
Standing = Literal["misclassified", "unverified", "verified"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)

# Images that take a few seconds: an interruption loses at most that, and the display is updated as often.
_CPU_CHUNK, _GPU_CHUNK, _ENGINE_CHUNK = 512, 4096, 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """Everything that verdicts depend on. weights, data: SHA-256 digests. eps: for pixels in [0, 1]."""

    weights: str
    dataset: str
    data: str
    split: Split
    eps: float
    domain: Domain
    rounding: Rounding
    certifier: str  # its name, version and soundness


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image; index is its place in the split.

    margin: the certifier's lower bound of the margin, NaN where it has none. seconds: the time of the image's chunk,
    divided by the number of images in it.
    """

    index: int
    label: int
    predicted: int
    verdict: Standing
    margin: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CertificationSummary:
    """Counts and rates over all rows. The margins are those of verified images, None where there is none."""

    images: int
    misclassified: int
    unverified: int
    verified: int
    certified_accuracy: float
    images_per_second: float
    least_margin: float | None
    median_margin: float | None


def chunk_size(device: torch.device, session: CertifierSession) -> int:
    """How many images are certified together. The last bits of a margin depend on it."""
    if not session.native:
        return _ENGINE_CHUNK
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


def certify_rows(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    question: Question,
    session: CertifierSession,
    start: int,
    on_engine: Callable[[str], object] | None = None,
) -> Iterator[list[ImageResult]]:
    """Certify images from number `start` on, and yield their rows chunk by chunk.

    x: float (N, C, H, W); y: int64 (N,); both on the model's device. on_engine: called before each chunk's rows with
    what computed them (Certificates.computed_by). Raises what certify raises.
    """
    if start >= len(x):
        return
    size = chunk_size(x.device, session)
    # Chunks begin where they would without an interruption, so that the margins have the same bits.
    for begin in range(start - start % size, len(x), size):
        rows = certify_chunk(
            model, x[begin : begin + size], y[begin : begin + size], question=question, session=session, first=begin,
            on_engine=on_engine,
        )  # fmt: skip
        yield rows[max(0, start - begin) :]


def certify_chunk(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    question: Question,
    session: CertifierSession,
    first: int,
    on_engine: Callable[[str], object] | None = None,
) -> list[ImageResult]:
    """The rows of images that are certified together; first: the number of the first one."""
    started = time.perf_counter()
    found, _ = session.certify(model, x, y, eps=question.eps, domain=question.domain, rounding=question.rounding)
    # A GPU has finished when they are here.
    correct, verified, margin = found.correct.tolist(), found.verified.tolist(), found.margin.tolist()
    seconds = round((time.perf_counter() - started) / len(x), 9)
    if on_engine is not None:
        on_engine(found.computed_by)
    like = next(model.parameters(), x)
    with eval_mode(model), torch.no_grad():  # a model that begins with an in-place layer would change the images
        predicted = model(x.to(like.dtype, copy=True)).argmax(1).tolist()
    return [
        ImageResult(first + i, label, predicted[i], _standing(correct[i], verified[i]), margin[i], seconds)
        for i, label in enumerate(y.tolist())
    ]


def _standing(correct: bool, verified: bool) -> Standing:
    if not correct:
        return "misclassified"
    return "verified" if verified else "unverified"


def summarize(rows: Sequence[ImageResult]) -> CertificationSummary:
    """Count rows, of which there must be one at least."""
    counts = Counter(row.verdict for row in rows)
    margins = [row.margin for row in rows if row.verdict == "verified"]
    return CertificationSummary(
        images=len(rows),
        misclassified=counts["misclassified"],
        unverified=counts["unverified"],
        verified=counts["verified"],
        certified_accuracy=counts["verified"] / len(rows),
        images_per_second=len(rows) / sum(row.seconds for row in rows),
        least_margin=min(margins, default=None),
        median_margin=median(margins) if margins else None,
    )
