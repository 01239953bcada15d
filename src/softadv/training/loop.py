"""One epoch of training, for all methods: a method chooses which images to attack, the attack, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv._modes import eval_mode, in_eval_mode, training_mode
from softadv.attacks import PGD, Attack, DivergencePGD, FriendlyPGD
from softadv.attacks.base import attacked_copies, check_ball, extremes
from softadv.errors import DivergedError, NotFiniteError, SoftadvError
from softadv.kernels import pgd as attack_kernel
from softadv.kernels import threads, weight_gradients
from softadv.kernels.cuda_graphs import bucket
from softadv.training.batches import attacked_in, augmented, plan_epoch
from softadv.training.config import TrainConfig
from softadv.training.divergence import divergence
from softadv.training.epoch_start import EpochContext
from softadv.training.known_broken import Examples
from softadv.training.methods import Loss
from softadv.training.schedules import learning_rate
from softadv.training.state import TrainState
from softadv.training.timing import EpochSeconds

_CPU = torch.device("cpu")

# Called with the name of the running part and the number of images done.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class TrainedEpoch:
    """An epoch's result. loss: mean over the images as they were trained. attacked: how many images were attacked."""

    loss: float
    attacked: int
    seconds: EpochSeconds


def train_epoch(
    state: TrainState, x: Tensor, y: Tensor, *, config: TrainConfig, epoch: int, on_progress: Progress
) -> TrainedEpoch:
    """Train on every image once, and attack the images that the method selects.

    Section 4 of the paper: in soft training, images that the certifier verifies with the weights at the start of the
    epoch are trained clean; misclassified and unverified ones are attacked. Every random choice depends only on the
    seed, the epoch's number and its purpose, so that an interruption before the epoch changes nothing.

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the model's device. epoch: from 1.
    The model is certified and attacked in eval mode, updated in training mode, and left in the mode it was in.
    Within the epoch there is no host-device synchronisation, except in the method's own code.
    Raises DivergedError where a loss or a weight is NaN or infinite; the state is then unusable. Raises SoftadvError
    where the method returns no valid mask, and, at the end of the epoch, where the attack left its ball or config.clip.
    """
    seconds = EpochSeconds(x.device)
    x = augmented(config, epoch, x)
    attacked = images_to_attack(state, x, y, config=config, epoch=epoch, seconds=seconds, on_progress=on_progress)
    examples = _examples(state, x, config=config)
    ball = _Ball(config, config.radius(epoch))
    set_learning_rate(state.optimizer, learning_rate(config, epoch))
    starts = config.generator(epoch, "attack", x.device)
    attack = replayed(config.train_attack, state, eps=config.radius(epoch), most=config.batch_size, tf32=config.tf32)
    loss_of = config.method.loss if epoch > config.natural_epochs else None
    total = torch.zeros((), device=x.device)
    losses: list[Tensor] = []
    plan = plan_epoch(config, epoch, attacked, y.device)
    done = 0

    def diverged() -> DivergedError | None:
        of_steps = torch.stack(losses) if losses else total.new_zeros(0)
        return divergence(of_steps, total, state.model.state_dict(), epoch=epoch, steps=len(plan))

    try:
        with (
            float32_products(tf32=config.tf32),
            training_mode(state.model),
            drawing(config, epoch, x.device),
            _threads(state.model, x[:1], y[:1], config=config, loss_of=loss_of),
        ):
            for step in plan:
                clean, labels = x[step.images], y[step.images]
                inputs = clean if loss_of is None else clean.clone()
                if len(step.attacked):
                    with seconds.spent_on("attack"):
                        chosen, theirs = clean[step.attacked], labels[step.attacked]
                        found = attack(state.model, chosen, theirs, generator=starts)
                        inputs[step.attacked] = found
                        ball.add(found, chosen)
                        if examples is not None:
                            examples.keep(step.images[step.attacked], chosen, found)
                with seconds.spent_on("update"):
                    loss = _update(state, config, clean, inputs, labels, loss_of=loss_of)
                    total += loss * len(inputs)
                losses.append(loss)
                done += len(inputs)
                on_progress("training", done)
    except (
        NotFiniteError
    ) as error:  # such as an attack with NaN gradients: report the divergence behind it, if there is one
        raise diverged() or error from None
    seconds.settle()
    ball.check()
    if (failed := diverged()) is not None:
        raise failed
    return TrainedEpoch(float(total) / len(x), attacked_in(plan), seconds)


def _threads(
    model: nn.Module, x: Tensor, y: Tensor, *, config: TrainConfig, loss_of: Loss | None
) -> AbstractContextManager[None]:
    """The threads of an epoch: the kernels' where they do all of its work but small operations, else PyTorch's.

    What is left to PyTorch then treats each number by itself, so that the number of its threads changes no bit.
    """
    compiled = loss_of is None or config.method.divergence_weight is not None
    small = config.clip_gradients is None and type(config.train_attack) in (PGD, FriendlyPGD, DivergencePGD)
    kernels = compiled and small and attack_kernel.available() and weight_gradients.takes(model, x, y)
    return threads.of_their_own() if kernels else nullcontext()


class _Ball:
    """Whether an epoch's adversarial examples stay in their balls; softadv's own PGD need not be checked."""

    def __init__(self, config: TrainConfig, eps: float) -> None:
        self._attack, self._eps, self._clip = config.train_attack, eps, config.clip
        self._reached: Tensor | None = None

    def add(self, found: Tensor, x: Tensor) -> None:
        """Look at a batch, without a wait for the device. found, x: (N, C, H, W)."""
        if type(self._attack) in (PGD, FriendlyPGD, DivergencePGD):
            return
        reached = extremes(found, x)
        self._reached = reached if self._reached is None else torch.maximum(self._reached, reached)

    def check(self) -> None:
        """Raise SoftadvError where an example lies outside."""
        if self._reached is not None:
            check_ball(self._reached, attack=self._attack, eps=self._eps, clip=self._clip)


def _examples(state: TrainState, x: Tensor, *, config: TrainConfig) -> Examples | None:
    """An empty store of adversarial examples for the next epoch; None where that has no use for them."""
    if not config.keeps_examples:
        state.examples = None
    elif state.examples is None:
        state.examples = Examples(x)
    else:
        state.examples.forget()
    return state.examples


def images_to_attack(
    state: TrainState,
    x: Tensor,
    y: Tensor,
    *,
    config: TrainConfig,
    epoch: int,
    seconds: EpochSeconds,
    on_progress: Progress,
) -> Tensor:
    """The images that an epoch attacks, bool (N,): none in natural epochs, else those that the method selects."""
    if epoch <= config.natural_epochs:
        return torch.zeros_like(y, dtype=torch.bool)
    start = EpochContext(state, x, y, config=config, number=epoch, seconds=seconds, on_progress=on_progress)
    with eval_mode(state.model), float32_products():
        attacked = config.method.attacked(start)
    if not isinstance(attacked, Tensor) or attacked.dtype != torch.bool or attacked.shape != y.shape:
        found = (
            f"{attacked.dtype} of shape {tuple(attacked.shape)}"
            if isinstance(attacked, Tensor)
            else type(attacked).__name__
        )
        raise SoftadvError(
            f"method {type(config.method).__name__}: attacked() must return a bool tensor ({len(y)},), got {found}"
        )
    return attacked


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where the optimizer keeps it in a tensor that a recording reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def replayed(attack: Attack, state: TrainState, *, eps: float, most: int, tf32: bool = False) -> Callable[..., Tensor]:
    """The attack with radius eps, for batches of at most `most` images, on a state's model in eval mode.

    On a GPU it runs as a CUDA graph where possible. Returns a function (model, x, y, *, generator) -> images.
    """
    if type(attack) is not PGD:

        @in_eval_mode
        def checked(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
            return attacked_copies(attack, model, x, y, eps=eps, generator=generator)

        return checked
    climb = partial(attack.climb, state.model, eps=eps)

    def replay(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        assert model is state.model
        with attack_kernel.threads_of_attack(model, x, y):
            start = attack.start(x, eps=eps, generator=generator)
            return state.replays.run((attack, eps, tf32), climb, x, y, start, rows=bucket(len(x), most=most))

    return replay


@contextmanager
def drawing(config: TrainConfig, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators from the training's seed and epoch, for layers such as dropout.

    The generators are restored afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.generator(epoch, "layers", _CPU).initial_seed())
        yield


def _scalar(loss: Tensor, config: TrainConfig) -> Tensor:
    """A method's loss, checked. Raises SoftadvError where it is no scalar that depends on the model."""
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad:
        return loss
    found = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise SoftadvError(
        f"method {type(config.method).__name__}: loss() must return a tensor () that depends on the model, got {found}"
    )


def _update(
    state: TrainState, config: TrainConfig, clean: Tensor, inputs: Tensor, labels: Tensor, *, loss_of: Loss | None
) -> Tensor:
    """One optimizer step; returns the mean loss before it. loss_of: the method's loss; None is the cross-entropy."""

    def update(inputs: Tensor, labels: Tensor, *clean: Tensor) -> Tensor:
        weight = config.method.divergence_weight
        loss = _compiled(state.model, inputs, labels, clean[0] if clean else None, divergence_weight=weight)
        if loss is None:
            # Drop the gradients: those of a recorded update lie in the recording's memory.
            state.optimizer.zero_grad(set_to_none=True)
            if loss_of is None:
                loss = F.cross_entropy(state.model(inputs), labels)
            else:
                loss = _scalar(loss_of(state.model, clean[0], inputs, labels), config)
            loss.backward()
        if config.clip_gradients is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_gradients)
        state.optimizer.step()
        return loss.detach()

    images = (inputs, labels) if loss_of is None else (inputs, labels, clean)
    return state.replays.run(("update", config.tf32, loss_of is None), update, *images)


def _compiled(
    model: nn.Module, inputs: Tensor, labels: Tensor, clean: Tensor | None, *, divergence_weight: float | None
) -> Tensor | None:
    """The loss, and the weights' gradients, by the compiled kernel; None where autograd has to do it.

    clean: the images before the attack, if the method has its own loss; None for the cross-entropy.
    divergence_weight: TRADES' beta; None for any other loss.
    """
    if clean is None:
        return weight_gradients.gradients(model, inputs, labels)
    if divergence_weight is None:
        return None
    return weight_gradients.trades_gradients(model, clean, inputs, labels, weight=divergence_weight)
