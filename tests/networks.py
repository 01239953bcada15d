"""Small networks with random weights, for tests that must hold on any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from softadv.models import Normalize

CLASSES = 4
Shape = tuple[int, int, int]


def seeded(seed: int, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """A model with weights that depend on the seed alone; float64, scaled up so that many ReLUs are unstable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    return model.requires_grad_(False)


def with_head(shape: Shape, *body: nn.Module, hidden: int = 6) -> nn.Sequential:
    """A body on images of a shape, and two linear layers on whatever leaves it."""
    features = nn.Sequential(*body)(torch.zeros(1, *shape)).numel()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def random_images(shape: Shape, count: int, *, seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Float64 images in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


# Name to (image shape, builder): each differs from the paper's network in one way.
ARCHITECTURES: dict[str, tuple[Shape, Callable[[], nn.Sequential]]] = {
    "paper": (
        (1, 10, 10),
        lambda: with_head((1, 10, 10), nn.Conv2d(1, 3, 4, 2), nn.ReLU(), nn.Conv2d(3, 4, 3, 2), nn.ReLU()),
    ),
    "padding": (
        (1, 6, 6),
        lambda: with_head(
            (1, 6, 6), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, 2, padding=1), nn.ReLU()
        ),
    ),
    "wide padding": (
        (1, 4, 4),
        lambda: with_head(
            (1, 4, 4), nn.Conv2d(1, 2, 3, 2, padding=3), nn.ReLU(), nn.Conv2d(2, 2, 2, padding=2), nn.ReLU()
        ),
    ),
    "window in the padding": (
        (1, 4, 4),
        lambda: with_head((1, 4, 4), nn.Conv2d(1, 2, 1, 4), nn.ReLU(), nn.Conv2d(2, 2, 1, 3, padding=1), nn.ReLU()),
    ),
    "leftover rows": (
        (1, 9, 8),
        lambda: with_head((1, 9, 8), nn.Conv2d(1, 2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU()),
    ),
    "not square": (
        (1, 9, 7),
        lambda: with_head(
            (1, 9, 7),
            nn.Conv2d(1, 2, (3, 2), (2, 1), padding=(0, 1)),
            nn.ReLU(),
            nn.Conv2d(2, 3, (2, 3), (1, 2), padding=(1, 0)),
            nn.ReLU(),
        ),
    ),
    "two channels": ((2, 6, 6), lambda: with_head((2, 6, 6), nn.Conv2d(2, 3, 3, 2), nn.ReLU())),
    "many channels": (
        (1, 5, 5),
        lambda: with_head((1, 5, 5), nn.Conv2d(1, 9, 2), nn.ReLU(), nn.Conv2d(9, 2, 2, 2, padding=1), nn.ReLU()),
    ),
    "no bias": ((1, 6, 6), lambda: with_head((1, 6, 6), nn.Conv2d(1, 3, 3, bias=False), nn.ReLU())),
    "conv conv": (
        (1, 7, 7),
        lambda: with_head((1, 7, 7), nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, 2), nn.ReLU()),
    ),
    "conv conv with padding": (
        (1, 5, 5),
        lambda: with_head((1, 5, 5), nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()),
    ),
    "normalize": (
        (2, 6, 6),
        lambda: with_head((2, 6, 6), Normalize((0.3, 0.6), (0.2, 0.5)), nn.Conv2d(2, 3, 3, 2), nn.ReLU()),
    ),
    "normalize with padding": (
        (1, 5, 5),
        lambda: with_head((1, 5, 5), Normalize((0.3,), (0.2,)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()),
    ),
    "relu first": ((1, 5, 5), lambda: with_head((1, 5, 5), nn.ReLU(), nn.Conv2d(1, 2, 3), nn.ReLU())),
    "relu last": ((1, 5, 5), lambda: nn.Sequential(*with_head((1, 5, 5), nn.Conv2d(1, 2, 3), nn.ReLU()), nn.ReLU())),
    "relu after flatten": (
        (1, 5, 5),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), nn.Linear(18, CLASSES)),
    ),
    "no hidden layer": ((1, 4, 4), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))),
    "mlp": ((1, 3, 3), lambda: nn.Sequential(nn.Flatten(), *with_head((9, 1, 1), hidden=8)[1:])),
    "deep mlp": (
        (1, 3, 3),
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(9, 8),
            nn.ReLU(),
            nn.Linear(8, 7),
            nn.Linear(7, 8),
            nn.ReLU(),
            nn.Linear(8, CLASSES),
        ),
    ),
}


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Sequential, Shape]:
    """A random chain of up to three convolutions and two linear layers, with the shape of its images."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
    seed = draw(st.integers(0, 2**31 - 1))
    plan = draw(st.lists(st.tuples(_CONVOLUTION, st.booleans()), max_size=3))
    normalize, hidden = draw(st.booleans()), draw(st.integers(1, 8))

    def build() -> nn.Sequential:
        body: list[nn.Module] = [Normalize((0.4,) * shape[0], (0.3,) * shape[0])] if normalize else []
        channels, height, width = shape
        for (outputs, kernel, stride, padding), followed_by_relu in plan:
            sides = [
                (n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)
            ]
            if min(sides) < 1:
                break
            body.append(nn.Conv2d(channels, outputs, kernel, stride, padding))
            body += [nn.ReLU()] if followed_by_relu else []
            channels, (height, width) = outputs, sides
        return with_head(shape, *body, hidden=hidden)

    return seeded(seed, build), shape


def _pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


_CONVOLUTION = st.tuples(st.integers(1, 3), _pairs(1, 3), _pairs(1, 3), _pairs(0, 2))
