"""Seeds side by side: each learns what it would learn alone."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.attacks import PGD
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels.cuda_graphs import Replays
from softadv.models import conv_small
from softadv.training.evaluation import natural_accuracy
from softadv.training.loop import train_epoch
from softadv.training.partition import Partition
from softadv.training.stacked import Stack, Team, can_be_stacked, draws
from softadv.training.state import new_state
from tests.kernels.test_cuda_graphs import Repeater
from tests.training.test_loop import Questions

TRIAL = Trial(
    setting="tests", dataset="digits", method="soft", seed=0, eps=0.02, alpha=0.01, steps=3, epochs=6, batch_size=40
)
SEEDS = (0, 5, 7)


EPOCHS = range(1, 6)


def quiet(_what, _done):
    pass


@pytest.fixture(scope="module")
def images(digits):
    return digits.train_x[:210], digits.train_y[:210]  # the last batch of an epoch is smaller


@pytest.fixture(scope="module")
def together(images):
    """States and records of the seeds trained side by side, by a method. Shared: tests must not change them."""
    return cache(lambda method: side_by_side(replace(TRIAL, method=method), images, EPOCHS))


def started(trial):
    """The state of each seed at the start, and its config."""
    configs = [train_config(replace(trial, seed=seed)) for seed in SEEDS]
    models = [conv_small("digits", seed=seed, normalize=trial.normalize) for seed in SEEDS]
    return [new_state(model, config) for model, config in zip(models, configs, strict=True)], configs


def alone(trial, images, epochs):
    states, configs = started(trial)
    trained = [
        [train_epoch(one, *images, config=config, epoch=e, on_progress=quiet) for e in epochs]
        for one, config in zip(states, configs, strict=True)
    ]
    return states, trained


def side_by_side(trial, images, epochs, *, states=None, replays=None):
    states = states or started(trial)[0]
    team = Team(states, started(trial)[1], replays=replays)
    told = [quiet] * len(SEEDS)
    trained = [team.train_epoch(*images, epoch=e, on_progress=told) for e in epochs]
    return states, [list(of_member) for of_member in zip(*trained, strict=True)]


def assert_alike(found, expected, **tolerances):
    for ours, theirs in zip(found, expected, strict=True):
        for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerances)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_stack_computes_what_its_models_do(images, normalize):
    models = [conv_small("digits", seed=seed, normalize=normalize) for seed in SEEDS]
    x = torch.stack([images[0][i : i + 4] for i in range(3)])
    stack = Stack(models)
    expected = torch.cat([model(part) for model, part in zip(models, x, strict=True)])
    torch.testing.assert_close(stack(x.flatten(0, 1)), expected)
    assert [p.shape for p in stack.parameters()] == [(3, *p.shape) for p in models[0].parameters()]


@pytest.mark.parametrize("method", ["natural", "adversarial"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_after_one_step_each_member_is_where_it_would_be_alone(images, method, optimizer):
    # Adam's first step is along the sign of the gradient, and the sign of a rounding error is nobody's.
    trial = replace(TRIAL, method=method, optimizer=optimizer, batch_size=210, lr=0.1 if optimizer == "sgd" else 1e-3)
    found, trained = side_by_side(trial, images, [1])
    expected, by_one = alone(trial, images, [1])
    if optimizer == "sgd":
        assert_alike(found, expected, rtol=0, atol=1e-5)
    else:
        moments = [
            [state.optimizer.state[p]["exp_avg"] for state in states for p in state.model.parameters()]
            for states in (found, expected)
        ]
        torch.testing.assert_close(*moments, rtol=0, atol=1e-5)
    for ours, theirs in zip(trained, by_one, strict=True):
        assert ours[0].loss == pytest.approx(theirs[0].loss, abs=1e-5)


def test_each_seed_draws_and_attacks_its_own(images, monkeypatch):
    """The attack sees the same images, labels and starts as one by one, whatever is padded to the largest count."""
    seen = {"alone": [], "together": []}
    climb = PGD.climb

    def noted(where):
        def look(attack, model, x, y, point, *, eps):
            parts = (x, y, point)
            if isinstance(model, Stack):
                for place in range(model.size):
                    seen[where].append(tuple(part.view(model.size, -1, *part.shape[1:])[place] for part in parts))
            else:
                seen[where].append(parts)
            return climb(attack, model, *(part.clone() for part in parts), eps=eps)

        return look

    trial = replace(TRIAL, natural_epochs=4, batch_size=210, lr=2e-3)
    trained, _ = alone(trial, images, range(1, 5))
    twins, _ = alone(trial, images, range(1, 5))
    monkeypatch.setattr(PGD, "climb", noted("together"))
    side_by_side(trial, images, [5], states=trained)
    monkeypatch.setattr(PGD, "climb", noted("alone"))
    for twin, config in zip(twins, started(trial)[1], strict=True):
        train_epoch(twin, *images, config=config, epoch=5, on_progress=quiet)
    assert len(seen["alone"]) == len(seen["together"]) == len(SEEDS)
    counts = set()
    for ours, theirs in zip(seen["together"], seen["alone"], strict=True):
        counts.add(len(theirs[0]))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a[: len(b)], b)
    assert len(counts) > 1  # the seeds' counts differ, and were padded
    assert max(counts) < 210


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
def test_after_some_epochs_accuracies_are_as_alone(images, together, digits, method):
    found, trained = together(method)
    expected, by_one = alone(replace(TRIAL, method=method), images, EPOCHS)
    test = digits.test_x, digits.test_y
    for ours, theirs in zip(found, expected, strict=True):
        accuracy = natural_accuracy(theirs.model, *test)
        assert accuracy > 0.4
        assert natural_accuracy(ours.model, *test) == pytest.approx(accuracy, abs=0.03)
        if method == "soft":
            shares = [float(one.partition.verified.double().mean()) for one in (ours, theirs)]
            assert shares[0] == pytest.approx(shares[1], abs=0.05)
            assert shares[1] > 0
    for ours, theirs in zip(trained, by_one, strict=True):
        assert [e.loss for e in ours] == pytest.approx([e.loss for e in theirs], abs=0.03)


@pytest.mark.parametrize("method", ["adversarial", "soft"])
def test_recorded_steps_of_a_stack_are_plain_ones(images, together, method):
    recorder = Repeater()
    found, _ = side_by_side(replace(TRIAL, method=method), images, EPOCHS, replays=Replays(recorder))
    expected, _ = together(method)
    assert_alike(found, expected, rtol=0, atol=0)
    assert recorder.repeated > 0


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
def test_the_device_is_asked_nothing_between_the_first_step_and_the_last(images, method):
    trial = replace(TRIAL, method=method, optimizer="sgd", split_every=5)
    states, configs = started(trial)
    for state in states:
        some = torch.arange(210) % (3 + len(states)) == 0
        state.partition = Partition(~some, torch.zeros_like(some), some)
    asked = []

    def progress(what, done):
        asked.append(len(questions.asked))

    team = Team(states, configs)
    with Questions() as questions:
        team.train_epoch(*images, epoch=2, on_progress=[progress] * len(SEEDS))
    assert len(asked) == 6 * len(SEEDS)
    assert len(set(asked)) == 1


def test_members_can_part_and_meet_again(images):
    """The optimizers' states are handed back: a team goes on as one that was never parted, and so does each alone."""
    trial = replace(TRIAL, method="adversarial", batch_size=210)
    whole, _ = side_by_side(trial, images, [1, 2, 3])
    parted, _ = side_by_side(trial, images, [1])
    side_by_side(trial, images, [2, 3], states=parted)
    assert_alike(parted, whole, rtol=0, atol=0)
    for state in parted:
        steps = {int(entry["step"]) for entry in state.optimizer.state.values()}
        assert steps == {3}
        entries = state.optimizer.state_dict()["state"]
        assert all(entries[i]["exp_avg"].shape == p.shape for i, p in enumerate(state.model.parameters()))


def test_a_team_shares_its_seconds(images):
    _, trained = side_by_side(TRIAL, images, [1])
    seconds = [of_member[0].seconds for of_member in trained]
    assert len({(s.attack, s.update) for s in seconds}) == 1
    assert all(s.attack > 0 and s.update > 0 and s.certification > 0 for s in seconds)


@pytest.mark.parametrize(
    ("change", "can"),
    [
        ({}, True),
        ({"method": "adversarial", "update": "two-pass"}, True),
        ({"update": "two-pass"}, False),  # each seed has other numbers of clean and attacked batches
        ({"attack": "torchattacks:PGD"}, False),
        ({"dataset": "cifar10", "augment": "crop-flip"}, False),
        ({"method": "fat(tau=1)"}, False),  # its images stop one by one
        ({"method": "trades(beta=6)"}, False),
        ({"method": "random"}, True),
        ({"clip_gradients": 1.0}, False),  # of one member, not of all
        ({"validation_images": 10, "patience": 2}, False),  # one may stop before another
    ],
)
def test_what_can_be_stacked(change, can):
    assert can_be_stacked(train_config(replace(TRIAL, **change))) == can


class Does(nn.Module):
    """Does what it is told, after what it is given; what: (x, whether in training mode) -> x."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x, self.training)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm2d(1), False),
        (Does(lambda x, training: F.dropout(x, 0.1, training)), True),
        (Does(lambda x, training: x + torch.randn_like(x) if training else x), True),
        (Does(lambda x, training: x if training else x + 0.1 * torch.randn_like(x)), True),
        (Does(lambda x, training: x.mul_(0.5)), False),
    ],
)
def test_models_that_draw_random_numbers_are_told_from_others(layer, expected):
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(4, 2)), torch.rand(2, 1, 2, 2)
    before = [value.clone() for value in (x, torch.get_rng_state(), *model.state_dict().values())]
    assert draws(model, x) == expected
    assert model.training
    assert all(map(torch.equal, before, (x, torch.get_rng_state(), *model.state_dict().values())))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_frozen_weights_stay_as_they_are(images, optimizer):
    trial = replace(TRIAL, method="natural", optimizer=optimizer, weight_decay=0.1, batch_size=210, lr=0.01)
    configs = started(trial)[1]
    models = [conv_small("digits", seed=seed) for seed in SEEDS]
    for model in models:
        model[0].requires_grad_(False)
    before = [[value.clone() for value in model.state_dict().values()] for model in models]
    states = [new_state(model, config) for model, config in zip(models, configs, strict=True)]
    side_by_side(trial, images, [1, 2], states=states)
    for model, values in zip(models, before, strict=True):
        same = [torch.equal(now, was) for now, was in zip(model.state_dict().values(), values, strict=True)]
        assert same == [True, True, False, False, False, False, False, False]
