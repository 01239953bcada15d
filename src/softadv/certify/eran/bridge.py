"""Certification by ERAN or GPUPoly: the question as files, the answers as certificates.

Only an image that the engine calls verified is verified: one that runs into the time limit, or on which the
engine fails, is unverified, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from softadv._modes import in_eval_mode
from softadv._ranges import UNIT, Clip, check_clip, check_radius
from softadv._scratch import Scratch
from softadv.certify import ROUNDINGS, Certificates, Rounding
from softadv.certify.eran.client import EngineClient, Request
from softadv.certify.eran.files import EngineModel, write_boxes, write_model
from softadv.certify.eran.protocol import ENGINES, EngineAnswer, EngineName, Offer
from softadv.data import check_images, check_labels, check_pixels
from softadv.errors import SoftadvError

# Images whose boxes are written at a time: a few megabytes.
_BATCH = 256
_IMAGES_AT_ONCE = 512
# Of the engine's process, before it is started anew. The least of ERAN's is some 0.5 GiB.
_MEMORY_LIMIT = 4 * 2**30
# Images with which an engine has to show that it reads a model as PyTorch does.
_PROBES = 4


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """An engine's results for N images; only those that the model classifies correctly were sent to it.

    version, soundness: as the engine's worker reports them. verified: bool (N,). seconds: float64 (N,), on the CPU,
    0 for images that were not sent. timeouts, failed: how many images are unverified for that reason.
    trouble: the error of the last image that failed, None where none did.
    """

    engine: EngineName
    version: str
    soundness: str
    verified: Tensor
    seconds: Tensor
    timeouts: int
    failed: int
    trouble: str | None


def certify_with(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    engine: EngineName,
    eps: float,
    clip: Clip = UNIT,
    rounding: Rounding = "sound",
    seconds_per_image: float = 60.0,
    memory_limit: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Certificates, EngineReport]:
    """Certify images by an engine that is started for this call: see Bridge.certify."""
    with Bridge(engine, seconds_per_image=seconds_per_image) as bridge:
        return bridge.certify(
            model, x, y, eps=eps, clip=clip, rounding=rounding, memory_limit=memory_limit, on_progress=on_progress
        )


def available(*, seconds_to_start: float = 300.0) -> dict[EngineName, Offer | str]:
    """Each engine's offer, or one line that says why it is missing. Raises SoftadvError where there is no ERAN."""
    found: dict[EngineName, Offer | str] = {}
    for engine in ENGINES:
        client = EngineClient(engine, seconds_per_image=1.0, seconds_to_start=seconds_to_start)
        try:
            found[engine] = client.offer()
        except SoftadvError as error:
            found[engine] = str(error)
        finally:
            client.stop()
    return found


class Bridge:
    """One engine, in a worker that SOFTADV_ERAN names. Use as a context manager: it ends the worker."""

    def __init__(self, engine: EngineName, *, seconds_per_image: float = 60.0, seconds_to_start: float = 300.0) -> None:
        """seconds_per_image: of the engine's own time, without what it waits for a processor on a busy machine.
        seconds_to_start: how long the engine may take to be loaded, and to read a model, likewise.

        Raises SoftadvError for an unknown engine, a limit that is not positive, and where there is no ERAN.
        """
        if engine not in ENGINES:
            raise SoftadvError(f"engine: unknown name {engine!r}, expected one of {', '.join(ENGINES)}")
        if not (seconds_per_image > 0 and seconds_to_start > 0):
            raise SoftadvError(f"engine: time limits must be positive, got {seconds_per_image}, {seconds_to_start}")
        self._engine = engine
        self._client = EngineClient(engine, seconds_per_image=seconds_per_image, seconds_to_start=seconds_to_start)
        self._scratch = Scratch("softadv-eran-")
        self._folder = self._scratch.path
        self._trusted: Path | None = None  # the model that the engine has shown to read as PyTorch does

    def __enter__(self) -> Bridge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the worker, and delete its input files."""
        self._client.stop()
        self._scratch.delete()

    def offer(self) -> Offer:
        """What the engine says of itself. Raises SoftadvError where it is not there."""
        return self._client.offer()

    def certify(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        clip: Clip = UNIT,
        rounding: Rounding = "sound",
        memory_limit: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Certificates, EngineReport]:
        """The certificates, as softadv.certify returns them, and the engine's report.

        model: a float32 module that can be exported; it is used in eval mode.
        x: float (N, C, H, W), pixels within clip; y: int64 (N,). eps: radius, in the units of x.
        rounding: "none" lets GPUPoly leave rounding errors unbounded; ERAN bounds them always.
        memory_limit: the resident size of the engine's process, in bytes, past which it is started anew between two
        images (by default 4 GiB, and half as much again as it needs for the model where that is more).
        on_progress: called with the number of images done so far.

        Misclassified images are not sent to the engine. Margins are NaN where the engine gives none. Raises
        SoftadvError for inputs out of range, a model that the engine cannot read or reads as another network, a
        worker that sends invalid lines, and one that fails on many images in succession.
        """
        clip = check_clip(clip)
        eps = check_radius(eps, clip=clip)
        if rounding not in ROUNDINGS:
            raise SoftadvError(f"rounding: unknown name {rounding!r}, expected one of {', '.join(ROUNDINGS)}")
        check_images(x, y)
        check_pixels(x, clip=clip)
        if memory_limit is not None and memory_limit <= 0:
            raise SoftadvError(f"memory_limit: expected a positive number of bytes, got {memory_limit}")
        like = next(model.parameters(), x)
        network = write_model(model, self._folder, image_shape=(x.shape[1], x.shape[2], x.shape[3]))
        outputs = _outputs(model, x, like)
        labels = y.cpu()
        check_labels(labels, classes=outputs.shape[1])
        # NaN scores rank no class.
        correct = (outputs.argmax(1) == labels) & outputs.isfinite().all(1)
        limit = _MEMORY_LIMIT if memory_limit is None else memory_limit
        question = _Settings(self._client, self._folder, network, clip, rounding == "sound", limit)
        asked = correct.nonzero().flatten()
        if network.path != self._trusted:
            question.check_reading(x, labels, outputs, asked)
            if self._trusted is not None:
                self._trusted.unlink(missing_ok=True)  # a run may ask about hundreds
            self._trusted = network.path

        verified, margin = torch.zeros_like(correct), torch.full((len(x),), torch.nan, dtype=like.dtype)
        seconds = torch.zeros(len(x), dtype=torch.float64)
        verdicts: Counter[str] = Counter()
        trouble = None
        for part in asked.split(_BATCH):
            for answer in question.answers(x[part.to(x.device)], labels[part], eps=eps):
                index = int(part[answer.index])
                verified[index] = answer.verdict == "verified"
                seconds[index], margin[index] = answer.seconds, answer.margin
                verdicts[answer.verdict] += 1
                trouble = answer.error if answer.verdict == "failed" else trouble
                if on_progress is not None:
                    on_progress(len(x) - len(asked) + verdicts.total())
        offer = self._client.offer()
        report = EngineReport(
            engine=self._engine,
            version=offer.version,
            soundness=offer.soundness.get(rounding, "unknown"),
            verified=verified.to(x.device),
            seconds=seconds,
            timeouts=verdicts["timeout"],
            failed=verdicts["failed"],
            trouble=trouble,
        )
        return Certificates(correct.to(x.device), report.verified, margin.to(x.device), self._engine), report


@dataclass(frozen=True)
class _Settings:
    """The settings that all batches of images share."""

    client: EngineClient
    folder: Path
    network: EngineModel
    clip: Clip
    sound: bool
    memory_limit: int

    def answers(self, x: Tensor, labels: Tensor, *, eps: float) -> Iterator[EngineAnswer]:
        """One answer for each image, in any order."""
        write_boxes(self.folder, *self.network.boxes(x, eps=eps, clip=self.clip), labels)
        request = Request(
            model=self.network.path,
            boxes=self.folder,
            images=range(len(labels)),
            sound=self.sound,
            memory_limit=self.memory_limit,
        )
        return self.client.answers(request)

    def check_reading(self, x: Tensor, labels: Tensor, outputs: Tensor, asked: Tensor) -> None:
        """Raise SoftadvError where the engine proves another class for an image than the model's own.

        Engines have been seen to reorder channels and to drop layers; every verdict would then be about another
        model. So the engine first gets points instead of boxes, namely the images with the largest logit margins.
        An engine that reads the model correctly can hardly fail to verify these.
        outputs: (N, K). asked: int64, the images that are classified correctly.
        """
        best = outputs[asked].topk(2).values
        surest = asked[(best[:, 0] - best[:, 1]).argsort(descending=True)][:_PROBES]
        if not len(surest):
            return
        shown = list(self.answers(x[surest.to(x.device)], labels[surest], eps=0.0))
        for image in (int(surest[answer.index]) for answer in shown if answer.verdict == "unverified"):
            others = torch.tensor([label for label in range(outputs.shape[1]) if label != labels[image]])
            for answer in self.answers(x[[image] * len(others)], others, eps=0.0):
                if answer.verdict == "verified":
                    raise SoftadvError(
                        f"{self.client.engine}: reads another network than this model, which classifies image "
                        f"{image} as {int(labels[image])}, and it proves {int(others[answer.index])}"
                    )


@in_eval_mode
@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor, like: Tensor) -> Tensor:
    """The model's outputs (N, K), on the CPU."""
    # A copy: a model that begins with an in-place layer would change the images.
    parts = [model(part.to(like.device, like.dtype, copy=True)).cpu() for part in x.split(_IMAGES_AT_ONCE)]
    return torch.cat(parts)
