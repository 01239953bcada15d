"""Several trainings that differ only in their seed, trained side by side as one stacked model.

One of the paper's networks does not fill a GPU. In a stack, the parameters have an extra first dimension, and each
kernel computes all members. Members stay independent: the loss is the sum of their losses, and Adam and SGD update each
number by its own gradient. So each member learns what it would learn alone, up to the order of summation within
products.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv.attacks import PGD
from softadv.errors import DivergedError, NotFiniteError
from softadv.kernels.cuda_graphs import Replays, bucket
from softadv.training.batches import Batch, attacked_in, plan_epoch
from softadv.training.config import TrainConfig
from softadv.training.divergence import divergence
from softadv.training.loop import (
    Progress,
    TrainedEpoch,
    drawing,
    images_to_attack,
    set_learning_rate,
)
from softadv.training.methods import Adversarial, Natural
from softadv.training.schedules import learning_rate
from softadv.training.state import TrainState, new_optimizer
from softadv.training.timing import EpochSeconds


class Stack(nn.Module):
    """S models of one architecture as one, with copies of their parameters along a new first dimension."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size = len(models)
        # In a tuple, so that its parameters are not registered as the stack's; each call substitutes them.
        self._form = (copy.deepcopy(models[0]).to("meta"),)
        parameters, buffers = torch.func.stack_module_state(list(models))
        # PyTorch forbids dots in the names of parameters.
        for name, value in parameters.items():
            self.register_parameter(
                name.replace(".", "/"), nn.Parameter(value.detach(), requires_grad=value.requires_grad)
            )
        for name, value in buffers.items():
            self.register_buffer(name.replace(".", "/"), value)

    def forward(self, x: Tensor) -> Tensor:
        """x: (S * N, C, H, W), the images of the first model, then those of the second, … Returns (S * N, classes)."""
        named = (*self.named_parameters(), *self.named_buffers())
        state = {name.replace("/", "."): value for name, value in named}
        form = self._form[0].train(self.training)

        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(form, state, (x,))
            return logits

        return torch.func.vmap(one, randomness="different")(state, x.unflatten(0, (self.size, -1))).flatten(0, 1)


def can_be_stacked(config: TrainConfig) -> bool:
    """Whether trainings that differ from this one only in the seed can be stacked.

    They need equal numbers and sizes of steps, the same images, PGD as attack, and the cross-entropy as loss.
    """
    method = config.method
    alike = config.update == "mixed" or isinstance(method, Natural | Adversarial)
    plain = type(config.train_attack) is PGD and method.loss is None and config.clip_gradients is None
    return alike and plain and config.augment == "none" and config.patience is None


def draws(model: nn.Module, x: Tensor) -> bool:
    """Whether a model draws random numbers in either mode, such as a dropout's, which would differ in a stack.

    x: (N, C, H, W), two images or more, on the model's device. Told by PyTorch's global generators, which it leaves as
    they were; numbers of a generator of the model's own, or of NumPy's, are not noticed.
    """
    twin = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        before = _generators(x.device)
        for training in (True, False):
            twin.train(training)(x.clone())
        return not torch.equal(_generators(x.device), before)


def _generators(device: torch.device) -> Tensor:
    """The state of PyTorch's global generators, that of the CPU and of the device."""
    states = [torch.get_rng_state()]
    return torch.cat([*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states)


class MembersDivergedError(NotFiniteError):
    """Members of a team have diverged; none of the team has been changed."""

    def __init__(self, errors: Mapping[int, DivergedError]) -> None:
        """errors: by the member's place in the team."""
        super().__init__("; ".join(str(error) for error in errors.values()))
        self.errors = dict(errors)


class Team:
    """Trainings that differ only in the seed, all at the end of the same epoch, as one stack."""

    def __init__(
        self, states: Sequence[TrainState], configs: Sequence[TrainConfig], *, replays: Replays | None = None
    ) -> None:
        """states, configs: in the same order, one or more. replays: None is the device's."""
        self._states, self._configs = tuple(states), tuple(configs)
        self._stack = Stack([state.model for state in states])
        own = list(self._stack.parameters())
        self._optimizer = new_optimizer(own, configs[0])
        self._replays = Replays.on(own[0].device) if replays is None else replays
        for parameter, theirs in self._parameters():
            found = [state.optimizer.state.get(p, {}) for state, p in zip(states, theirs, strict=True)]
            # The number of steps is one number, and the same for all.
            self._optimizer.state[parameter] = {
                key: value.clone() if value.ndim == 0 else torch.stack([state[key] for state in found])
                for key, value in found[0].items()
            }

    def train_epoch(self, x: Tensor, y: Tensor, *, epoch: int, on_progress: Sequence[Progress]) -> list[TrainedEpoch]:
        """Train every member on every image once, as loop.train_epoch does one by one.

        x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the members' device. on_progress: one for each of them.
        Each member draws the random numbers it would draw alone. Models, optimizers and partitions end as after an
        epoch alone. Recorded seconds of attack and update are a member's share of the stack's.
        Raises MembersDivergedError where a member's loss or weights are NaN or infinite; then no member is changed.
        """
        states, configs = self._states, self._configs
        alone = [EpochSeconds(x.device) for _ in states]
        attacked = []
        for place, (state, config, seconds, told) in enumerate(zip(states, configs, alone, on_progress, strict=True)):
            try:
                attacked.append(
                    images_to_attack(state, x, y, config=config, epoch=epoch, seconds=seconds, on_progress=told)
                )
            except NotFiniteError as error:
                raise MembersDivergedError({place: DivergedError(str(error), epoch=epoch)}) from error
        plans = [plan_epoch(config, epoch, mask, y.device) for config, mask in zip(configs, attacked, strict=True)]
        starts = [config.generator(epoch, "attack", x.device) for config in configs]
        attack, eps = configs[0].train_attack, configs[0].radius(epoch)
        assert type(attack) is PGD
        set_learning_rate(self._optimizer, learning_rate(configs[0], epoch))
        together = EpochSeconds(x.device)
        totals = torch.zeros(len(states), device=x.device)
        losses: list[Tensor] = []
        done = 0
        with float32_products(tf32=configs[0].tf32), drawing(configs[0], epoch, x.device):
            for steps in zip(*plans, strict=True):
                images = torch.stack([step.images for step in steps])
                inputs, labels = x[images], y[images]
                if any(len(step.attacked) for step in steps):
                    with together.spent_on("attack"):
                        self._attack(attack, inputs, labels, steps, starts=starts, eps=eps)
                with together.spent_on("update"):
                    loss = self._update(inputs, labels)
                    totals += loss * images.shape[1]
                losses.append(loss)
                done += images.shape[1]
                for told in on_progress:
                    told("training", done)
        self._check(torch.stack(losses), totals, epoch=epoch)
        self._hand_back()
        for seconds in (*alone, together):
            seconds.settle()
        return [
            TrainedEpoch(total / len(x), attacked_in(plan), _share(seconds, together, of=len(states)))
            for total, plan, seconds in zip(totals.tolist(), plans, alone, strict=True)
        ]

    def _attack(
        self,
        attack: PGD,
        inputs: Tensor,
        labels: Tensor,
        steps: Sequence[Batch],
        *,
        starts: Sequence[torch.Generator],
        eps: float,
    ) -> None:
        """Replace the images that are to be attacked; inputs: (S, B, C, H, W)."""
        rows = bucket(max(len(step.attacked) for step in steps), most=inputs.shape[1])
        size, image = len(steps), inputs.shape[2:]
        x, point = (inputs.new_zeros(size, rows, *image) for _ in range(2))
        y = labels.new_zeros(size, rows)
        for place, (step, generator) in enumerate(zip(steps, starts, strict=True)):
            count = len(step.attacked)
            x[place, :count] = inputs[place, step.attacked]
            y[place, :count] = labels[place, step.attacked]
            point[place, :count] = attack.start(x[place, :count], eps=eps, generator=generator)

        def climb(x: Tensor, y: Tensor, point: Tensor) -> Tensor:
            return attack.climb(self._stack, x, y, point, eps=eps)

        flat = (x.flatten(0, 1), y.flatten(), point.flatten(0, 1))
        found = self._replays.run((attack, eps), climb, *flat).view_as(x)
        for place, step in enumerate(steps):
            inputs[place, step.attacked] = found[place, : len(step.attacked)]

    def _update(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step of every member; the mean loss of each before it, (S,)."""

        def update(inputs: Tensor, labels: Tensor) -> Tensor:
            self._optimizer.zero_grad(set_to_none=True)
            losses = F.cross_entropy(self._stack(inputs), labels, reduction="none")
            means = losses.view(self._stack.size, -1).mean(1)
            means.sum().backward()
            self._optimizer.step()
            return means.detach()

        return self._replays.run("update", update, inputs.flatten(0, 1), labels.flatten())

    def _check(self, losses: Tensor, totals: Tensor, *, epoch: int) -> None:
        """Raise MembersDivergedError for members that an epoch led to NaN or infinity. losses: (steps, S)."""
        errors = {}
        state = self._stack.state_dict()
        for place, total in enumerate(totals):
            own = {name.replace("/", "."): value[place] for name, value in state.items()}
            error = divergence(losses[:, place], total, own, epoch=epoch, steps=len(losses))
            if error is not None:
                errors[place] = error
        if errors:
            raise MembersDivergedError(errors)

    @torch.no_grad()
    def _hand_back(self) -> None:
        """Copy the stack's weights and optimizer state back to the members."""
        for parameter, theirs in self._parameters():
            state = self._optimizer.state[parameter]
            for place, (member, own) in enumerate(zip(self._states, theirs, strict=True)):
                own.copy_(parameter[place])
                member.optimizer.state[own] = {
                    key: (value if value.ndim == 0 else value[place]).clone() for key, value in state.items()
                }
        for buffer, of_members in self._buffers():
            for place, own_buffer in enumerate(of_members):
                own_buffer.copy_(buffer[place])

    def _parameters(self) -> Iterator[tuple[nn.Parameter, tuple[nn.Parameter, ...]]]:
        """Each of the stack's parameters, with the members' parameters that it stacks."""
        theirs = zip(*(state.model.parameters() for state in self._states), strict=True)
        return zip(self._stack.parameters(), theirs, strict=True)

    def _buffers(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Each of the stack's buffers, with the members' buffers that it stacks."""
        theirs = zip(*(state.model.buffers() for state in self._states), strict=True)
        return zip(self._stack.buffers(), theirs, strict=True)


def _share(alone: EpochSeconds, together: EpochSeconds, *, of: int) -> EpochSeconds:
    return EpochSeconds(
        alone.device,
        attack=together.attack / of,
        certification=alone.certification,
        update=together.update / of,
    )
