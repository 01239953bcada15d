"""The experiments for reviewers, with what they took, as docs/reviewers.md and the README show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MACHINE = "two idle cores of an AMD EPYC, 2026-11-27"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A command for reviewers. time: by the clock on MACHINE, if it does not say otherwise. memory: at most."""

    command: str
    shows: str
    time: str
    memory: str
    disk: str


EXPERIMENTS = (
    Experiment(
        command="./reproduce.sh",
        shows="training, attack and certifier work, and give the stored accuracies",
        time="40 s",
        memory="1.1 GiB",
        disk="12 MB",
    ),
    Experiment(
        command="./reproduce.sh mnist --data DIR --from-weights",
        shows="the stored MNIST weights have the stored accuracies",
        time="13 s",
        memory="1.1 GiB",
        disk="2 MB",
    ),
    Experiment(
        command=".venv/bin/softadv report expected_results/reference/mnist --out page",
        shows="the verdicts on claims 2, 4-mnist and 9 follow from the records",
        time="3 s",
        memory="0.7 GiB",
        disk="1 MB",
    ),
    Experiment(
        command="./reproduce.sh mnist --data DIR --seeds 1 --methods adversarial",
        shows="a seed, trained again, meets its record",
        time="12 min",
        memory="1.5 GiB",
        disk="3 MB",
    ),
    Experiment(
        command="./reproduce.sh paper-short --data DIR --seeds 3",
        shows="claims 3, 4, 5, 8 and 10 after 6 epochs",
        time="41 min, as two processes of one thread each (2026-11-23)",
        memory="not measured",
        disk="52 MB in 18 trials",
    ),
    Experiment(
        command="./reproduce.sh mnist --data DIR",
        shows="claims 2, 4-mnist and 9",
        time="15 trials",
        memory="not measured",
        disk="30 MB",
    ),
    Experiment(
        command="./reproduce.sh cifar10 --data DIR",
        shows="claims 3, 4, 5, 6, 8 and 10",
        time="75 trials",
        memory="not measured",
        disk="210 MB",
    ),
    Experiment(
        command="./reproduce.sh test",
        shows="every test but the image's: over 6,500",
        time="13 to 15 min",
        memory="not measured",
        disk="not measured",
    ),
)
_IN_README = 4  # those that take minutes


def experiments() -> str:
    """All of them, E1 and so on."""
    rows = [
        (f"E{number}", f"`{it.command}`", it.shows, it.time, it.memory, it.disk)
        for number, it in enumerate(EXPERIMENTS, start=1)
    ]
    return _table(("", "type", "it shows", "time", "memory", "disk"), rows)


def in_readme() -> str:
    """The first ones."""
    rows = [(f"`{it.command}`", it.shows, it.time, it.memory, it.disk) for it in EXPERIMENTS[:_IN_README]]
    return _table(("type", "it shows that", "time", "memory", "disk"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)
