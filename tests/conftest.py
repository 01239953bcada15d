"""What many tests need: the digits, a network trained on them, and the real data where they are."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from softadv import data, models
from softadv.attacks.base import attacks
from softadv.data import Dataset, find_dataset, load_dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.models import conv_small
from softadv.training.loop import train_epoch
from softadv.training.methods import methods
from softadv.training.state import new_state

pytest_plugins = ("tests.skips",)

# For the tests that load onnxruntime themselves: it is to report nothing from here either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The tests' networks are small: a second thread gains little, and loses much on a busy machine. Unless it is asked for.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# What the tests say depends on the code alone: not on how busy the machine is, nor on which examples are drawn
# (--hypothesis-profile=default draws others in every run). A GPU's machine may lack the library.
with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "alike", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("alike")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What only some machines can do, or takes long."""
    parser.addoption(
        "--container", action="store_true", help="build the image for a CPU, and run it (tests/container; minutes)"
    )
    parser.addoption("--long", action="store_true", help="run what is marked as long, too (minutes)")


def pytest_configure(config: pytest.Config) -> None:
    """Have one worker build the image, from the start."""
    if config.getoption("--container") and config.getoption("dist") != "no":
        config.option.dist, config.option.loadscopereorder = "loadfile", False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked as long, and begin with the container, since other workers can do the rest meanwhile."""
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if config.getoption("--container"):
        items.sort(key=lambda item: "container" not in item.path.parts)


@pytest.fixture(autouse=True)
def _alike_in_any_order() -> None:
    """PyTorch's own generator starts each test alike, whichever tests ran before it in this process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled dataset: 1,437 training and 360 test images."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def trained_digits(digits: Dataset) -> nn.Sequential:
    """The paper's network after four epochs of adversarial training. Shared: tests must not change it."""
    trial = Trial(
        setting="tests",
        dataset="digits",
        method="adversarial",
        seed=0,
        eps=0.1,
        alpha=0.03,
        steps=5,
        epochs=4,
        batch_size=32,
    )
    config = train_config(trial)
    model = conv_small("digits", seed=0)
    state = new_state(model, config)
    for epoch in range(1, trial.epochs + 1):
        train_epoch(
            state,
            digits.train_x,
            digits.train_y,
            config=config,
            epoch=epoch,
            on_progress=lambda _what, _done: None,
        )
    model.zero_grad()
    return model


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real MNIST and CIFAR-10; tests that ask for it are skipped where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("SOFTADV_DATA") or beside)
    if not all(find_dataset(name, root) == root for name in ("mnist", "cifar10")):
        pytest.skip(f"needs the real MNIST and CIFAR-10, in SOFTADV_DATA or {beside}")
    return root


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes out again what a test registers: the registries are the whole process's, so the next test's, too."""
    for registry in (data.registry, models.registry, methods, attacks):
        monkeypatch.setattr(registry, "_found", dict(registry._found))


@pytest.fixture
def generator() -> torch.Generator:
    """A generator that starts each test alike."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny grid's folder, run through the command line. Shared: tests change copies of it."""
    from tests.cli.command import run
    from tests.experiments.test_grid import TINY

    root = tmp_path_factory.mktemp("reference")
    (root / "tiny.toml").write_text(TINY)
    assert run("reproduce", str(root / "tiny.toml"), "--out", str(root / "tiny"), "--device", "cpu") == 0
    return root / "tiny"


@pytest.fixture
def reference(tiny: Path, tmp_path: Path) -> Path:
    """The folder of references, with the tiny grid's in it."""
    from softadv.experiments.reference import REFERENCE
    from softadv.experiments.store_reference import keep

    keep(tiny, reference=tmp_path / "expected" / REFERENCE, allow_dirty=True)
    return tmp_path / "expected" / REFERENCE
