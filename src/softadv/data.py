"""Images: where they are looked for, how they are read, and a fingerprint of what was read."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tarfile
import tempfile
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.errors import NotFiniteError, SoftadvError
from softadv.models import CLASSES, IMAGE_SHAPES
from softadv.ranges import Clip

Bytes = npt.NDArray[np.uint8]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

# The writers of the last images wrote none of the first ones.
_DIGITS_TRAINING = 1437

# Relative path of each file and its size in bytes.
_FILES: dict[str, dict[str, int]] = {
    "mnist": {
        "MNIST/raw/train-images-idx3-ubyte": 16 + 60_000 * 784,
        "MNIST/raw/train-labels-idx1-ubyte": 8 + 60_000,
        "MNIST/raw/t10k-images-idx3-ubyte": 16 + 10_000 * 784,
        "MNIST/raw/t10k-labels-idx1-ubyte": 8 + 10_000,
    },
    "cifar10": {
        f"cifar-10-batches-bin/{name}.bin": 10_000 * 3073
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    },
}


@dataclass(frozen=True)
class ImageData:
    """A dataset in memory.

    train_x, test_x: float32 (N, C, H, W) in [0, 1]; train_y, test_y: int64 (N,).
    fingerprint: SHA-256 of the 8-bit pixels and labels, training and test, as they are here.
    source: where they were read from, for people.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    fingerprint: str
    source: str

    def first(self, *, train: int | None = None, test: int | None = None) -> ImageData:
        """The first so many images of each part; None keeps all. The fingerprint becomes theirs."""
        if train is None and test is None:
            return self
        for part, wanted, there in (("train", train, len(self.train_x)), ("test", test, len(self.test_x))):
            if wanted is not None and not 1 <= wanted <= there:
                raise SoftadvError(f"{self.name}: asked for {wanted} {part} images, there are {there}")
        kept = (self.train_x[:train], self.train_y[:train], self.test_x[:test], self.test_y[:test])
        pixels = [(part * 255).round().to(torch.uint8).numpy() for part in kept[::2]]
        labels = [part.to(torch.uint8).numpy() for part in kept[1::2]]
        fingerprint = _fingerprint(pixels[0], labels[0], pixels[1], labels[1])
        return ImageData(self.name, *kept, fingerprint, self.source)

    def to(self, device: torch.device) -> ImageData:
        """The same images on a device."""
        return replace(
            self,
            train_x=self.train_x.to(device),
            train_y=self.train_y.to(device),
            test_x=self.test_x.to(device),
            test_y=self.test_y.to(device),
        )


def check_images(x: Tensor, y: Tensor) -> None:
    """Raise SoftadvError unless x is float (N, C, H, W) without NaN and y is int64 (N,)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise SoftadvError(f"x: expected float images (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise SoftadvError(f"y: expected int64 labels ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    # One NaN or infinity makes the sum so: cheaper than asking every pixel.
    if not x.sum().isfinite():
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


def load_dataset(name: str, root: str | Path | None = None) -> ImageData:
    """Load a dataset: "digits" (bundled with scikit-learn), "mnist" or "cifar10".

    mnist and cifar10 are looked for under root, then under the folder named by SOFTADV_DATA, then under
    ./data; at last they are downloaded into ./data, with a checksum. MNIST lies as torchvision lays it
    out (MNIST/raw), CIFAR-10 as its publisher's binary version (cifar-10-batches-bin).

    Raises SoftadvError for an unknown name, a root that is no folder, a file of the wrong size or
    with labels above 9, and where the data are nowhere to be had.
    """
    if name == "digits":
        return _digits()
    if name not in _FILES:
        raise SoftadvError(f"dataset: unknown name {name!r}, expected one of {', '.join(IMAGE_SHAPES)}")
    if root is not None and not Path(root).is_dir():
        raise SoftadvError(f"data folder {root}: no such folder")
    found = find_dataset(name, root)
    if found is None:
        found = _download(name, root)
    check_sizes(name, found)
    return _mnist(found) if name == "mnist" else _cifar10(found)


def search_places(root: str | Path | None = None) -> list[Path]:
    """The folders that are searched, in order."""
    named = os.environ.get("SOFTADV_DATA")
    return [Path(place) for place in (root, named, "data") if place]


def find_dataset(name: str, root: str | Path | None = None) -> Path | None:
    """The first of the places that holds any of a dataset's files, or None."""
    for place in search_places(root):
        if any((place / file).exists() for file in _FILES[name]):
            return place
    return None


def _digits() -> ImageData:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (a second, for this dataset alone)

    bunch = load_digits()
    # 0..16 on 8x8 pixels, resized to the 28x28 of the paper's network and kept in 8 bits like the others.
    small = torch.from_numpy(bunch.images)[:, None] / 16
    large = F.interpolate(small, size=IMAGE_SHAPES["digits"][1:], mode="bilinear", align_corners=False)
    # Many values lie at x.5; a nudge far above rounding errors sends them all up, on every machine.
    pixels = (large * 255 + 1e-6).round().to(torch.uint8).numpy()
    labels = bunch.target.astype(np.uint8)
    n = _DIGITS_TRAINING
    return _image_data("digits", pixels[:n], labels[:n], pixels[n:], labels[n:], source="scikit-learn")


def _mnist(root: Path) -> ImageData:
    parts = []
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = _idx(root / f"MNIST/raw/{name}-images-idx3-ubyte", count, 28, 28)
        labels = _idx(root / f"MNIST/raw/{name}-labels-idx1-ubyte", count)
        _check_labels(root / f"MNIST/raw/{name}-labels-idx1-ubyte", labels)
        parts += [pixels[:, None], labels]
    return _image_data("mnist", *parts, source=str(root))


def _idx(path: Path, *shape: int) -> Bytes:
    """Read an IDX file of bytes: a magic number with the number of dimensions, the dimensions, the data."""
    expected = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    with path.open("rb") as file:
        if file.read(len(expected)) != expected:
            raise SoftadvError(f"{path}: not an IDX file of {' x '.join(map(str, shape))} bytes")
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(shape)


def _cifar10(root: Path) -> ImageData:
    pixels, labels = [], []
    for file in _FILES["cifar10"]:
        # Each record: one byte of label, then the pixels, channel by channel.
        records = np.fromfile(root / file, dtype=np.uint8).reshape(-1, 3073)
        _check_labels(root / file, records[:, 0])
        labels.append(records[:, 0])
        pixels.append(records[:, 1:].reshape(-1, 3, 32, 32))
    train_x, train_y = np.concatenate(pixels[:-1]), np.concatenate(labels[:-1])
    return _image_data("cifar10", train_x, train_y, pixels[-1], labels[-1], source=str(root))


def check_sizes(name: str, root: Path) -> None:
    """Raise SoftadvError naming the first file of a dataset that is missing or of the wrong size."""
    for file, expected in _FILES[name].items():
        path = root / file
        if not path.is_file():
            raise SoftadvError(f"{path}: missing, though other files of {name} are there")
        size = path.stat().st_size
        if size != expected:
            raise SoftadvError(f"{path}: {size:,} bytes instead of {expected:,}; truncated or not {name}")


def _check_labels(path: Path, labels: Bytes) -> None:
    if labels.max() >= CLASSES:
        first = int(np.argmax(labels >= CLASSES))
        raise SoftadvError(f"{path}: image {first} has label {labels[first]}, labels end at {CLASSES - 1}")


def _image_data(name: str, train_x: Bytes, train_y: Bytes, test_x: Bytes, test_y: Bytes, *, source: str) -> ImageData:
    fingerprint = _fingerprint(train_x, train_y, test_x, test_y)
    x = [torch.tensor(part).float().div_(255) for part in (train_x, test_x)]
    y = [torch.tensor(part).long() for part in (train_y, test_y)]
    return ImageData(name, x[0], y[0], x[1], y[1], fingerprint, source)


def _fingerprint(*arrays: Bytes) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _move_in(name: str, source: Path, target: Path) -> None:
    """Move a dataset's files into place: at one stroke, unless something is there already."""
    folder = Path(next(iter(_FILES[name]))).parts[0]
    if not (target / folder).exists():
        os.replace(source / folder, target / folder)
        return
    for file in _FILES[name]:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)


def _unpack(archive: Path, name: str) -> None:
    """Unpack a dataset's files, and nothing else, beside their archive."""
    with tarfile.open(archive) as opened:
        for file in _FILES[name]:
            place = archive.parent / file
            place.parent.mkdir(exist_ok=True)
            packed = opened.extractfile(file)
            if packed is None:
                raise OSError(f"{file} in the archive is no file")
            with packed, place.open("wb") as written:
                shutil.copyfileobj(packed, written)


def _download(name: str, root: str | Path | None) -> Path:
    """Download into ./data; the files appear there only once they are whole."""
    # Half a program's start-up time, for the one command that ever downloads.
    from torchvision.datasets import MNIST  # noqa: PLC0415
    from torchvision.datasets.utils import download_url  # noqa: PLC0415

    target = Path("data")
    created = not target.exists()
    try:
        target.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=f".{name}-") as partial:
            if name == "mnist":
                MNIST(partial, download=True)
            else:
                download_url(CIFAR10_URL, partial, filename="archive", md5=CIFAR10_MD5)
                _unpack(Path(partial) / "archive", name)
            _move_in(name, Path(partial), target)
    except (HTTPException, OSError, RuntimeError) as error:
        if created and target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        places = ", ".join(str(place) for place in search_places(root))
        reason = " ".join(str(error).split())
        raise SoftadvError(
            f"{name}: not found in {places}, and the download failed ({reason}); "
            "name its folder with --data or SOFTADV_DATA, or use the bundled dataset digits"
        ) from error
    return target
