"""One epoch of training; the methods differ in whom they attack, with what, and what they minimise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._modes import eval_mode, in_eval_mode, training_mode
from softadv.attacks import PGD, Attack
from softadv.errors import DivergedError, NotFiniteError, SoftadvError
from softadv.kernels import weight_gradients
from softadv.kernels.cuda_graphs import bucket
from softadv.training.batches import attacked_in, augmented, plan_epoch
from softadv.training.config import TrainConfig
from softadv.training.divergence import divergence
from softadv.training.epoch_start import EpochStart
from softadv.training.known_broken import Examples
from softadv.training.methods import Loss
from softadv.training.precision import rounding_to_tf32
from softadv.training.schedules import learning_rate
from softadv.training.state import TrainState
from softadv.training.timing import Seconds

_CPU = torch.device("cpu")

# Told what is running and how many images of the epoch it has done.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch reports: the mean loss of the images as trained, how many were attacked, and its seconds."""

    loss: float
    attacked: int
    seconds: Seconds


def train_epoch(
    state: TrainState, x: Tensor, y: Tensor, *, config: TrainConfig, epoch: int, on_progress: Progress
) -> TrainedEpoch:
    """Train on every image once, and attack those that the method says.

    Section 4 of the paper: in soft training, the images that the certifier verified with the weights at the start of
    the epoch are trained as they are; misclassified and unverified ones are attacked. Every random choice is drawn
    from the seed and the epoch's number, so that an epoch comes out the same whether or not the run was interrupted
    before it.

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the model's device. epoch: from 1.
    The model is certified and attacked in eval mode, updated in training mode, and left in the mode it was in.
    Within the epoch there is no host-device synchronisation, but for what the method itself asks.
    Raises DivergedError where a loss or a weight is NaN or infinite; the state is of no use then. Raises SoftadvError
    where the method returns no mask.
    """
    seconds = Seconds(x.device)
    x = augmented(config, epoch, x)
    attacked = images_to_attack(state, x, y, config=config, epoch=epoch, seconds=seconds, on_progress=on_progress)
    examples = _examples(state, x, config=config)
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
        with rounding_to_tf32(config.tf32), training_mode(state.model), drawing(config, epoch, x.device):
            for step in plan:
                clean, labels = x[step.images], y[step.images]
                inputs = clean if loss_of is None else clean.clone()
                if len(step.attacked):
                    with seconds.spent_on("attack"):
                        chosen, theirs = clean[step.attacked], labels[step.attacked]
                        found = attack(state.model, chosen, theirs, generator=starts)
                        inputs[step.attacked] = found
                        if examples is not None:
                            examples.keep(step.images[step.attacked], chosen, found)
                with seconds.spent_on("update"):
                    loss = _update(state, config, clean, inputs, labels, loss_of=loss_of)
                    total += loss * len(inputs)
                losses.append(loss)
                done += len(inputs)
                on_progress("training", done)
    except NotFiniteError as error:  # such as an attack's that gets NaN for a gradient: why comes first
        raise diverged() or error from None
    seconds.settle()
    if (failed := diverged()) is not None:
        raise failed
    return TrainedEpoch(float(total) / len(x), attacked_in(plan), seconds)


def _examples(state: TrainState, x: Tensor, *, config: TrainConfig) -> Examples | None:
    """Where an epoch keeps its adversarial examples for the next one, empty; None where they are of no use."""
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
    seconds: Seconds,
    on_progress: Progress,
) -> Tensor:
    """Whom an epoch attacks, bool (N,): nobody in natural epochs, then whom the method says."""
    if epoch <= config.natural_epochs:
        return torch.zeros_like(y, dtype=torch.bool)
    start = EpochStart(state, x, y, config=config, number=epoch, seconds=seconds, on_progress=on_progress)
    with eval_mode(state.model):
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
    """The attack on a state's model in eval mode, at a radius, for `most` images at once, or fewer.

    On a GPU it is recorded where it can be. Returns a function (model, x, y, *, generator) -> images.
    """
    if type(attack) is not PGD:
        return in_eval_mode(partial(attack, eps=eps))
    climb = partial(attack.climb, state.model, eps=eps)

    def replay(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        assert model is state.model
        start = attack.start(x, eps=eps, generator=generator)
        return state.replays.run((attack, eps, tf32), climb, x, y, start, rows=bucket(len(x), most=most))

    return replay


@contextmanager
def drawing(config: TrainConfig, epoch: int, device: torch.device) -> Iterator[None]:
    """Let layers that draw random numbers, such as a dropout, draw those of the training's own seed and this epoch.

    They draw from PyTorch's global generators, which are put back afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.generator(epoch, "layers", _CPU).initial_seed())
        yield


def _scalar(loss: Tensor, config: TrainConfig) -> Tensor:
    """A method's loss. Raises SoftadvError where it is no number that can be differentiated."""
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad:
        return loss
    found = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise SoftadvError(
        f"method {type(config.method).__name__}: loss() must return a tensor () that depends on the model, got {found}"
    )


def _update(
    state: TrainState, config: TrainConfig, clean: Tensor, inputs: Tensor, labels: Tensor, *, loss_of: Loss | None
) -> Tensor:
    """One step of the optimizer; the mean loss before it. loss_of: the method's own; None is the cross-entropy."""

    def update(inputs: Tensor, labels: Tensor, *clean: Tensor) -> Tensor:
        weight = config.method.divergence_weight
        loss = _compiled(state.model, inputs, labels, clean[0] if clean else None, divergence_weight=weight)
        if loss is None:
            # Gradients are made anew: those of a recorded update lie in the memory of its recording.
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
    """The loss, and the gradients of the weights, by the compiled kernel; None where it has to be autograd.

    clean: the images before the attack, where the loss is the method's own; None is the cross-entropy.
    divergence_weight: of a loss that is TRADES'; None is another.
    """
    if clean is None:
        return weight_gradients.gradients(model, inputs, labels)
    if divergence_weight is None:
        return None
    return weight_gradients.trades_gradients(model, clean, inputs, labels, weight=divergence_weight)
