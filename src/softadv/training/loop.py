"""One training loop; the three methods differ only in which images are attacked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._modes import in_eval_mode, training_mode
from softadv.attacks.pgd import Attack, Pgd, is_linf, make_attack
from softadv.errors import DivergedError, NotFiniteError, SoftadvError
from softadv.experiments.spec import Trial
from softadv.kernels import pgd as compiled_attack
from softadv.kernels import weight_gradients as compiled_update
from softadv.kernels.cuda_graphs import Replays, bucket
from softadv.training.divergence import divergence
from softadv.training.partition import Partition, partition

# Told what is running and how many images of the epoch it has done.
Progress = Callable[[str, int], None]


@dataclass
class Learner:
    """What an epoch changes: the weights, the optimizer's state and the partition in force."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    partition: Partition | None = None
    replays: Replays = field(default_factory=Replays)  # of attacks and updates, on a GPU


@dataclass
class Seconds:
    """Seconds of an epoch by what they were spent on, which hold once the epoch is over."""

    device: torch.device
    attack: float = 0.0
    certification: float = 0.0
    update: float = 0.0
    _spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list, repr=False)

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Add the time of a block to the field of this name: of the clock, or of a GPU that does the block's work."""
        if self.device.type == "cuda":
            span = (what, self._now(), torch.cuda.Event(enable_timing=True))
            yield
            span[2].record(torch.cuda.current_stream(self.device))
            self._spans.append(span)
        else:
            started = time.perf_counter()
            yield
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)

    def settle(self) -> None:
        """Wait for the GPU and add up what it measured: the one time in an epoch that it is waited for."""
        for what, started, ended in self._spans:
            ended.synchronize()
            setattr(self, what, getattr(self, what) + started.elapsed_time(ended) / 1000)
        self._spans.clear()

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


@dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch reports: the mean loss over the images as they were trained, and its seconds."""

    loss: float
    seconds: Seconds


@dataclass(frozen=True)
class Step:
    """The images of one step: int64 (B,), by their place in the training set; the attacked ones, (K,), by theirs here.

    Whoever knows their numbers need not ask the device for them.
    """

    images: Tensor
    attacked: Tensor


def new_learner(model: nn.Module, trial: Trial) -> Learner:
    """A learner at the start of training, with the trial's optimizer, on the device where the model is."""
    device = next(model.parameters()).device
    if device.type == "cpu":  # the kernels are compiled before any clock runs
        compiled_attack.available()
        compiled_update.available()
    return Learner(model, new_optimizer(list(model.parameters()), trial), replays=Replays.on(device))


def new_optimizer(parameters: list[nn.Parameter], trial: Trial) -> torch.optim.Optimizer:
    """The trial's optimizer; on a GPU one whose steps can be recorded, on a CPU one that changes all in one go."""
    if trial.optimizer == "adam":
        # On a CPU the fused step goes through memory, and minds no strides.
        in_order = all(parameter.device.type == "cpu" and parameter.is_contiguous() for parameter in parameters)
        return torch.optim.Adam(
            parameters, lr=trial.lr, capturable=parameters[0].is_cuda, fused=True if in_order else None
        )
    return torch.optim.SGD(parameters, lr=trial.lr, momentum=trial.momentum)


def train_epoch(
    learner: Learner, x: Tensor, y: Tensor, *, trial: Trial, epoch: int, attack: Attack, on_progress: Progress
) -> TrainedEpoch:
    """Train on every image once, and attack those that the trial's method says.

    Section 4 of the paper: in soft training, the images that the certifier verified with the weights
    at the start of the epoch are trained as they are; misclassified and unverified ones are attacked.
    Every random choice is drawn from the trial's seed and the epoch's number, so that an epoch comes
    out the same whether or not the run was interrupted before it.

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the model's device. epoch: from 1.
    The model is certified and attacked in eval mode, updated in training mode, and left in the mode it was in.
    The device is told what to do and asked nothing until the epoch ends, so that it never waits for the next order.
    Raises DivergedError where a loss or a weight is NaN or infinite; the learner is of no use then.
    """
    seconds = Seconds(x.device)
    if trial.augment == "crop-flip":
        x = _crop_and_flip(x, generator=generator_for(trial, epoch, "augmentation", torch.device("cpu")))
    split_if_due(learner, x, y, trial=trial, epoch=epoch, seconds=seconds, on_progress=on_progress)
    starts = generator_for(trial, epoch, "attack", x.device)
    attack = replayed(attack, learner, most=trial.batch_size, tf32=trial.tf32)
    total = torch.zeros((), device=x.device)
    losses: list[Tensor] = []
    plan = plan_epoch(trial, epoch, learner.partition, y)
    done = 0

    def diverged() -> DivergedError | None:
        of_steps = torch.stack(losses) if losses else total.new_zeros(0)
        return divergence(of_steps, total, learner.model.state_dict(), epoch=epoch, steps=len(plan))

    try:
        with rounding_to_tf32(trial.tf32), training_mode(learner.model):
            for step in plan:
                inputs, labels = x[step.images], y[step.images]
                if len(step.attacked):
                    with seconds.spent_on("attack"):
                        chosen, theirs = inputs[step.attacked], labels[step.attacked]
                        inputs[step.attacked] = attack(learner.model, chosen, theirs, generator=starts)
                with seconds.spent_on("update"):
                    loss = _update(learner, trial, inputs, labels)
                    total += loss * len(inputs)
                losses.append(loss)
                done += len(inputs)
                on_progress("training", done)
    except NotFiniteError as error:  # such as an attack's that gets NaN for a gradient: why comes first
        raise diverged() or error from None
    seconds.settle()
    if (failed := diverged()) is not None:
        raise failed
    return TrainedEpoch(float(total) / len(x), seconds)


def split_if_due(
    learner: Learner, x: Tensor, y: Tensor, *, trial: Trial, epoch: int, seconds: Seconds, on_progress: Progress
) -> None:
    """Certify the training set with the present weights, where the trial says so before this epoch."""
    if not _splits(trial, epoch):
        return
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


@contextmanager
def rounding_to_tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 for a while, or forbid it."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def replayed(attack: Attack, learner: Learner, *, most: int, tf32: bool = False) -> Attack:
    """The same attack on a learner's model in eval mode, for `most` images at once, or fewer.

    On a GPU it is recorded where it can be.
    """
    if not isinstance(attack, Pgd):
        return in_eval_mode(attack)
    climb = partial(attack.climb, learner.model)

    def replay(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        assert model is learner.model
        start = attack.start(x, generator=generator)
        return learner.replays.run((attack, tf32), climb, x, y, start, rows=bucket(len(x), most=most))

    return replay


def _update(learner: Learner, trial: Trial, inputs: Tensor, labels: Tensor) -> Tensor:
    """One step of the optimizer; the mean loss before it."""

    def update(inputs: Tensor, labels: Tensor) -> Tensor:
        loss = compiled_update.gradients(learner.model, inputs, labels)
        if loss is None:
            # Gradients are made anew: those of a recorded update lie in the memory of its recording.
            learner.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(learner.model(inputs), labels)
            loss.backward()
        learner.optimizer.step()
        return loss.detach()

    return learner.replays.run(("update", trial.tf32), update, inputs, labels)


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
    """The attack that a trial trains against and is evaluated with.

    Raises SoftadvError for an unknown name, and for an attack of another norm than the split's, unless the trial's
    attack_norm is "any".
    """
    attack = make_attack(
        trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start
    )
    if trial.attack_norm == "linf" and not is_linf(trial.attack):
        raise SoftadvError(
            f"attack: {trial.attack} is not known to attack in the L-infinity norm, in which images are certified; "
            'attack_norm = "any" trains with it all the same'
        )
    return attack


def generator_for(trial: Trial, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
    """A generator that depends on the trial's seed, the epoch and the purpose, and on nothing else."""
    digest = hashlib.sha256(f"{trial.seed} {epoch} {purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def plan_epoch(trial: Trial, epoch: int, split: Partition | None, y: Tensor) -> list[Step]:
    """An epoch's steps, on the device of the labels: decided here, and sent there at once."""
    attacked = images_to_attack(trial, epoch, split, y).cpu()
    order = generator_for(trial, epoch, "order", torch.device("cpu"))
    batches = _batches(trial, attacked, generator=order)
    places = [attacked[images].nonzero()[:, 0] for images in batches]
    return [Step(*of_step) for of_step in zip(_sent(batches, y.device), _sent(places, y.device), strict=True)]


def _sent(parts: list[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Tensors to a device, in one copy."""
    return torch.split(torch.cat(parts).to(device), [len(part) for part in parts])


def _batches(trial: Trial, attacked: Tensor, *, generator: torch.Generator) -> list[Tensor]:
    """The indices of each step's images: shuffled, or first all clean ones and then all attacked ones."""
    order = torch.randperm(len(attacked), generator=generator)
    passes = [order] if trial.update == "mixed" else [order[~attacked[order]], order[attacked[order]]]
    # An empty tensor splits into one empty batch, which would be a step on nothing.
    return [batch for indices in passes for batch in indices.split(trial.batch_size) if len(batch)]


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
