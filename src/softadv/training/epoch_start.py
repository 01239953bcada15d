"""What a method gets before an epoch: the images, the model, certification and the attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from softadv.attacks import AtRadius
from softadv.certify.domains import Certifier, Domain
from softadv.training.config import TrainConfig
from softadv.training.evaluation import attack_images, predictions
from softadv.training.partition import Partition, partition
from softadv.training.state import TrainState
from softadv.training.timing import EpochSeconds

_CPU = torch.device("cpu")


class EpochContext:
    """The start of an epoch, as methods.base.EpochStart describes it."""

    def __init__(
        self,
        state: TrainState,
        x: Tensor,
        y: Tensor,
        *,
        config: TrainConfig,
        number: int,
        seconds: EpochSeconds,
        on_progress: Callable[[str, int], None],
    ) -> None:
        """x: float (N, C, H, W), the training images as the epoch sees them; y: int64 (N,). number: from 1."""
        self.x, self.y, self.number = x, y, number
        self.nth = number - config.natural_epochs
        self.eps = config.radius(number)
        self.rng = config.generator(number, "method", _CPU)
        self._state, self._config, self._seconds, self._on_progress = state, config, seconds, on_progress

    @property
    def model(self) -> nn.Module:
        """With the weights at the start of the epoch, in eval mode."""
        return self._state.model

    @property
    def last_split(self) -> Partition | None:
        """The last result of split(), possibly from an earlier epoch, or from before an interruption."""
        return self._state.partition

    def split(self, *, domain: Domain, certifier: Certifier, share: float = 1.0) -> Partition:
        """Certify the training images with the present weights. The result is stored, and its counts are recorded.

        share: certify only this fraction of them, those with the oldest verdicts; the others keep theirs. If there
        are no verdicts yet, all are certified.
        """
        last = self._state.partition
        with self._seconds.spent_on("certification"):
            if share == 1 or last is None or last.made_in is None:
                everyone = torch.arange(len(self.y), device=self.y.device)
                self._state.partition = self._certified(everyone, domain=domain, certifier=certifier)
            else:
                oldest = self._oldest(last.made_in, share=share)
                renewed = self._certified(oldest, domain=domain, certifier=certifier)
                self._state.partition = last.renewed(oldest, renewed)
        return self._state.partition

    def _certified(self, images: Tensor, *, domain: Domain, certifier: Certifier) -> Partition:
        """The split of images, int64 (K,). Images with a known adversarial example are not certified."""
        x, y = self.x[images], self.y[images]
        broken = self._broken(images, x, y, certifier=certifier)
        asked = (~broken).nonzero()[:, 0]
        found = partition(
            self.model, x[asked], y[asked], eps=self.eps, domain=domain, engine=certifier, clip=self._config.clip,
            on_progress=lambda done: self._on_progress("certifying", len(images) - len(asked) + done),
        )  # fmt: skip
        misclassified, verified = torch.zeros_like(broken), torch.zeros_like(broken)
        misclassified[asked], verified[asked] = found.misclassified, found.verified
        if len(asked) < len(images):
            misclassified[broken] = predictions(self.model, x[broken]) != y[broken]
        return Partition(
            misclassified, ~misclassified & ~verified, verified, found.certifier,
            made_in=torch.full_like(y, self.number, dtype=torch.int32),
        )  # fmt: skip

    def _broken(self, images: Tensor, x: Tensor, y: Tensor, *, certifier: Certifier) -> Tensor:
        """bool (K,): images with a known adversarial example, which no certifier that bounds rounding can verify."""
        examples = self._state.examples
        if examples is None or certifier != "native":
            return torch.zeros_like(images, dtype=torch.bool)
        broken = examples.breaking(self.model, images, x, y, eps=self.eps, clip=self._config.clip)
        broken[:1] = False  # certify at least one image, so that the record names the certifier
        return broken

    def _oldest(self, made_in: Tensor, *, share: float) -> Tensor:
        """The images with the oldest verdicts, int64 (K,), in ascending order; ties are broken at random.

        Not by position: a data set may be sorted by class.
        """
        count = max(1, round(share * len(made_in)))
        shuffled = torch.randperm(len(made_in), generator=self._config.generator(self.number, "rolling split", _CPU))
        by_age = made_in.cpu()[shuffled].sort(stable=True).indices
        return shuffled[by_age[:count]].sort().values.to(made_in.device)

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """The training's attack on images, with the present weights. Returns images of the shape of x."""
        with self._seconds.spent_on("attack"):
            return attack_images(
                self.model,
                x,
                y,
                attack=AtRadius(self._config.train_attack, self.eps, self._config.clip),
                generator=self._config.generator(self.number, "method attack", x.device),
            )
