"""MNIST and CIFAR-10 on disk: their file layouts, the search path, reading and downloading.

MNIST is four IDX files, as they are or gzipped, in MNIST/raw, MNIST, raw, or the data folder itself; a file may be
named train-images-idx3-ubyte or train-images.idx3-ubyte. CIFAR-10 is its publisher's binary version
(cifar-10-batches-bin) or Python version (cifar-10-batches-py), in a folder of that name or in the data folder itself.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from softadv._data.unpickle import bytes_of_array, read_pickle
from softadv.errors import SoftadvError

Bytes = npt.NDArray[np.uint8]
DatasetArrays = tuple[Bytes, Bytes, Bytes, Bytes]  # training images (N, C, H, W) and labels (N,), then the test's

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

_CLASSES = 10
_LISTED = 6  # entries of a folder that a message names


@dataclass(frozen=True)
class Layout:
    """One file layout of a data set.

    folders: subfolders of the data folder where the files may be. files: their names, with sizes in bytes where known.
    forms: from a file's name to its possible spellings; messages use the first.
    """

    folders: tuple[str, ...]
    files: dict[str, int | None]
    forms: Callable[[str], tuple[str, ...]]
    read: Callable[[list[Path]], DatasetArrays]

    def found(self, place: Path) -> list[tuple[Path, list[Path | None]]]:
        """The folders in a place that have any of the files, each with the path of every file or None."""
        there = [(place / folder, self._in(place / folder)) for folder in self.folders]
        return [(folder, paths) for folder, paths in there if any(paths)]

    def _in(self, folder: Path) -> list[Path | None]:
        if not _is_there(folder):
            return [None] * len(self.files)
        return [next((folder / f for f in self.forms(file) if _is_there(folder / f)), None) for file in self.files]


def search_places(root: str | Path | None = None) -> list[Path]:
    """The folders that are searched, in order: the one that was named, or else those that softadv knows."""
    if root is not None:
        return [Path(root)]
    named = os.environ.get("SOFTADV_DATA")
    return [Path(place) for place in (named, "data") if place]


def find_dataset(name: str, root: str | Path | None = None) -> Path | None:
    """The first of the places that holds any of the files of mnist or cifar10, or None.

    Raises SoftadvError for a place that may not be read.
    """
    return next((place for place in search_places(root) if _found(name, place)), None)


def check_files(name: str, place: Path) -> None:
    """Raise SoftadvError naming the first file of mnist or cifar10 in a place that is missing or of the wrong size."""
    _checked(name, place)


def load_files(name: str, root: str | Path | None) -> tuple[DatasetArrays, Path]:
    """The bytes of mnist or cifar10, and the folder they were found in.

    With a root they are read from there only, so that no other data are used silently. Without one they are downloaded
    if they are not found.
    Raises SoftadvError for a root that lacks them or is no folder, for a file that is missing, unreadable, of the wrong
    size, damaged or with labels above 9, and where the data are nowhere to be had.
    """
    if root is not None:
        with reading(Path(root)):
            if not Path(root).is_dir():
                raise SoftadvError(f"data folder {root}: no such folder")
        if find_dataset(name, root) is None:
            raise SoftadvError(f"{name}: {_nothing(name, Path(root))}")
    place = find_dataset(name, root) or _download(name)
    layout, paths = _checked(name, place)
    return layout.read(paths), place


def _found(name: str, place: Path) -> list[tuple[Layout, Path, list[Path | None]]]:
    return [(layout, *found) for layout in LAYOUTS[name] for found in layout.found(place)]


def _checked(name: str, place: Path) -> tuple[Layout, list[Path]]:
    """The layout that is whole, else the first that is not; and its files, with the sizes that they should have."""
    found = _found(name, place)
    whole = [candidate for candidate in found if all(candidate[2])]
    if not found:
        raise SoftadvError(f"{name}: {_nothing(name, place)}")
    layout, folder, paths = (whole or found)[0]
    there = []
    for (file, size), path in zip(layout.files.items(), paths, strict=True):
        if path is None:
            raise SoftadvError(f"{folder / layout.forms(file)[0]}: missing, though other files of {name} are there")
        with reading(path):
            if not path.is_file():
                raise SoftadvError(f"{path}: not a file")
            actual = path.stat().st_size
            with path.open("rb"):
                pass
        if size is not None and path.suffix != ".gz" and actual != size:
            raise SoftadvError(f"{path}: {actual:,} bytes instead of {size:,}; truncated or not {name}")
        there.append(path)
    return layout, there


def _nothing(name: str, place: Path) -> str:
    """A message: which files were looked for in a folder, and what is there instead."""
    looked = " or ".join(f"{layout.folders[0]}/{layout.forms(next(iter(layout.files)))[0]}" for layout in LAYOUTS[name])
    return f"{place} has no {looked} ({_content(place)})"


def _content(place: Path) -> str:
    with reading(place):
        if not place.is_dir():
            return "no such folder"
        names = sorted(entry.name for entry in islice(place.iterdir(), 1000))
    if not names:
        return "it is empty"
    return f"it has {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"


def _is_there(path: Path) -> bool:
    with reading(path):
        return path.exists()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while a path is read into a SoftadvError of one line."""
    try:
        yield
    except OSError as error:
        raise SoftadvError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error


def _mnist_forms(file: str) -> tuple[str, ...]:
    dotted = file.replace("-idx", ".idx")
    return file, dotted, f"{file}.gz", f"{dotted}.gz"


def _read_mnist(paths: list[Path]) -> DatasetArrays:
    (train, test), size = _MNIST_IMAGES, (28, 28)
    train_x, train_y = _idx(paths[0], train, *size), _idx(paths[1], train)
    test_x, test_y = _idx(paths[2], test, *size), _idx(paths[3], test)
    _check_labels(paths[1], train_y)
    _check_labels(paths[3], test_y)
    return train_x[:, None], train_y, test_x[:, None], test_y


def _idx(path: Path, *shape: int) -> Bytes:
    """Read an IDX file of bytes: a magic number with the number of dimensions, the dimensions, the data."""
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    size = int(np.prod(shape))
    try:
        with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(len(header) + size + 1)  # no more, whatever a gzipped file unfolds into
    except (EOFError, zlib.error) as error:
        raise SoftadvError(f"{path}: truncated or damaged ({error})") from error
    if content[: len(header)] != header:
        raise SoftadvError(f"{path}: not an IDX file of {' x '.join(map(str, shape))} bytes")
    if len(content) != len(header) + size:
        raise SoftadvError(f"{path}: not {size:,} bytes behind the header; truncated or not mnist")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)


def _read_cifar10(paths: list[Path]) -> DatasetArrays:
    """Each record: one byte of label, then the pixels, channel by channel."""
    pixels, labels = [], []
    for path in paths:
        with reading(path):
            records = np.fromfile(path, dtype=np.uint8).reshape(-1, 3073)
        labels.append(records[:, 0])
        pixels.append(records[:, 1:])
    return _cifar10_parts(paths, pixels, labels)


def _read_cifar10_pickles(paths: list[Path]) -> DatasetArrays:
    """Each file: a dictionary of the pixels as an array (10,000, 3072), and the labels as a list."""
    pixels, labels = [], []
    for path in paths:
        with reading(path):
            found = read_pickle(path.read_bytes(), where=str(path))
        if not isinstance(found, dict):
            raise SoftadvError(f"{path}: not a dictionary with data and labels")
        table = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in found.items()}
        images = bytes_of_array(table.get("data"), where=f"{path}: data")
        classes = table.get("labels")
        if images.shape != (_CIFAR10_IMAGES, 3072):
            raise SoftadvError(f"{path}: data: expected ({_CIFAR10_IMAGES}, 3072) bytes, got {images.shape}")
        if not isinstance(classes, list) or len(classes) != len(images):
            raise SoftadvError(f"{path}: labels: expected a list of {len(images)}")
        for index, label in enumerate(classes):
            if type(label) is not int or not 0 <= label < _CLASSES:
                raise SoftadvError(f"{path}: image {index} has label {str(label)[:20]}, labels end at {_CLASSES - 1}")
        pixels.append(images)
        labels.append(np.array(classes, dtype=np.uint8))
    return _cifar10_parts(paths, pixels, labels)


def _cifar10_parts(paths: list[Path], pixels: list[Bytes], labels: list[Bytes]) -> DatasetArrays:
    for path, classes in zip(paths, labels, strict=True):
        _check_labels(path, classes)
    images = [part.reshape(-1, 3, 32, 32) for part in pixels]
    return np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1]


def _check_labels(path: Path, labels: Bytes) -> None:
    if labels.max() >= _CLASSES:
        first = int(np.argmax(labels >= _CLASSES))
        raise SoftadvError(f"{path}: image {first} has label {labels[first]}, labels end at {_CLASSES - 1}")


_MNIST_IMAGES = (60_000, 10_000)  # for training, for testing
_CIFAR10_IMAGES = 10_000  # in each file
_CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "mnist": (
        Layout(
            folders=("MNIST/raw", "MNIST", "mnist", "raw", "."),
            files={
                "train-images-idx3-ubyte": 16 + _MNIST_IMAGES[0] * 784,
                "train-labels-idx1-ubyte": 8 + _MNIST_IMAGES[0],
                "t10k-images-idx3-ubyte": 16 + _MNIST_IMAGES[1] * 784,
                "t10k-labels-idx1-ubyte": 8 + _MNIST_IMAGES[1],
            },
            forms=_mnist_forms,
            read=_read_mnist,
        ),
    ),
    "cifar10": (
        Layout(
            folders=("cifar-10-batches-bin", "."),
            files=dict.fromkeys((f"{name}.bin" for name in _CIFAR10_FILES), _CIFAR10_IMAGES * 3073),
            forms=lambda file: (file,),
            read=_read_cifar10,
        ),
        Layout(
            folders=("cifar-10-batches-py", "."),
            files=dict.fromkeys(_CIFAR10_FILES),
            forms=lambda file: (file,),
            read=_read_cifar10_pickles,
        ),
    ),
}


def _move_in(name: str, source: Path, target: Path) -> None:
    """Move a dataset's files into place, atomically if the target does not exist yet."""
    layout = LAYOUTS[name][0]
    inside = layout.folders[0]
    folder = Path(inside).parts[0]
    if not (target / folder).exists():
        os.replace(source / folder, target / folder)
        return
    for file in layout.files:
        (target / inside).mkdir(parents=True, exist_ok=True)
        os.replace(source / inside / file, target / inside / file)


def _unpack(archive: Path, name: str) -> None:
    """Unpack a dataset's files, and nothing else, beside their archive."""
    with tarfile.open(archive) as opened:
        layout = LAYOUTS[name][0]
        folder = layout.folders[0]
        (archive.parent / folder).mkdir()
        for file in layout.files:
            packed = opened.extractfile(f"{folder}/{file}")
            if packed is None:
                raise OSError(f"{file} in the archive is no file")
            with packed, (archive.parent / folder / file).open("wb") as written:
                shutil.copyfileobj(packed, written)


def _download(name: str) -> Path:
    """Download into ./data; the files appear there only once they are whole."""
    # Half a program's start-up time, for the one command that ever downloads.
    from torchvision.datasets import MNIST  # noqa: PLC0415
    from torchvision.datasets.utils import download_url  # noqa: PLC0415

    target = Path("data")
    nothing = "; ".join(_nothing(name, place) for place in search_places())
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
        why = " ".join(str(error).split())
        raise SoftadvError(
            f"{name}: {nothing}; and the download failed ({why}); "
            "name its folder with --data or SOFTADV_DATA, or use the bundled dataset digits"
        ) from error
    return target
