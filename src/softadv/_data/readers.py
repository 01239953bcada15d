"""Readers for other data sets: image folders, torchvision's classes, and .npz files."""

from __future__ import annotations

import hashlib
import inspect
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from softadv._data.files import reading, search_places
from softadv.errors import SoftadvError
from softadv.registry import call

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True)
class Arrays:
    """Images and labels as read, not yet checked. class_names: None where the source has none."""

    train_x: npt.NDArray[Any]
    train_y: npt.NDArray[Any]
    test_x: npt.NDArray[Any]
    test_y: npt.NDArray[Any]
    class_names: tuple[str, ...] | None = None


def read_npz(path: Path) -> Arrays:
    """The arrays train_x, train_y, test_x and test_y of an .npz file, and class_names if it is there; no pickles."""
    try:
        with reading(path), path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise SoftadvError(f"{path}: one array; expected an .npz file of {', '.join(_ARRAYS)}")
            missing = [name for name in _ARRAYS if name not in file.files]
            if missing:
                has = ", ".join(file.files) or "nothing"
                raise SoftadvError(f"{path}: has no {missing[0]}; expected {', '.join(_ARRAYS)}, found {has}")
            found = [file[name] for name in _ARRAYS]
            names = file["class_names"] if "class_names" in file.files else None
    except SoftadvError:
        raise
    except (ValueError, EOFError, MemoryError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise SoftadvError(f"{path}: not an .npz file of plain arrays, or damaged ({_one_line(error)})") from error
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise SoftadvError(
            f"{path}: class_names: expected strings (classes,), got {names.dtype} of shape {names.shape}"
        )
    return Arrays(found[0], found[1], found[2], found[3], None if names is None else tuple(map(str, names)))


def read_folder(path: Path) -> Arrays:
    """Images in train/CLASS/ and test/CLASS/ of a folder, as torchvision's ImageFolder reads each part.

    Classes are numbered in the order of their names. Images are shuffled in a fixed way, so that the first n images
    contain all classes.
    """
    classes: dict[str, list[str]] = {}
    for part in ("train", "test"):
        with reading(path / part):
            if not (path / part).is_dir():
                raise SoftadvError(f"{path}: has no folder {part}/; expected train/CLASS/ and test/CLASS/ with images")
            classes[part] = sorted(entry.name for entry in (path / part).iterdir() if _is_class(entry))
    names = classes["train"]
    if not names:
        raise SoftadvError(f"{path / 'train'}: has no folders; expected one for each class")
    for one, other in (("train", "test"), ("test", "train")):
        alone = [name for name in classes[one] if name not in classes[other]]
        if alone:
            raise SoftadvError(f"{path / one / alone[0]}: there is no class of this name in {other}/")
    parts = [_collected(_images_below(path / part, names)) for part in ("train", "test")]
    return _joined(parts, tuple(names), where=str(path))


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _images_below(part: Path, names: list[str]) -> Iterator[tuple[str, npt.NDArray[np.uint8], object]]:
    from PIL import Image  # noqa: PLC0415 (for this reader alone)

    for label, name in enumerate(names):
        with reading(part / name):
            files = sorted(file for file in (part / name).rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise SoftadvError(f"{part / name}: has no images ({', '.join(sorted(_SUFFIXES))})")
        for file in files:
            try:
                with Image.open(file) as image:
                    pixels = _pixels(image, where=str(file))
            except SoftadvError:
                raise
            except Exception as error:  # a damaged image raises almost anything
                raise SoftadvError(f"{file}: cannot be read as an image ({_one_line(error)})") from error
            yield str(file), pixels, label


def read_torchvision(name: str, root: str | Path | None) -> tuple[Arrays, str]:
    """A classification set of torchvision by the name of its class, and where it lies.

    It is looked for in its own layout in search_places, then, without a root, downloaded into ./data.
    "EMNIST:balanced" names the split of a set that comes in several. Training images are the part train=True,
    "trainval" or "train", test images the part train=False, "test", "val" or "valid": the first that there is.
    """
    import torchvision.datasets as sets  # noqa: PLC0415 (half a second, for this reader alone)

    name, _, split = name.partition(":")
    where = f"dataset torchvision:{name}"
    kind = getattr(sets, name, None) if name in sets.__all__ else None
    if not inspect.isclass(kind):
        close = get_close_matches(name, sets.__all__, n=1)
        raise SoftadvError(f"{where}: torchvision has no such set{f'; did you mean {close[0]}?' if close else ''}")
    takes = inspect.signature(kind.__init__).parameters
    if "root" not in takes:
        raise SoftadvError(f"{where}: torchvision does not keep it in a folder")
    further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    options: dict[str, Any] = {"split": split} if split else {}
    if not split and "split" in takes and takes["split"].default is inspect.Parameter.empty:
        raise SoftadvError(f"{where}: comes in several splits; name one, such as torchvision:{name}:balanced")
    loads = "download" in takes or further
    why = "it is not on disk, and torchvision does not download it"
    places = [(place, False) for place in search_places(root)]
    if loads and root is None:
        places.append((Path("data"), True))
    for place, download in places:
        try:
            its_options = options | {"root": str(place)} | ({"download": download} if loads else {})
            parts = [
                _part(kind, training, its_options, trained="train" in takes or further) for training in (True, False)
            ]
        except (RuntimeError, OSError) as error:
            why = _one_line(error)
            continue
        except (TypeError, ValueError) as error:
            raise SoftadvError(
                f"{where}: has no training and test part that softadv knows ({_one_line(error)})"
            ) from error
        collected = [_collected(_items(part, where=where)) for part in parts]
        names = getattr(parts[0], "classes", None)
        return _joined(collected, tuple(map(str, names)) if names else None, where=where), str(place)
    looked = ", ".join(str(place) for place in search_places(root))
    raise SoftadvError(f"{where}: not found in {looked}, and not to be had ({why})")


def _part(kind: Any, training: bool, options: dict[str, Any], *, trained: bool) -> Any:
    if trained:
        return kind(train=training, **options)
    refused = ValueError("one part only")
    for split in ("trainval", "train") if training else ("test", "val", "valid"):
        try:
            return kind(split=split, **options)
        except ValueError as error:  # how torchvision says that there is no such split
            refused = error
    raise refused


def _items(part: Any, *, where: str) -> Iterator[tuple[str, npt.NDArray[np.uint8], object]]:
    for index in range(len(part)):
        place = f"{where}: image {index}"
        item = call(place, part.__getitem__, index)
        if not (isinstance(item, tuple) and len(item) == 2 and hasattr(item[0], "convert")):
            raise SoftadvError(f"{place}: not an image with a label; this is no classification set")
        yield place, _pixels(item[0], where=place), item[1]


def _pixels(image: Any, *, where: str) -> npt.NDArray[np.uint8]:
    """The pixels of a PIL image, (C, H, W): grey images have one channel, all others are taken as RGB."""
    if image.mode[0] in "IF":
        raise SoftadvError(f"{where}: has pixels of more than 8 bits (mode {image.mode})")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[None]
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _collected(
    items: Iterable[tuple[str, npt.NDArray[np.uint8], object]],
) -> tuple[list[npt.NDArray[np.uint8]], list[int]]:
    """The pixels and labels of a part; all images must have one size. Images sorted by class are shuffled."""
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    first = ""
    for place, pixels, label in items:
        if type(label) is not int:
            raise SoftadvError(f"{place}: its label is a {type(label).__name__}; this is no classification set")
        first = first or place
        if images and pixels.shape[1:] != images[0].shape[1:]:
            sizes = [" x ".join(map(str, array.shape[1:])) for array in (pixels, images[0])]
            raise SoftadvError(f"{place}: is {sizes[0]} pixels, but {first} is {sizes[1]}; all images need one size")
        images.append(pixels)
        labels.append(label)
    if labels == sorted(labels):
        order = sorted(range(len(labels)), key=lambda index: hashlib.sha256(b"%d" % index).digest())
        images, labels = [images[index] for index in order], [labels[index] for index in order]
    return images, labels


def _joined(
    parts: list[tuple[list[npt.NDArray[np.uint8]], list[int]]], names: tuple[str, ...] | None, *, where: str
) -> Arrays:
    if not all(labels for _, labels in parts):
        raise SoftadvError(f"{where}: has no images")
    # Where some images are in colour, the grey ones are colour images of grey.
    channels = max(len(pixels) for images, _ in parts for pixels in images)
    train_x, test_x = (
        np.stack([pixels if len(pixels) == channels else np.repeat(pixels, channels, 0) for pixels in images])
        for images, _ in parts
    )
    return Arrays(train_x, np.array(parts[0][1]), test_x, np.array(parts[1][1]), names)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
