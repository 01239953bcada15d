"""What executors cost and gain: python -m benchmarks.executors [overhead|digits|cifar10|certify ...] [--help]

overhead  so many tiny trials on each executor: seconds, and bytes that come back after an epoch
digits    six digits trials: one process of two threads against --jobs 2 --threads 1
cifar10   an epoch of two seeds on CIFAR-10, as for digits
certify   MNIST images on one worker of one thread, and on two
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure import print_machine
from softadv._io import tensors_sha256
from softadv.certify.certifiers import CertifierSession
from softadv.certify.per_image import Question, chunk_size
from softadv.data import load_dataset
from softadv.experiments.certify_jobs import Sharded
from softadv.experiments.executors.choose import Chosen
from softadv.experiments.executors.images import ImageLoader, Source
from softadv.experiments.executors.jobs import Executor, Handle, Receive
from softadv.experiments.grid import prepare
from softadv.experiments.load_model import find_saved
from softadv.experiments.run_grid import run_grid
from softadv.experiments.spec import Grid, load_grid, parse_grid
from softadv.experiments.trial_job import Files

TINY = """
name = "overhead"
methods = ["natural"]
seeds = [0]

[[setting]]
setting = "tiny"
dataset = "digits"
eps = 0.02
alpha = 0.01
steps = 1
epochs = 1
batch_size = 32
train_images = 32
test_images = 16
"""
CPU = torch.device("cpu")


class Counting:
    """An executor that counts the bytes of files that come back, and how often they do."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.sent: list[int] = []
        self.submit, self.close = executor.submit, executor.close

    @property
    def slots(self) -> int:
        """Of the executor."""
        return self._executor.slots

    @property
    def free(self) -> int:
        """Of the executor."""
        return self._executor.free

    def deliver(self, receive: Receive) -> None:
        """Hand over, and count."""

        def counting(handle: Handle, message: object) -> None:
            if isinstance(message, Files):
                self.sent.append(sum(map(len, message.contents.values())))
            receive(handle, message)

        self._executor.deliver(counting)


@contextmanager
def opened(chosen: Chosen, images: ImageLoader) -> Iterator[tuple[Counting | None, int | None]]:
    """The executor that was chosen, counting; None in this process."""
    with chosen.opened("cpu" if chosen.elsewhere else None, images) as (executor, threads):
        yield None if executor is None else Counting(executor), threads


def run(grid: Grid, chosen: Chosen, data: Path | None = None) -> tuple[float, list[int]]:
    """Seconds of a grid from the specs to the results, workers' starts included, and bytes of what came back."""
    with TemporaryDirectory() as folder:
        prepared = prepare(
            grid, folder=Path(folder), data_root=data, device=CPU, command="",
            elsewhere="cpu" if chosen.elsewhere else None,
        )  # fmt: skip
        started = time.perf_counter()
        with opened(chosen, prepared.images) as (executor, threads):
            ran = run_grid(prepared, report=lambda *_, **__: None, executor=executor, threads=threads)
            seconds = time.perf_counter() - started
        if len(ran.finished) < len(grid.trials):
            raise SystemExit(f"not finished: {ran.failed} {ran.refused}")
        return seconds, [] if executor is None else executor.sent


def overhead(arguments: argparse.Namespace) -> None:
    """Tiny trials on each executor."""
    tiny = parse_grid(TINY, source="overhead").select(seeds=arguments.trials)
    kinds = {
        "in process": Chosen(threads=1),
        "--jobs 1": Chosen(jobs=1, threads=1),
        "--jobs 2": Chosen(jobs=2, threads=1),
    }
    if arguments.ray:
        kinds["--ray local"] = Chosen(ray="local", threads=1)
    run(tiny.select(seeds=1), Chosen(threads=1))  # kernels that are compiled first, and imports, count for nobody
    for name, chosen in kinds.items():
        seconds, sent = run(tiny, chosen)
        each = f", {sum(sent) / arguments.trials / 1e6:.2f} MB back from a trial" if sent else ""
        print(f"{arguments.trials} tiny trials, {name}: {seconds:.1f} s{each}", flush=True)


def speed_up(grid: Grid, what: str, data: Path | None = None) -> None:
    """One process of two threads against two of one."""
    alone, _ = run(grid, Chosen(threads=2), data)
    side, sent = run(grid, Chosen(jobs=2, threads=1), data)
    print(
        f"{what}: one process of two threads {alone:.1f} s, --jobs 2 --threads 1 {side:.1f} s: {alone / side:.2f} times"
    )
    print(f"{what}: {max(sent) / 1e6:.2f} MB back after an epoch at most", flush=True)


def digits(arguments: argparse.Namespace) -> None:
    """The smoke grid's six trials."""
    speed_up(load_grid("smoke").select(epochs=arguments.epochs), "six digits trials")


def cifar10(arguments: argparse.Namespace) -> None:
    """An adversarial epoch of two seeds."""
    grid = load_grid("cifar10").select(methods=["adversarial"], seeds=2, epochs=1)
    trials = [replace(trial, certified_images=16) for trial in grid.trials if trial.setting == "cifar10-eps8"]
    speed_up(replace(grid, trials=tuple(trials)), "one CIFAR-10 epoch of two seeds", arguments.data)


def certify(arguments: argparse.Namespace) -> None:
    """MNIST training images with the reference's soft weights, sound, by DeepPoly."""
    saved = find_saved(arguments.weights)
    data = load_dataset("mnist", arguments.data)
    assert saved.trial is not None
    model = saved.model(data, device=CPU)
    with CertifierSession("native") as session:
        question = Question(
            certifier=str(session.provenance(rounding="sound")),
            weights=tensors_sha256(model.state_dict()), dataset="mnist", data=data.fingerprint, split="train",
            eps=saved.trial.eps, domain="deeppoly", rounding="sound",
        )  # fmt: skip
        sharded = Sharded(
            saved=saved, model=None, certifier="native", question=question, count=arguments.images,
            source=Source("mnist", arguments.data, None, None, data.fingerprint), size=chunk_size(CPU, session),
            device="cpu",
        )  # fmt: skip
    seconds, steady = {}, {}
    for workers in (1, 2):
        with opened(Chosen(jobs=workers, threads=1), lambda _: data) as (executor, threads):
            assert executor is not None
            started = time.perf_counter()
            first = 0.0
            for rows in sharded.rows_from(0, executor=executor, threads=threads):
                first = first or time.perf_counter() - started
                assert rows
            seconds[workers] = time.perf_counter() - started
            steady[workers] = seconds[workers] - first
        print(
            f"{arguments.images} MNIST images, {workers} worker{'s' * (workers > 1)} of one thread: "
            f"{seconds[workers]:.1f} s, the first rows after {first:.1f} s", flush=True,
        )  # fmt: skip
    print(
        f"two workers: {seconds[1] / seconds[2]:.2f} times one with their start, "
        f"{steady[1] / steady[2]:.2f} times one after the first rows"
    )


BENCHMARKS: dict[str, Callable[[argparse.Namespace], None]] = {
    "overhead": overhead, "digits": digits, "cifar10": cifar10, "certify": certify,
}  # fmt: skip


def main() -> None:
    """Run the benchmarks that are named, else all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--trials", type=int, default=50, help="tiny trials (default: 50)")
    parser.add_argument("--epochs", type=int, default=6, help="of each digits trial (default: 6)")
    parser.add_argument("--images", type=int, default=20_000, help="to certify (default: 20,000)")
    parser.add_argument("--weights", type=Path, help="of an MNIST network to certify, such as the reference's")
    parser.add_argument("--data", type=Path, help="where the images are")
    parser.add_argument("--ray", action="store_true", help="the overhead of Ray, too")
    arguments = parser.parse_args()
    chosen = arguments.which or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            parser.error(f"{name}: unknown, expected of {', '.join(BENCHMARKS)}")
    if "certify" in chosen and arguments.weights is None:
        parser.error("certify: name --weights")
    print_machine(CPU)
    for name in chosen:
        BENCHMARKS[name](arguments)


if __name__ == "__main__":
    main()
