"""One training loop; the three methods differ only in which images are attacked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.attacks import Attack, make_attack
from softadv.partition import Partition, partition
from softadv.spec import Trial

# Told what is running and how many images of the epoch it has done.
Progress = Callable[[str, int], None]


@dataclass
class Learner:
    """What an epoch changes: the weights, the optimizer's state and the partition in force."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    partition: Partition | None = None


@dataclass
class Seconds:
    """Wall-clock seconds of an epoch by what they were spent on."""

    device: torch.device
    attack: float = 0.0
    certification: float = 0.0
    update: float = 0.0
    _started: float = field(default=0.0, repr=False)

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Add the time of a block to the field of this name."""
        started = self._now()
        yield
        setattr(self, what, getattr(self, what) + self._now() - started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch reports: the mean loss over the images as they were trained, and its seconds."""

    loss: float
    seconds: Seconds


def new_learner(model: nn.Module, trial: Trial) -> Learner:
    """A learner at the start of training, with the trial's optimizer."""
    if trial.optimizer == "adam":
        return Learner(model, torch.optim.Adam(model.parameters(), lr=trial.lr))
    return Learner(model, torch.optim.SGD(model.parameters(), lr=trial.lr, momentum=trial.momentum))


def train_epoch(
    learner: Learner, x: Tensor, y: Tensor, *, trial: Trial, epoch: int, attack: Attack, on_progress: Progress
) -> TrainedEpoch:
    """Train on every image once, and attack those that the trial's method says.

    Section 4 of the paper: in soft training, the images that the certifier verified with the weights
    at the start of the epoch are trained as they are; misclassified and unverified ones are attacked.
    Every random choice is drawn from the trial's seed and the epoch's number, so that an epoch comes
    out the same whether or not the run was interrupted before it.

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the model's device. epoch: from 1.
    """
    seconds = Seconds(x.device)
    if trial.augment == "crop-flip":
        x = _crop_and_flip(x, generator=generator_for(trial, epoch, "augmentation", torch.device("cpu")))
    if _splits(trial, epoch):
        with seconds.spent_on("certification"):
            learner.partition = partition(
                learner.model,
                x,
                y,
                eps=trial.eps,
                domain=trial.domain,
                engine=trial.certifier,
                on_progress=lambda done: on_progress("certifying", done),
            )
    attacked = images_to_attack(trial, epoch, learner.partition, y)
    order = generator_for(trial, epoch, "order", torch.device("cpu"))
    starts = generator_for(trial, epoch, "attack", x.device)
    total = torch.zeros((), device=x.device)
    done = 0
    for indices in _batches(trial, attacked.cpu(), generator=order):
        batch = indices.to(x.device)
        inputs, labels, hit = x[batch], y[batch], attacked[batch]
        if hit.any():
            with seconds.spent_on("attack"):
                inputs[hit] = attack(learner.model, inputs[hit], labels[hit], generator=starts)
        with seconds.spent_on("update"):
            learner.optimizer.zero_grad()
            loss = F.cross_entropy(learner.model(inputs), labels)
            loss.backward()
            learner.optimizer.step()
            total += loss.detach() * len(batch)
        done += len(batch)
        on_progress("training", done)
    return TrainedEpoch(float(total) / len(x), seconds)


def _splits(trial: Trial, epoch: int) -> bool:
    """Whether the training set is certified before this epoch."""
    since = epoch - 1 - trial.natural_epochs
    return trial.method == "soft" and since >= 0 and since % trial.split_every == 0


def images_to_attack(trial: Trial, epoch: int, split: Partition | None, y: Tensor) -> Tensor:
    """Which training images an epoch attacks, bool (N,): all that sets the methods apart."""
    if trial.method == "natural" or epoch <= trial.natural_epochs:
        return torch.zeros_like(y, dtype=torch.bool)
    if trial.method == "adversarial":
        return torch.ones_like(y, dtype=torch.bool)
    assert split is not None  # soft training splits in its first epoch that is not natural
    return split.attacked


def attack_of(trial: Trial) -> Attack:
    """The attack that a trial trains against and is evaluated with. Raises SoftadvError for an unknown name."""
    return make_attack(
        trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start
    )


def generator_for(trial: Trial, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
    """A generator that depends on the trial's seed, the epoch and the purpose, and on nothing else."""
    digest = hashlib.sha256(f"{trial.seed} {epoch} {purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def _batches(trial: Trial, attacked: Tensor, *, generator: torch.Generator) -> Iterator[Tensor]:
    """The indices of each step's images: shuffled, or first all clean ones and then all attacked ones."""
    order = torch.randperm(len(attacked), generator=generator)
    passes = [order] if trial.update == "mixed" else [order[~attacked[order]], order[attacked[order]]]
    for indices in passes:
        # An empty tensor splits into one empty batch, which would be a step on nothing.
        yield from (batch for batch in indices.split(trial.batch_size) if len(batch))


def _crop_and_flip(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Pad by 4 pixels, crop at random, flip half of the images: once an epoch, before the split."""
    n, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = torch.randint(9, (2, n), generator=generator).to(x.device)
    flip = torch.randint(2, (n,), generator=generator).to(x.device).bool()
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = (left[:, None] + torch.where(flip[:, None], columns.flip(1), columns))[:, None, None, :]
    images = torch.arange(n, device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[images, channels, rows, columns]
