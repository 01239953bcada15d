"""The pieces of benchmarks.gpu: each is called in a process of its own with the device, the folder and the data."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.attack import SETTINGS, compare_attacks
from benchmarks.measure import print_machine
from softadv import PGD, Certificates, certify, load_dataset
from softadv.data import Dataset
from softadv.experiments.environment import pick_device
from softadv.experiments.expected import expected_folder
from softadv.experiments.load_model import find_saved
from softadv.kernels.cuda_graphs import Replays
from softadv.kernels.input_gradients import input_gradient
from softadv.training.config import TrainConfig
from softadv.training.loop import train_epoch
from softadv.training.methods import Adversarial, Method, Soft
from softadv.training.stacked import Team
from softadv.training.state import TrainState, new_state

# Of each network: a model that adversarial training made, whose images are partly verified.
WEIGHTS = {
    "mnist": "reference/mnist/weights/mnist-eps0.1-soft-seed0.safetensors",
    "cifar10": "reference/paper-short/weights/cifar10-eps8-short-soft-seed0.safetensors",
}
RADII = {"mnist": 0.1, "cifar10": 2 / 255}
STACKED = 5  # seeds side by side; in a rehearsal two
AS_IT_IS, SIDE_BY_SIDE, PLAIN = "as it is", "seeds side by side, each", "without CUDA graphs"
WAYS = (AS_IT_IS, SIDE_BY_SIDE, PLAIN)


def tests(device: str, out: Path, data: Path | None) -> None:
    """The CUDA tests; in a rehearsal the CPU takes the GPU's part."""
    rehearsed = {} if device == "cuda" else {"SOFTADV_REHEARSE_CUDA": "1"}
    command = [sys.executable, "-m", "pytest", "-v", "-m", "cuda", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    raise SystemExit(subprocess.run(command, env=os.environ | rehearsed, check=False).returncode)


def attack(device: str, out: Path, data: Path | None) -> None:
    """PGD against Torchattacks' PGD, both networks, three sizes of batches: the smallest first."""
    on = pick_device(device)  # which also forbids TF32
    print_machine(on)
    for batch in (128, 512, 2048) if device == "cuda" else (128,):
        for dataset in SETTINGS:
            compare_attacks(dataset, batch=batch, device=on, rounds=9 if device == "cuda" else 1)


def certification(device: str, out: Path, data: Path | None) -> None:
    """Verdicts on training images against the CPU's; images where they differ are listed with their margins."""
    on = pick_device(device)  # which also forbids TF32
    print_machine(on)
    count = 10_000 if device == "cuda" else 100
    for dataset, eps in RADII.items():
        images = load_dataset(dataset, data).first(train=count)
        model = _trained(dataset, images)
        moved, x, y = copy.deepcopy(model).to(on), images.train_x.to(on), images.train_y.to(on)
        ask = partial(certify, moved, x, y, eps=eps, margins=False)
        (_, first), (on_device, again) = _timed(ask, on), _timed(ask, on)
        ask_cpu = partial(certify, model, eps=eps, margins=False)
        ask_cpu(images.train_x[:1], images.train_y[:1])  # compiles the kernel
        on_cpu, theirs = _timed(partial(ask_cpu, images.train_x, images.train_y), on)
        here, there = on_device.verified.cpu(), on_cpu.verified
        print(
            f"{dataset}, {count:,} training images, eps {eps:g}: {device} {count / again:,.0f} images/s "
            f"({first:.2f} s the first time, {again:.2f} s the second), the CPU {count / theirs:,.0f}; "
            f"verified {int(here.sum())} and {int(there.sum())}, {int((here != there).sum())} verdicts differ"
        )
        for place in (here != there).nonzero()[:, 0].tolist():
            one = images.train_x[place : place + 1], images.train_y[place : place + 1]
            margins = certify(moved, one[0].to(on), one[1].to(on), eps=eps).margin, certify(model, *one, eps=eps).margin
            print(f"  image {place}: margin {margins[0].item():.3e} on {device}, {margins[1].item():.3e} on the CPU")


def epochs(device: str, out: Path, data: Path | None) -> None:
    """Adversarial and soft epochs, each network, by part; ways to ask for updates and attacks, one against another."""
    on = pick_device(device)  # which also forbids TF32
    print_machine(on)
    networks = {}
    for dataset in SETTINGS:
        images = load_dataset(dataset, data).first(train=None if device == "cuda" else 256)
        images = replace(images, train_x=images.train_x.to(on), train_y=images.train_y.to(on))
        networks[dataset] = images, _trained(dataset, images).to(on)
    for how in WAYS:  # the first is what everyone uses, and there may not be time for all
        for dataset, (images, model) in networks.items():
            for method in (Adversarial(), Soft()):
                epoch = _epoch_by(how, model, images, _config(dataset, method))
                epoch()  # records, compiles
                who = f"{dataset}, {len(images.train_x):,} training images, {type(method).__name__.lower()}"
                print(f"{who}, {how}: {epoch()}", flush=True)
    if device == "cuda":
        for dataset, (images, model) in networks.items():
            _compiled_epoch(copy.deepcopy(model), images, _config(dataset, Adversarial()))


def grid(device: str, out: Path, data: Path | None) -> None:
    """The paper's grid, seed 0, as far as the time goes; then further seeds. Called again, it goes on."""
    name = "paper" if device == "cuda" else "smoke"
    for seeds in (1, 2, 5):
        command = [
            sys.executable, "-m", "softadv", "reproduce", name, "--seeds", str(seeds), "--device", device,
            "--out", str(out / f"runs-{name}"), *(["--data", str(data)] if data else []),
        ]  # fmt: skip
        print(" ".join(command[1:]), flush=True)
        code = subprocess.run(command, check=False).returncode
        print(f"exit status {code}", flush=True)


PIECES: dict[str, Callable[[str, Path, Path | None], None]] = {
    "tests": tests, "attack": attack, "certification": certification, "epochs": epochs, "grid": grid,
}  # fmt: skip


def _trained(dataset: str, images: Dataset) -> nn.Module:
    return find_saved(expected_folder() / WEIGHTS[dataset]).model(images, device=torch.device("cpu"), name="conv_small")


def _config(dataset: str, method: Method) -> TrainConfig:
    eps, alpha, steps = SETTINGS[dataset]
    return TrainConfig(method=method, attack=PGD(alpha=alpha, steps=steps), eps=eps, epochs=64)


def _timed(work: Callable[[], Certificates], device: torch.device) -> tuple[Certificates, float]:
    started = _now(device)
    found = work()
    return found, _now(device) - started


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _epoch_by(how: str, model: nn.Module, images: Dataset, config: TrainConfig) -> Callable[[], str]:
    """An epoch in one of WAYS, which says how long it took."""
    if how == SIDE_BY_SIDE:
        many = STACKED if images.train_x.is_cuda else 2
        configs = [replace(config, seed=seed) for seed in range(many)]
        states = [new_state(copy.deepcopy(model), one) for one in configs]
        return partial(_team_epoch, states, images, configs)
    state = new_state(copy.deepcopy(model), config)
    if how == PLAIN:
        state.replays = Replays()
    return partial(_epoch, state, images, config)


def _epoch(state: TrainState, images: Dataset, config: TrainConfig) -> str:
    started = time.perf_counter()
    found = train_epoch(
        state, images.train_x, images.train_y, config=config, epoch=1, on_progress=lambda what, done: None
    )
    return _parts(found.seconds, time.perf_counter() - started, found.attacked)


def _team_epoch(states: list[TrainState], images: Dataset, configs: list[TrainConfig]) -> str:
    started = time.perf_counter()
    told = [lambda what, done: None] * len(states)
    found = Team(states, configs).train_epoch(images.train_x, images.train_y, epoch=1, on_progress=told)
    return _parts(found[0].seconds, (time.perf_counter() - started) / len(states), found[0].attacked)


def _parts(seconds: object, whole: float, attacked: int) -> str:
    parts = {part: getattr(seconds, part) for part in ("attack", "certification", "update")}
    return json.dumps({"seconds": round(whole, 3), **{k: round(v, 3) for k, v in parts.items()}, "attacked": attacked})


def _compiled_epoch(model: nn.Module, images: Dataset, config: TrainConfig) -> None:
    """The same adversarial epoch by torch.compile(mode="reduce-overhead"): a step of the attack, and the loss."""
    attack, eps = config.attack, config.eps
    assert isinstance(attack, PGD)
    alpha = attack.step_size(eps)

    @torch.compile(mode="reduce-overhead")
    def step(point: Tensor, x: Tensor, y: Tensor) -> Tensor:
        moved = point + alpha * input_gradient(model)(point, y).sign()
        return moved.clamp(x - eps, x + eps).clamp(0, 1)

    loss_of = torch.compile(lambda x, y: F.cross_entropy(model(x), y), mode="reduce-overhead")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=True)
    x, y = images.train_x, images.train_y
    whole = len(x) // config.batch_size * config.batch_size  # one shape
    for round_ in range(2):
        started = _now(x.device)
        for part in torch.randperm(len(x), device=x.device)[:whole].split(config.batch_size):
            clean, labels = x[part], y[part]
            point = attack.start(clean, eps=eps, generator=None)
            for _ in range(attack.steps):
                point = step(point, clean, labels).clone()
            optimizer.zero_grad()
            loss_of(point, labels).backward()
            optimizer.step()
        seconds = _now(x.device) - started
        if round_:
            print(f"  adversarial, torch.compile (reduce-overhead): {json.dumps({'seconds': round(seconds, 3)})}")
