"""Recorded attacks and updates: on a CPU a stand-in repeats them as a CUDA graph would, on the same memory."""

import copy
import logging
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from softadv._io import tensors_sha256
from softadv.attacks import PGD
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import pgd as compiled_attack
from softadv.kernels.cuda_graphs import WARM_UP, Replays, bucket
from softadv.models import conv_small
from softadv.training import loop as training
from softadv.training.checkpoint import load_checkpoint, save_checkpoint
from softadv.training.loop import train_epoch
from softadv.training.stacked import Stack, Team
from softadv.training.state import new_state

TRIAL = Trial(
    setting="tests", dataset="digits", method="soft", seed=3, eps=0.02, alpha=0.01, steps=3, epochs=5, batch_size=40
)
CPU = torch.device("cpu")


class Repeater:
    """Repeats a function on the tensors it was recorded with, and returns it in memory that each repetition reuses."""

    def __init__(self):
        self.warmed_up = self.recorded = self.repeated = 0

    def warm_up(self, run):
        self.warmed_up += 1
        return run()

    def record(self, run):
        self.recorded += 1
        kept = []

        def replay():
            self.repeated += 1
            found = run()
            if not kept:
                kept.append(torch.empty_like(found))
            return kept[0].copy_(found)

        return replay


class Refuser(Repeater):
    """A device that records nothing."""

    def record(self, run):
        super().record(run)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


def trained(trial, images, *, recorder=None, epochs=TRIAL.epochs):
    config = train_config(trial)
    state = new_state(conv_small("digits", seed=trial.seed), config)
    state.replays = Replays(recorder)
    losses = [
        train_epoch(state, *images, config=config, epoch=epoch, on_progress=lambda *_: None).loss
        for epoch in range(1, epochs + 1)
    ]
    return state, losses


@pytest.fixture(scope="module")
def images(digits):
    return digits.train_x[:210], digits.train_y[:210]  # the last batch of an epoch is smaller


@pytest.mark.skipif(not compiled_attack.available(), reason="PyTorch's sums depend on how many images there are")
@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
@pytest.mark.parametrize("update", ["mixed", "two-pass"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_recorded_epochs_are_plain_ones_bit_for_bit(images, method, update, optimizer):
    trial = replace(TRIAL, method=method, update=update, optimizer=optimizer, lr={"adam": 1e-3, "sgd": 0.05}[optimizer])
    recorder = Repeater()
    recorded, losses = trained(trial, images, recorder=recorder)
    plain, expected = trained(trial, images)
    assert losses == expected
    assert tensors_sha256(recorded.model.state_dict()) == tensors_sha256(plain.model.state_dict())
    assert recorder.repeated > 0
    if method == "soft":
        assert 0 < int(recorded.partition.verified.sum()) < len(images[0])


def test_soft_training_records_few_shapes_whatever_the_counts_of_attacked_images(images):
    recorder = Repeater()
    attack = PGD(alpha=0.02, steps=1)
    model, replays = conv_small("digits", seed=0), Replays(recorder)
    x, y = images[0][:40], images[1][:40]
    rows = set()

    def climb(x, y, point):
        rows.add(len(x))
        return attack.climb(model, x, y, point, eps=0.05)

    for _ in range(WARM_UP + 2):
        for count in range(1, 41):
            found = replays.run("climb", climb, x[:count], y[:count], x[:count], rows=bucket(count, most=40))
            assert found.shape == x[:count].shape
    assert rows == {16, 32, 40}
    assert recorder.recorded == 3


def test_buckets_hold_what_is_asked_for_and_little_more():
    for most in (1, 10, 32, 100, 128):
        for count in range(1, most + 1):
            assert count <= bucket(count, most=most) <= min(most, count + 15)
    assert len({bucket(count, most=128) for count in range(1, 129)}) == 8


def test_what_else_is_in_the_memory_changes_no_image():
    replays = Replays(Repeater())
    for count in (5, 3, 1, 4, 2, 6, 1):
        x = torch.rand(count, 2)
        found = replays.run("twice", lambda x: 2 * x, x, rows=8)
        assert torch.equal(found, 2 * x)


def test_inputs_that_the_function_overwrites_are_left_as_they_were():
    replays = Replays(Repeater())
    for _ in range(WARM_UP + 2):
        x = torch.rand(3)
        before = x.clone()
        assert torch.equal(replays.run("in place", lambda x: x.add_(1), x), before + 1)
        assert torch.equal(x, before)


def test_each_shape_and_key_is_warmed_up_and_then_recorded_once():
    recorder = Repeater()
    replays = Replays(recorder)
    for calls in range(1, WARM_UP + 4):
        for size in (2, 3):
            replays.run("a", torch.neg, torch.rand(size))
        replays.run("b", torch.neg, torch.rand(2))
        assert recorder.warmed_up == 3 * min(calls, WARM_UP)
        assert recorder.recorded == (3 if calls > WARM_UP else 0)
    replays.forget()
    replays.run("a", torch.neg, torch.rand(2))
    assert recorder.warmed_up == 3 * WARM_UP + 1


def test_where_recording_is_refused_training_goes_on_without_and_says_so_once(images, caplog):
    trial = replace(TRIAL, method="adversarial")
    recorder = Refuser()
    with caplog.at_level(logging.WARNING):
        refused, losses = trained(trial, images, recorder=recorder)
    plain, expected = trained(trial, images)
    assert losses == expected
    assert tensors_sha256(refused.model.state_dict()) == tensors_sha256(plain.model.state_dict())
    assert recorder.recorded == 1
    (record,) = caplog.records
    assert "CUDA graphs are not used" in record.message
    assert "operation not permitted when stream is capturing" in record.message


def test_an_error_of_the_work_itself_is_not_taken_for_a_refusal():
    def broken(x):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Replays(Repeater()).run("broken", broken, torch.rand(2))


def test_a_copied_state_repeats_nothing_of_the_first(images):
    trial = replace(TRIAL, method="adversarial")
    state, _ = trained(trial, images, recorder=Repeater())
    before = tensors_sha256(state.model.state_dict())
    twin = copy.deepcopy(state)
    train_epoch(twin, *images, config=train_config(trial), epoch=6, on_progress=lambda *_: None)
    assert tensors_sha256(state.model.state_dict()) == before
    assert tensors_sha256(twin.model.state_dict()) != before


def test_a_restored_state_records_anew(images, tmp_path):
    recorder = Repeater()
    state, _ = trained(TRIAL, images, recorder=recorder)
    save_checkpoint(tmp_path / "checkpoint", state, epoch=5, about={})
    warmed_up = recorder.warmed_up
    load_checkpoint(tmp_path / "checkpoint", state, device=CPU)
    state.replays.run("update", torch.neg, torch.rand(2))
    assert recorder.warmed_up == warmed_up + 1


@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_recorded_asks_the_device_for_no_value(normalize):
    """Tensors on PyTorch's "meta" device have none to give: whoever asks for one gets an error."""
    model = conv_small("digits", normalize=normalize).to("meta")
    config = train_config(replace(TRIAL, optimizer="sgd"))  # Adam takes no tensors of that device
    state = new_state(model, config)
    x, y = torch.empty(40, 1, 28, 28, device="meta"), torch.empty(40, dtype=torch.int64, device="meta")
    for made in (model, Stack([model, model])):  # by hand, and by autograd
        assert config.attack.climb(made, x, y, x.clone(), eps=TRIAL.eps).shape == x.shape
    for _ in range(2):
        assert training._update(state, config, x, x, y, loss_of=None).shape == ()
    team = Team([state, state], [config, config])
    pair = torch.stack([x, x]), torch.stack([y, y])
    assert team._update(*pair).shape == (2,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        int(y.min())


class FakeStream:
    """Notes who waits for whom."""

    def __init__(self, device=None, *, name="side", events=None):
        self.name, self.events = name, FakeStream.events if events is None else events

    def wait_stream(self, other):
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def fake_cuda(monkeypatch):
    """PyTorch's interface to a GPU, as a list of what it is asked for; its streams and its graph."""
    events = []
    current = [FakeStream(name="main", events=events)]

    @contextmanager
    def stream(wanted):
        current.append(wanted)
        yield
        current.pop()

    @contextmanager
    def graph(_graph, *, stream):
        events.append(f"capture on {stream.name}")
        yield
        events.append("captured")

    class Graph:
        def replay(self):
            events.append(f"replay on {current[-1].name}")

    monkeypatch.setattr(FakeStream, "events", events, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: current[-1])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return events, current


def test_work_is_warmed_up_and_captured_on_one_stream_and_replayed_on_the_callers(fake_cuda):
    events, current = fake_cuda
    replays = Replays.on(torch.device("cuda"))

    def work(x):
        events.append(f"work on {current[-1].name}")
        return x + 1

    for _ in range(WARM_UP + 2):
        replays.run("work", work, torch.zeros(2))
    warm_up = ["side waits for main", "work on side", "main waits for side"]
    captured = ["capture on side", "work on side", "captured"]
    assert events == warm_up * WARM_UP + captured + ["replay on main"] * 2


def test_the_warning_of_an_optimizer_that_is_not_yet_recorded_is_not_shown(fake_cuda):
    def warn(x):
        warnings.warn("This instance was constructed with capturable=True or so", stacklevel=1)
        warnings.warn("another", stacklevel=1)
        return x

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        Replays.on(torch.device("cuda")).run("warn", warn, torch.zeros(2))
    assert [str(warning.message) for warning in shown] == ["another"]
