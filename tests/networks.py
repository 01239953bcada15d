"""Small networks with random weights, for tests that must hold on any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from softadv.models import ImageShape, Normalize

CLASSES = 4


class Residual(nn.Module):
    """shortcut(x) + body(x)."""

    def __init__(self, *body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Dimmed(nn.Module):
    """Halves the images that it is given, in their own memory."""

    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5
        return x


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation that has seen data, in eval mode; some of its scales are negative."""
    layer = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for values, (low, high) in (
            (layer.running_mean, (-0.5, 0.5)),
            (layer.running_var, (0.2, 3.0)),
            (layer.weight, (-1.0, 2.0)),
            (layer.bias, (-0.5, 0.5)),
        ):
            values.uniform_(low, high)
    return layer


def seeded(seed: int, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """A model in eval mode whose weights depend on the seed alone; float64, so large that many ReLUs are unstable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    return model.requires_grad_(False)


def with_head(shape: ImageShape, *body: nn.Module, hidden: int = 6) -> nn.Sequential:
    """A body on images of a shape, and two linear layers on whatever leaves it."""
    features = nn.Sequential(*body).eval()(torch.zeros(1, *shape)).numel()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def random_images(shape: ImageShape, count: int, *, seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Float64 images in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


# Name to (image shape, builder): each differs from the paper's network in one way.
ARCHITECTURES: dict[str, tuple[ImageShape, Callable[[], nn.Sequential]]] = {
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


# The same for the operators that the paper's network does without.
OPERATORS: dict[str, tuple[ImageShape, Callable[[], nn.Sequential]]] = {
    "dilation": (
        (1, 8, 8),
        lambda: with_head(
            (1, 8, 8),
            nn.Conv2d(1, 3, 3, dilation=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(3, 3, (2, 3), (2, 1), dilation=(3, 2)),
            nn.ReLU(),
        ),
    ),
    "groups": (
        (2, 6, 6),
        lambda: with_head(
            (2, 6, 6), nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 2, 2, padding=1, groups=2), nn.ReLU()
        ),
    ),
    "depthwise": (
        (2, 6, 6),
        lambda: with_head(
            (2, 6, 6), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2)
        ),
    ),
    "same padding": (
        (1, 6, 5),
        lambda: with_head(
            (1, 6, 5),
            nn.Conv2d(1, 2, (3, 5), padding="same"),
            nn.ReLU(),
            nn.Conv2d(2, 2, (3, 2), padding="same", dilation=(1, 2)),
            nn.ReLU(),
            nn.Conv2d(2, 2, 2, padding="valid"),
        ),
    ),
    "batch norm": (
        (2, 6, 6),
        lambda: with_head(
            (2, 6, 6),
            nn.Conv2d(2, 3, 3, bias=False),
            batch_norm(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 3, padding=1),
            nn.ReLU(),
        ),
    ),
    "batch norm anywhere": (
        (2, 5, 5),
        lambda: with_head(
            (2, 5, 5),
            batch_norm(2),
            nn.Conv2d(2, 3, 3, padding=1),
            nn.ReLU(),
            batch_norm(3),
            nn.Conv2d(3, 2, 3, padding=1),
            batch_norm(2),
            batch_norm(2),
            nn.ReLU(),
            batch_norm(2),
        ),
    ),
    "avg pool": (
        (2, 6, 6),
        lambda: with_head((2, 6, 6), nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.ReLU(), nn.AvgPool2d(2)),
    ),
    "avg pool that counts its padding": (
        (1, 6, 6),
        lambda: with_head(
            (1, 6, 6), nn.AvgPool2d(3, 1, 1), nn.Conv2d(1, 3, 3, 2), nn.ReLU(), nn.AvgPool2d((2, 2), (1, 2), (1, 0))
        ),
    ),
    "avg pool that leaves its padding out": (
        (2, 6, 6),
        lambda: with_head(
            (2, 6, 6),
            nn.Conv2d(2, 2, 3),
            nn.AvgPool2d((3, 2), (2, 1), 1, count_include_pad=False),
            nn.ReLU(),
            nn.Conv2d(2, 3, 2),
            nn.ReLU(),
        ),
    ),
    "max pool": (
        (1, 8, 8),
        lambda: with_head((1, 8, 8), nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU()),
    ),
    "max pool after relu": (
        (1, 8, 8),
        lambda: with_head((1, 8, 8), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU()),
    ),
    "max pool with padding": (
        (1, 6, 6),
        lambda: with_head(
            (1, 6, 6), nn.Conv2d(1, 3, 2), nn.MaxPool2d((3, 2), (2, 3), 1), nn.Conv2d(3, 3, 2), nn.ReLU()
        ),
    ),
    "overlapping max pools": (
        (2, 7, 7),
        lambda: with_head(
            (2, 7, 7), nn.MaxPool2d(2, 1), nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 1), nn.MaxPool2d(2, 1), nn.ReLU()
        ),
    ),
    "residual": (
        (1, 5, 5),
        lambda: with_head(
            (1, 5, 5),
            nn.Conv2d(1, 2, 3),
            nn.ReLU(),
            Residual(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)),
            nn.ReLU(),
        ),
    ),
    "residual with a projection": (
        (1, 6, 6),
        lambda: with_head(
            (1, 6, 6),
            nn.Conv2d(1, 2, 3, padding=1, bias=False),
            batch_norm(2),
            nn.ReLU(),
            Residual(
                nn.Conv2d(2, 3, 3, 2, padding=1, bias=False),
                batch_norm(3),
                nn.ReLU(),
                nn.Conv2d(3, 3, 3, padding=1),
                shortcut=nn.Sequential(nn.Conv2d(2, 3, 1, 2), batch_norm(3)),
            ),
            nn.ReLU(),
            nn.AvgPool2d(3),
        ),
    ),
    "two residual blocks": (
        (1, 4, 4),
        lambda: with_head(
            (1, 4, 4),
            Residual(nn.Conv2d(1, 1, 3, padding=1)),
            nn.ReLU(),
            Residual(
                nn.Conv2d(1, 2, 3, padding=1),
                Residual(nn.ReLU(), nn.Conv2d(2, 2, 1)),
                nn.ReLU(),
                shortcut=nn.Conv2d(1, 2, 1),
            ),
            nn.ReLU(),
        ),
    ),
    "residual of vectors": (
        (1, 3, 3),
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(9, 6),
            nn.ReLU(),
            Residual(nn.Linear(6, 6), nn.ReLU()),
            nn.ReLU(),
            nn.Linear(6, CLASSES),
        ),
    ),
    "residual of max pools": (
        (1, 6, 6),
        lambda: with_head(
            (1, 6, 6),
            nn.Conv2d(1, 2, 3),
            Residual(nn.MaxPool2d(3, 1, 1)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2, 2, 1),
        ),
    ),
    "dropout and identity": (
        (1, 5, 5),
        lambda: with_head(
            (1, 5, 5),
            nn.Identity(),
            nn.Conv2d(1, 3, 3),
            nn.Dropout2d(0.5),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(3, 2, 2),
        ),
    ),
}
NETWORKS = ARCHITECTURES | OPERATORS


def has_max_pool(model: nn.Module) -> bool:
    """Whether DeepZono refuses a model."""
    return any(isinstance(layer, nn.MaxPool2d) for layer in model.modules())


@st.composite
def networks(draw: st.DrawFn, *, operators: bool = False) -> tuple[nn.Sequential, ImageShape]:
    """A random chain of up to three convolutions and two linear layers, with the shape of its images.

    operators: with dilation and groups, and pools, batch normalisations and residual blocks in between.
    """
    shape = (draw(st.integers(1, 2)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
    seed = draw(st.integers(0, 2**31 - 1))
    more = st.tuples(_pairs(1, 2), st.booleans(), st.sampled_from(_EXTRAS)) if operators else st.just(_NOTHING_MORE)
    plan = draw(st.lists(st.tuples(_CONVOLUTION, st.booleans(), more), max_size=3))
    normalize, hidden = draw(st.booleans()), draw(st.integers(1, 8))

    def build() -> nn.Sequential:
        body: list[nn.Module] = [Normalize((0.4,) * shape[0], (0.3,) * shape[0])] if normalize else []
        channels, *sides = shape
        for (outputs, kernel, stride, padding), followed_by_relu, (dilation, by_channel, extra) in plan:
            spans = zip(sides, kernel, stride, padding, dilation, strict=True)
            sides = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans]
            if min(sides) < 1:
                break
            groups = channels if by_channel else 1
            body.append(nn.Conv2d(channels, outputs * groups, kernel, stride, padding, dilation, groups))
            body += [nn.ReLU()] if followed_by_relu else []
            channels = outputs * groups
            body += _extra(extra, channels)
        return with_head(shape, *body, hidden=hidden)

    return seeded(seed, build), shape


def _extra(kind: str, channels: int) -> list[nn.Module]:
    """A layer, or none, that leaves the shape as it is."""
    match kind:
        case "max pool":
            return [nn.MaxPool2d(3, 1, 1)]
        case "avg pool":
            return [nn.AvgPool2d(3, 1, 1, count_include_pad=False)]
        case "batch norm":
            return [batch_norm(channels)]
        case "residual":
            return [Residual(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
    return []


def _pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


_EXTRAS = ("none", "max pool", "avg pool", "batch norm", "residual")
_NOTHING_MORE = ((1, 1), False, "none")
_CONVOLUTION = st.tuples(st.integers(1, 3), _pairs(1, 3), _pairs(1, 3), _pairs(0, 2))
