"""The kernels' threads: PyTorch's, which spin while they wait, are not beside them."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from softadv.attacks import PGD, DivergencePGD, FriendlyPGD, pgd
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import build as compiled
from softadv.kernels import pgd as compiled_attack
from softadv.kernels import threads, weight_gradients
from softadv.models import conv_small
from softadv.training import loop as training
from softadv.training.loop import train_epoch
from softadv.training.state import new_state
from tests.networks import random_images

pytestmark = pytest.mark.skipif(
    not (compiled_attack.available() and weight_gradients.available()), reason="needs a C++ compiler"
)

_TASKS = Path("/proc/self/task")
needs_openmp = pytest.mark.skipif(
    not _TASKS.is_dir() or threads._openmp() is None, reason="needs Linux, and a PyTorch with OpenMP 5.0"
)


@pytest.fixture
def set_threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch):
    """By the kernel's function: PyTorch's threads and the kernel's at its last call."""
    seen = {}

    def spy(source, function, what):
        seen[function] = torch.get_num_threads(), what.network.threads
        call(source, function, what)

    call = compiled.call_kernel
    monkeypatch.setattr(compiled, "call_kernel", spy)
    return seen


def tasks():
    return {task.name for task in _TASKS.iterdir()}


def wait_until_ended(task):
    """However long a thread takes on a busy machine; a test that does not end says that it never does."""
    while task in tasks():
        time.sleep(0.01)


def attack(model):
    x, y = random_images((1, 8, 8), 40, seed=1, classes=10)
    compiled_attack.climb(model, x.float(), y, x.float(), eps=0.1, alpha=0.02, steps=2)


def update(model):
    x, y = random_images((1, 8, 8), 40, seed=1, classes=10)
    weight_gradients.gradients(model, x.float(), y)


@needs_openmp
@pytest.mark.parametrize("kernel", [attack, update])
def test_pytorchs_waiting_threads_end_before_a_kernel_runs(kernel, set_threads):
    set_threads(2)
    threads.end_spinning()
    before = tasks()
    numbers = torch.zeros(200_000).add_(1)
    (waiting,) = tasks() - before
    kernel(small())
    wait_until_ended(waiting)
    assert torch.get_num_threads() == 2
    assert torch.equal(numbers.add_(1), torch.full((200_000,), 2.0))  # PyTorch starts its threads again


def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))


_FORKED = """
import os, sys, torch
from softadv.kernels import pgd
from tests.kernels.test_threads import attack, small
torch.set_num_threads(2)
torch.zeros(200_000).add_(1)
child = os.fork()
if not child:
    torch.set_num_threads(int(sys.argv[1]))
    attack(small())
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_openmp
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(count):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", _FORKED, count], env=environment, start_new_session=True) as process:
        try:
            assert process.wait(600) == 7
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)


def epoch_of(model, x, y, **settings):
    """Train an epoch in batches of 16; returns the weights."""
    spec = {key: settings.pop(key) for key in ("method", "optimizer") if key in settings}
    trial = Trial(
        setting="threads", dataset="digits", eps=0.1, alpha=0.02, steps=2, epochs=2, seed=0, batch_size=16,
        **({"method": "adversarial"} | spec),
    )  # fmt: skip
    config = replace(train_config(trial), **settings)
    train_epoch(new_state(model, config), x, y, config=config, epoch=1, on_progress=lambda *_: None)
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("settings", "pytorchs"),
    [
        ({}, {"climb": 1, "differentiate": 1}),
        ({"method": "natural"}, {"differentiate": 1}),
        ({"method": "fat"}, {"climb": 1, "differentiate": 1}),
        ({"method": "trades"}, {"climb": 1, "differentiate": 1}),
        # The order of a norm's sum depends on PyTorch's threads.
        ({"clip_gradients": 1.0}, {"climb": 1, "differentiate": 3}),
    ],
    ids=str,
)
def test_in_an_epoch_of_the_kernels_the_threads_are_theirs(settings, pytorchs, digits, set_threads, calls):
    set_threads(3)
    epoch_of(conv_small("digits", seed=0), digits.train_x[:32], digits.train_y[:32], **settings)
    assert {function: seen for function, (seen, _) in calls.items()} == pytorchs
    assert {kernels for _, kernels in calls.values()} == {3}
    assert torch.get_num_threads() == 3


ATTACKS = {
    "pgd": partial(pgd, steps=1),
    "PGD": partial(PGD(steps=1), generator=None),
    "FriendlyPGD": partial(FriendlyPGD(steps=1), generator=None),
    "DivergencePGD": partial(DivergencePGD(steps=1), generator=None),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_beside_an_attack_by_the_kernel_pytorch_has_one_thread(attack, set_threads, calls):
    set_threads(3)
    x, y = random_images((1, 8, 8), 5, seed=1, classes=10)
    attack(small(), x.float(), y, eps=0.1)
    assert calls == {"climb": (1, 3)}
    assert torch.get_num_threads() == 3


class Looked(nn.Identity):
    """Notes how many threads PyTorch has whenever a batch goes through; no kernel looks into it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if len(x) > 1:  # the first image alone is a check
            self.seen.append(torch.get_num_threads())
        return x


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_by_pytorch_has_all_of_its_threads(attack, set_threads):
    looked = Looked()
    set_threads(3)
    x, y = random_images((1, 8, 8), 5, seed=1, classes=10)
    attack(nn.Sequential(looked, small()), x.float(), y, eps=0.1)
    assert set(looked.seen) == {3}


def test_the_scores_of_trades_have_all_of_pytorchs_threads(set_threads):
    """They have other bits with another number of threads."""
    looked = Looked()
    set_threads(3)
    x, y = random_images((1, 8, 8), 5, seed=1, classes=10)
    with threads.of_their_own():
        DivergencePGD(steps=0)(nn.Sequential(looked, small()), x.float(), y, eps=0.1, generator=None)
        assert torch.get_num_threads() == 1
    assert set(looked.seen) == {3}


def test_a_model_that_pytorch_has_to_train_keeps_its_threads(digits, set_threads):
    looked = Looked()
    set_threads(3)
    epoch_of(nn.Sequential(looked, conv_small("digits", seed=0)), digits.train_x[:32], digits.train_y[:32])
    assert set(looked.seen) == {3}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_pytorchs_threads_change_no_bit_of_such_an_epoch(optimizer, set_threads, monkeypatch):
    x, y = random_images((1, 28, 28), 64, seed=2, classes=10)  # weights and batches of more than 32,768 numbers
    set_threads(3)
    one = epoch_of(conv_small("mnist", seed=0), x.float(), y, optimizer=optimizer, batch_size=64)
    monkeypatch.setattr(training.threads, "of_their_own", nullcontext)
    several = epoch_of(conv_small("mnist", seed=0), x.float(), y, optimizer=optimizer, batch_size=64)
    assert all(map(torch.equal, one, several))


def test_without_an_openmp_library_the_kernels_run(monkeypatch, set_threads):
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    set_threads(2)
    x, y = random_images((1, 8, 8), 5, seed=1, classes=10)
    assert pgd(small(), x.float(), y, eps=0.1, steps=1).shape == x.shape
