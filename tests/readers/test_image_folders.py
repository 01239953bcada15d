"""Folders of images, and torchvision's data sets."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softadv.data import load_dataset
from softadv.errors import SoftadvError
from tests.refusals import refusal, said

# Folders of images.


def lay_out(root: str = "flowers", *, names=("daisy", "rose", "tulip"), count: int = 4, suffix: str = ".png") -> Path:
    for part in ("train", "test"):
        for index, name in enumerate(names):
            folder = Path(root, part, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 9, 3), 10 * index + number, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}{suffix}")
    return Path(root)


def test_a_folder_of_images_is_read():
    root = lay_out()
    (root / "train/.hidden").mkdir()
    (root / "train/rose/notes.txt").write_text("no image")
    (root / "test/labels.csv").write_text("no class")
    found = load_dataset(f"folder:{root}")
    assert (found.class_names, found.title, found.source) == (("daisy", "rose", "tulip"), "flowers", "flowers")
    assert found.image_shape == (3, 8, 9)
    assert found.train_y.bincount().tolist() == found.test_y.bincount().tolist() == [4, 4, 4]
    assert ((found.train_x[:, 0, 0, 0] * 255).round().long() // 10).tolist() == found.train_y.tolist()
    # The first few images are of several classes, though the folders lie one after the other.
    assert len(found.train_y[:4].unique()) > 1
    assert load_dataset(f"folder:{root}").fingerprint == found.fingerprint


def test_grey_images_have_one_channel_and_are_grey_among_coloured_ones():
    root = lay_out()
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    grey = load_dataset(f"folder:{root}")
    assert grey.image_shape == (1, 8, 9)
    Image.fromarray(np.full((8, 9, 3), 50, dtype=np.uint8)).save(root / "test/rose/0.png")
    mixed = load_dataset(f"folder:{root}")
    torch.testing.assert_close(mixed.train_x, grey.train_x.repeat(1, 3, 1, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train").rename(root / "training"), "flowers: has no folder train/"),
        (lambda root: (root / "test").rename(root / "testing"), "flowers: has no folder test/"),
        (
            lambda root: (root / "test/rose").rename(root / "test/roses"),
            "train/rose: there is no class of this name in",
        ),
        (lambda root: (root / "test/zinnia").mkdir(), "test/zinnia: there is no class of this name in train/"),
        (lambda root: [p.unlink() for p in (root / "train/rose").iterdir()], "train/rose: has no images (.bmp, "),
        (lambda root: (root / "train/rose/1.png").write_bytes(b"text"), "train/rose/1.png: cannot be read as an image"),
        (
            lambda root: Image.new("RGB", (8, 9)).save(root / "train/rose/1.png"),
            "train/rose/1.png: is 9 x 8 pixels, but flowers/train/daisy/0.png is 8 x 9",
        ),
        (
            lambda root: [Image.new("RGB", (4, 4)).save(path) for path in root.glob("test/*/*.png")],
            "images of shape (3, 8, 9) in train, (3, 4, 4) in test",
        ),
        (lambda root: Image.new("I;16", (9, 8)).save(root / "train/rose/1.png"), "rose/1.png: has pixels of more than"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(change, message):
    change(lay_out())
    assert message in refusal(load_dataset, "folder:flowers")


def test_a_folder_of_one_class_or_of_none_is_refused():
    lay_out("one", names=("daisy",))
    assert "at least two classes" in refusal(load_dataset, "folder:one")
    for part in ("train", "test"):
        Path("none", part).mkdir(parents=True)
    assert "train: has no folders; expected one for each class" in refusal(load_dataset, "folder:none")
    assert "has no folder train/" in refusal(load_dataset, "folder:/nowhere")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif", ".webp"])
def test_damage_anywhere_in_an_image_is_one_line_or_harmless(suffix):
    path = lay_out(suffix=suffix) / "train" / "rose" / f"1{suffix}"
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(25):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice((None, rng.randrange(len(whole))))])
        said(load_dataset, "folder:flowers")


# torchvision's sets.


def lay_out_fashion(root: str, *, labels=(0, 1, 2, 3, 4)) -> None:
    raw = Path(root, "FashionMNIST/raw")
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = np.arange(len(labels) * 784, dtype=np.uint32).astype(np.uint8)
        header = struct.pack(">4I", 2051, len(labels), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, len(labels)) + bytes(labels))


def test_a_set_of_torchvision_is_read_from_its_own_layout():
    lay_out_fashion("data", labels=(3, 1, 4, 1, 5))
    found = load_dataset("torchvision:FashionMNIST")
    assert (found.name, found.title, found.source) == ("torchvision:FashionMNIST", "FashionMNIST", "data")
    assert found.class_names[:2] == ("T-shirt/top", "Trouser")
    assert found.classes == 10
    assert found.train_y.tolist() == [3, 1, 4, 1, 5]
    expected = torch.from_numpy(np.arange(5 * 784, dtype=np.uint32).astype(np.uint8)).reshape(5, 1, 28, 28)
    torch.testing.assert_close(found.train_x, expected / 255, rtol=0, atol=0)


def test_a_set_of_torchvision_is_searched_like_the_others(monkeypatch):
    lay_out_fashion("named")
    lay_out_fashion("root")
    monkeypatch.setenv("SOFTADV_DATA", "named")
    assert load_dataset("torchvision:FashionMNIST").source == "named"
    assert load_dataset("torchvision:FashionMNIST", "root").source == "root"
    Path("empty").mkdir()
    with pytest.raises(SoftadvError, match="dataset torchvision:FashionMNIST: not found in empty, and"):
        load_dataset("torchvision:FashionMNIST", "empty")
    assert not Path("data").exists()


def test_a_set_of_torchvision_in_splits_that_lies_class_by_class():
    for part in ("train", "valid", "test"):
        for name in ("AD", "BE"):
            folder = Path("data/country211", part, name)
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (6, 6), (number, 0, 0)).save(folder / f"{number}.jpg")
    found = load_dataset("torchvision:Country211")
    assert found.class_names == ("AD", "BE")
    assert sorted(found.train_y.tolist()) == [0] * 8 + [1] * 8
    assert len(found.train_y[:8].unique()) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SVHM", "torchvision has no such set; did you mean SVHN?"),
        ("wrap_dataset_for_transforms_v2", "torchvision has no such set"),
        ("FakeData", "does not keep it in a folder"),
        ("EMNIST", "comes in several splits; name one, such as torchvision:EMNIST:balanced"),
        ("EMNIST:unheard", "Unknown value 'unheard'"),
        ("EuroSAT", "has no training and test part"),
        ("ImageNet", "not found in data, and not to be had ("),
    ],
)
def test_what_cannot_be_had_of_torchvision_is_one_line(name, expected, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", None)  # no download in a test
    Path("data/eurosat/2750/Forest").mkdir(parents=True)
    Image.new("RGB", (6, 6)).save("data/eurosat/2750/Forest/a.jpg")
    message = refusal(load_dataset, f"torchvision:{name}")
    assert message.startswith(f"dataset torchvision:{name.partition(':')[0]}: ")
    assert expected in message


def test_a_set_of_torchvision_that_is_not_there_is_downloaded_and_else_refused(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", ["http://127.0.0.1:9/"])
    message = refusal(load_dataset, "torchvision:FashionMNIST")
    assert "not found in data, and not to be had (" in message
    assert "refused" in message


def test_a_truncated_file_of_torchvision_is_one_line():
    lay_out_fashion("data")
    path = Path("data/FashionMNIST/raw/train-images-idx3-ubyte")
    path.write_bytes(path.read_bytes()[:1000])
    assert "FashionMNIST" in refusal(load_dataset, "torchvision:FashionMNIST")
