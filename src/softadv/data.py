"""Data sets: by name, from your own files, or from a function; and their metadata."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv._data.files import check_files, find_dataset, load_files, search_places
from softadv._data.images import check_parts, fingerprint, image_tensor, label_tensor, scaled, statistics
from softadv._data.readers import Arrays, read_folder, read_npz, read_torchvision
from softadv._ranges import Clip
from softadv.errors import NotFiniteError, SoftadvError
from softadv.registry import Registry, call, origin

__all__ = [
    "KNOWN",
    "About",
    "Dataset",
    "check_files",
    "check_finite",
    "check_images",
    "check_labels",
    "check_pixels",
    "dataset_title",
    "find_dataset",
    "load_dataset",
    "make_dataset",
    "names",
    "register",
    "search_places",
]

# The writers of the images from here on wrote none of the earlier ones.
_DIGITS_TRAINING = 1437
_TEN = tuple("0123456789")


@dataclass(frozen=True)
class Dataset:
    """Images for training and testing, in memory.

    train_x, test_x: float32 (N, C, H, W) in [0, 1], of any number of channels. train_y, test_y: int64 (N,).
    name: the argument of load_dataset. title: its name in tables and figures; default: name.
    class_names: at least two; default: the numbers from 0 to the highest label.
    mean, std: of the pixels of each channel, for Normalize; default: those of the training images.
    mirror_keeps_class: whether a mirrored image has the same class, so that augmentation may mirror.
    fingerprint: SHA-256 of all pixels and labels. source: where they come from.
    Raises SoftadvError for images or labels that are missing, of another kind, or do not match.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    fingerprint: str = ""
    source: str = ""
    title: str = ""
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    mirror_keeps_class: bool = False

    def __post_init__(self) -> None:
        check_parts(self.name, (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)))
        highest = int(max(self.train_y.max(), self.test_y.max()))
        self._default("title", lambda: self.name)
        self._default("class_names", lambda: tuple(map(str, range(max(highest + 1, 2)))))
        self._default("fingerprint", lambda: fingerprint(self.train_x, self.train_y, self.test_x, self.test_y))
        if not self.mean and not self.std:
            mean, std = statistics(self.train_x)
            self._default("mean", lambda: mean)
            self._default("std", lambda: std)
        where = f"dataset {self.name}"
        if self.classes < 2:
            raise SoftadvError(f"{where}: class_names: at least two classes are needed, got {self.class_names!r}")
        if highest >= self.classes:
            part, y = ("train_y", self.train_y) if int(self.train_y.max()) == highest else ("test_y", self.test_y)
            raise SoftadvError(
                f"{where}: {part}: image {int(y.argmax())} has label {highest}, labels end at {self.classes - 1}"
            )
        channels = self.image_shape[0]
        if not len(self.mean) == len(self.std) == channels or not all(value > 0 for value in self.std):
            raise SoftadvError(
                f"{where}: mean and std: expected a number for each of {channels} channels, and std above 0, "
                f"got {self.mean} and {self.std}"
            )

    def _default(self, key: str, value: Callable[[], object]) -> None:
        if not getattr(self, key):
            object.__setattr__(self, key, value())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def first(self, *, train: int | None = None, test: int | None = None) -> Dataset:
        """The first `train` and `test` images; None keeps all. The fingerprint is computed anew."""
        if train is None and test is None:
            return self
        for part, wanted, there in (("train", train, len(self.train_x)), ("test", test, len(self.test_x))):
            if wanted is not None and not 1 <= wanted <= there:
                raise SoftadvError(f"{self.name}: asked for {wanted} {part} images, there are {there}")
        return replace(
            self,
            train_x=self.train_x[:train],
            train_y=self.train_y[:train],
            test_x=self.test_x[:test],
            test_y=self.test_y[:test],
            fingerprint="",
        )

    def to(self, device: torch.device) -> Dataset:
        """The same images on a device."""
        return replace(
            self,
            train_x=self.train_x.to(device),
            train_y=self.train_y.to(device),
            test_x=self.test_x.to(device),
            test_y=self.test_y.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class About:
    """A built-in data set's metadata, known before it is read; fields as in Dataset."""

    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror_keeps_class: bool


# Means and standard deviations of the training images, as softadv computes them, to four digits.
KNOWN: dict[str, About] = {
    "digits": About(
        title="Digits", image_shape=(1, 28, 28), class_names=_TEN, mean=(0.3054,), std=(0.3238,),
        mirror_keeps_class=False,
    ),
    "mnist": About(
        title="MNIST", image_shape=(1, 28, 28), class_names=_TEN, mean=(0.1307,), std=(0.3081,),
        mirror_keeps_class=False,
    ),
    "cifar10": About(
        title="CIFAR-10", image_shape=(3, 32, 32),
        class_names=(
            "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
        ),
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), mirror_keeps_class=True,
    ),
}  # fmt: skip

registry: Registry[Callable[..., Dataset]] = Registry(
    "dataset",
    accepts=lambda found: callable(found) or isinstance(found, Dataset),
    expected="a function that returns a softadv.Dataset",
)
register = registry.register
names = registry.names


def load_dataset(what: str | Dataset | Callable[..., Dataset], root: str | Path | None = None) -> Dataset:
    """Load a data set.

    what: one of
    - "digits" (bundled with scikit-learn), "mnist", "cifar10". With root, the latter two are read from there only.
      Without it they are searched in the folder named by SOFTADV_DATA, then in ./data, and finally downloaded into
      ./data, with a checksum. softadv._data.files describes the accepted layouts.
    - "torchvision:NAME", a classification set of torchvision in its own layout, searched and downloaded likewise;
    - "folder:PATH", with images in PATH/train/CLASS/ and PATH/test/CLASS/;
    - "npz:FILE", with the arrays train_x, train_y, test_x and test_y that make_dataset takes;
    - "package.module:function", or the function, which returns a Dataset; it is given root if it has a parameter of
      that name, else nothing;
    - a Dataset, which is returned.

    Raises SoftadvError (one line) for an unknown name, and for data that are missing, unreadable, damaged, or not
    valid as a Dataset.
    """
    if isinstance(what, Dataset):
        return what
    function = registry.get(what)
    if isinstance(function, Dataset):
        return replace(function, name=str(what))
    name = what if isinstance(what, str) else origin(function).path
    where = f"dataset {name}"
    with_root = "root" in call(where, inspect.signature, function).parameters
    found = call(where, function, **({"root": root} if with_root else {}))
    if not isinstance(found, Dataset):
        raise SoftadvError(f"{where}: expected a softadv.Dataset, got a {type(found).__name__}")
    return replace(found, name=name)


def make_dataset(name: str, train_x: object, train_y: object, test_x: object, test_y: object, **about: Any) -> Dataset:
    """A Dataset from arrays or tensors.

    train_x, test_x: uint8, or floating point in [0, 1]; (N, H, W), (N, C, H, W) or (N, H, W, C). Channels come last
    if the last axis has 1, 3 or 4 entries and the second does not, else first. train_y, test_y: integers (N,).
    about: further fields of Dataset. Raises SoftadvError for anything else.
    """
    images = [
        image_tensor(found, where=f"dataset {name}: {key}") for key, found in (("train_x", train_x), ("test_x", test_x))
    ]
    labels = [
        label_tensor(found, where=f"dataset {name}: {key}") for key, found in (("train_y", train_y), ("test_y", test_y))
    ]
    if all(len(part) for part in (*images, *labels)):  # if not, Dataset says so
        about = {"fingerprint": fingerprint(images[0], labels[0], images[1], labels[1])} | about
    return Dataset(name, scaled(images[0]), labels[0], scaled(images[1]), labels[1], **about)


def dataset_title(name: str) -> str:
    """A data set's name in tables and figures, without loading it."""
    if name in KNOWN:
        return KNOWN[name].title
    head, _, rest = name.partition(":")
    return Path(rest).stem if head in ("folder", "npz") and rest else rest or name


def check_images(x: Tensor, y: Tensor) -> None:
    """Raise SoftadvError unless x is float (N, ...) without NaN, of images or of any shape, and y is int64 (N,)."""
    for name, values in (("x", x), ("y", y)):
        if not isinstance(values, Tensor):
            raise SoftadvError(f"{name}: expected a tensor, got a {type(values).__name__}")
        if values.layout != torch.strided or values.is_nested or values.is_meta:
            raise SoftadvError(f"{name}: expected a dense tensor, got one of layout {values.layout} on {values.device}")
    if x.ndim < 2 or not x.is_floating_point() or not all(x.shape[1:]):
        raise SoftadvError(f"x: expected float images (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise SoftadvError(f"y: expected int64 labels ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    # A NaN or infinity anywhere makes the sum NaN or infinite: cheaper than testing every pixel. At least in float32,
    # since the sum of some hundred float16 images is more than float16 has.
    if not x.sum(dtype=torch.promote_types(x.dtype, torch.float32)).isfinite():
        bad = (~x.isfinite()).flatten(1).any(1).nonzero()
        where = f"image {int(bad[0])} has pixels that are" if len(bad) else "the sum of the pixels is"
        raise SoftadvError(f"x: {where} NaN or infinite")


def check_pixels(x: Tensor, *, clip: Clip) -> None:
    """Raise SoftadvError unless all pixels of x lie within clip."""
    if len(x) and not (x.min() >= clip[0] and x.max() <= clip[1]):
        raise SoftadvError(f"x: pixels lie in [{x.min():g}, {x.max():g}], outside clip [{clip[0]:g}, {clip[1]:g}]")


def check_labels(y: Tensor, *, classes: int) -> None:
    """Raise SoftadvError unless all labels are of 0..classes - 1."""
    if len(y) and (y.min() < 0 or y.max() >= classes):
        raise SoftadvError(f"y: labels lie in {int(y.min())}..{int(y.max())}, the model has classes 0..{classes - 1}")


def check_finite(values: Tensor, *, what: str) -> None:
    """Raise NotFiniteError that begins with `what` and an image's number unless all values are finite.

    values: (N, ...), with a row an image. A GPU is waited for.
    """
    bad = (~values.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(bad):
        raise NotFiniteError(
            f"{what} {int(bad[0])} are NaN or infinite: the model has diverged, or its numbers overflow"
        )


@register("digits")
def _digits() -> Dataset:
    """scikit-learn's handwritten digits, resized to 28x28: 1,437 images to train, 360 to test, no download."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (a second, for this dataset alone)

    bunch = load_digits()
    # 0..16 on 8x8 pixels, resized to the 28x28 of the paper's network and kept in 8 bits like the others.
    small = torch.from_numpy(bunch.images)[:, None] / 16
    large = F.interpolate(small, size=KNOWN["digits"].image_shape[1:], mode="bilinear", align_corners=False)
    # Many values lie at x.5; a nudge far above rounding errors sends them all up, on every machine.
    pixels = (large * 255 + 1e-6).round().to(torch.uint8)
    n = _DIGITS_TRAINING
    return _known("digits", pixels[:n], bunch.target[:n], pixels[n:], bunch.target[n:], source="scikit-learn")


@register("mnist")
def _mnist(root: str | Path | None) -> Dataset:
    """MNIST: handwritten digits, 28x28; 60,000 images to train, 10,000 to test."""
    parts, place = load_files("mnist", root)
    return _known("mnist", *parts, source=str(place))


@register("cifar10")
def _cifar10(root: str | Path | None) -> Dataset:
    """CIFAR-10: ten kinds of things, 3x32x32; 50,000 images to train, 10,000 to test."""
    parts, place = load_files("cifar10", root)
    return _known("cifar10", *parts, source=str(place))


@register("torchvision:NAME")
def _torchvision(name: str, root: str | Path | None) -> Dataset:
    """A classification set of torchvision, such as torchvision:SVHN."""
    arrays, source = read_torchvision(name, root)
    return _from_arrays(
        f"torchvision:{name}", arrays, source=source, mirror_keeps_class=name in ("CIFAR10", "CIFAR100", "STL10")
    )


@register("folder:PATH")
def _folder(path: str) -> Dataset:
    """Your own image files, in PATH/train/CLASS/ and PATH/test/CLASS/."""
    return _from_arrays(f"folder:{path}", read_folder(Path(path).expanduser()), source=path)


@register("npz:FILE")
def _npz(path: str) -> Dataset:
    """Your own arrays: train_x, train_y, test_x and test_y in a NumPy file."""
    return _from_arrays(f"npz:{path}", read_npz(Path(path).expanduser()), source=path)


def _known(name: str, train_x: object, train_y: object, test_x: object, test_y: object, *, source: str) -> Dataset:
    about = KNOWN[name]
    return make_dataset(
        name, train_x, train_y, test_x, test_y, source=source, title=about.title, class_names=about.class_names,
        mean=about.mean, std=about.std, mirror_keeps_class=about.mirror_keeps_class,
    )  # fmt: skip


def _from_arrays(name: str, found: Arrays, **about: Any) -> Dataset:
    return make_dataset(
        name, found.train_x, found.train_y, found.test_x, found.test_y, title=dataset_title(name),
        class_names=found.class_names or (), **about,
    )  # fmt: skip
