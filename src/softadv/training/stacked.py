"""Several learners that differ in nothing but their seed, trained side by side as one model.

One of the paper's networks does not fill a GPU. Stacked, their parameters have one more dimension in front, and each
kernel computes for all of them. Nothing passes from one to another: the loss that is differentiated is the sum of their
losses, and Adam and SGD change each number by its own gradient, so that each learns what it would learn alone, up to
the order of summation within products.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv.attacks.pgd import Pgd
from softadv.errors import DivergedError, NotFiniteError
from softadv.experiments.spec import Trial
from softadv.kernels.cuda_graphs import Replays, bucket
from softadv.training.divergence import divergence
from softadv.training.loop import (
    Learner,
    Progress,
    Seconds,
    Step,
    TrainedEpoch,
    generator_for,
    new_optimizer,
    plan_epoch,
    rounding_to_tf32,
    split_if_due,
)


class Stack(nn.Module):
    """S models of one architecture as one, with copies of their parameters along a new first dimension."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size = len(models)
        # In a tuple, so that its parameters are not the stack's; they are replaced whenever it is called.
        self._form = (copy.deepcopy(models[0]).to("meta"),)
        parameters, buffers = torch.func.stack_module_state(list(models))
        # A name with a dot would be that of a layer's parameter.
        for name, value in parameters.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value.detach()))
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


def can_be_stacked(trial: Trial) -> bool:
    """Whether trials that differ from this one in nothing but the seed can be trained side by side.

    Their steps must be as many and as large, their images the same, and the attack softadv's own.
    """
    alike = trial.update == "mixed" or trial.method != "soft"
    return alike and trial.augment == "none" and trial.attack == "pgd"


class MembersDivergedError(NotFiniteError):
    """Learners of a team have diverged; none of the team has been changed."""

    def __init__(self, errors: Mapping[int, DivergedError]) -> None:
        """errors: by the learner's place in the team."""
        super().__init__("; ".join(str(error) for error in errors.values()))
        self.errors = dict(errors)


class Team:
    """Learners at the end of the same epoch, of trials that differ in nothing but the seed, as one stack."""

    def __init__(self, learners: Sequence[Learner], trials: Sequence[Trial], *, replays: Replays | None = None) -> None:
        """learners, trials: in the same order, one or more. replays: None is the device's."""
        self._learners, self._trials = tuple(learners), tuple(trials)
        self._stack = Stack([learner.model for learner in learners])
        own = list(self._stack.parameters())
        self._optimizer = new_optimizer(own, trials[0])
        self._replays = Replays.on(own[0].device) if replays is None else replays
        for parameter, theirs in self._parameters():
            states = [learner.optimizer.state.get(p, {}) for learner, p in zip(learners, theirs, strict=True)]
            # The number of steps is one number, and the same for all.
            self._optimizer.state[parameter] = {
                key: value.clone() if value.ndim == 0 else torch.stack([state[key] for state in states])
                for key, value in states[0].items()
            }

    def train_epoch(
        self, x: Tensor, y: Tensor, *, epoch: int, attack: Pgd, on_progress: Sequence[Progress]
    ) -> list[TrainedEpoch]:
        """Train every learner on every image once, as training.train_epoch does one by one.

        x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the learners' device. on_progress: one for each learner.
        Each learner's random numbers are those it would draw alone. Learners, optimizers and partitions are left as
        after an epoch alone. An epoch's seconds of attack and update are a learner's share of the whole.
        Raises MembersDivergedError where a learner's loss or weights are NaN or infinite: then no learner is changed.
        """
        trials, learners = self._trials, self._learners
        alone = [Seconds(x.device) for _ in trials]
        for place, (learner, trial, seconds, told) in enumerate(zip(learners, trials, alone, on_progress, strict=True)):
            try:
                split_if_due(learner, x, y, trial=trial, epoch=epoch, seconds=seconds, on_progress=told)
            except NotFiniteError as error:
                raise MembersDivergedError({place: DivergedError(str(error), epoch=epoch)}) from error
        members = list(zip(trials, learners, strict=True))
        plans = [plan_epoch(trial, epoch, learner.partition, y) for trial, learner in members]
        starts = [generator_for(trial, epoch, "attack", x.device) for trial in trials]
        together = Seconds(x.device)
        totals = torch.zeros(len(trials), device=x.device)
        losses: list[Tensor] = []
        done = 0
        with rounding_to_tf32(trials[0].tf32):
            for steps in zip(*plans, strict=True):
                images = torch.stack([step.images for step in steps])
                inputs, labels = x[images], y[images]
                if any(len(step.attacked) for step in steps):
                    with together.spent_on("attack"):
                        self._attack(attack, inputs, labels, steps, starts)
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
            TrainedEpoch(total / len(x), _share(seconds, together, of=len(trials)))
            for total, seconds in zip(totals.tolist(), alone, strict=True)
        ]

    def _attack(
        self, attack: Pgd, inputs: Tensor, labels: Tensor, steps: Sequence[Step], starts: Sequence[torch.Generator]
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
            point[place, :count] = attack.start(x[place, :count], generator=generator)

        def climb(x: Tensor, y: Tensor, point: Tensor) -> Tensor:
            return attack.climb(self._stack, x, y, point)

        flat = (x.flatten(0, 1), y.flatten(), point.flatten(0, 1))
        found = self._replays.run(attack, climb, *flat).view_as(x)
        for place, step in enumerate(steps):
            inputs[place, step.attacked] = found[place, : len(step.attacked)]

    def _update(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step of every learner; the mean loss of each before it, (S,)."""

        def update(inputs: Tensor, labels: Tensor) -> Tensor:
            self._optimizer.zero_grad(set_to_none=True)
            losses = F.cross_entropy(self._stack(inputs), labels, reduction="none")
            means = losses.view(self._stack.size, -1).mean(1)
            means.sum().backward()
            self._optimizer.step()
            return means.detach()

        return self._replays.run("update", update, inputs.flatten(0, 1), labels.flatten())

    def _check(self, losses: Tensor, totals: Tensor, *, epoch: int) -> None:
        """Raise MembersDivergedError for learners that an epoch led to NaN or infinity. losses: (steps, S)."""
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
        """Put every learner to where it would be alone."""
        for parameter, theirs in self._parameters():
            state = self._optimizer.state[parameter]
            for place, (learner, own) in enumerate(zip(self._learners, theirs, strict=True)):
                own.copy_(parameter[place])
                learner.optimizer.state[own] = {
                    key: (value if value.ndim == 0 else value[place]).clone() for key, value in state.items()
                }
        for buffer, of_learners in self._buffers():
            for place, own_buffer in enumerate(of_learners):
                own_buffer.copy_(buffer[place])

    def _parameters(self) -> Iterator[tuple[nn.Parameter, tuple[nn.Parameter, ...]]]:
        """Each of the stack's parameters, and the learners' of which it is made."""
        theirs = zip(*(learner.model.parameters() for learner in self._learners), strict=True)
        return zip(self._stack.parameters(), theirs, strict=True)

    def _buffers(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Each of the stack's buffers, and the learners' of which it is made."""
        theirs = zip(*(learner.model.buffers() for learner in self._learners), strict=True)
        return zip(self._stack.buffers(), theirs, strict=True)


def _share(alone: Seconds, together: Seconds, *, of: int) -> Seconds:
    return Seconds(
        alone.device,
        attack=together.attack / of,
        certification=alone.certification,
        update=together.update / of,
    )
