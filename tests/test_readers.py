"""Data sets of one's own: folders, .npz files, torchvision's, functions; and what is wrong with them."""

from __future__ import annotations

import pickle
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softadv import data
from softadv.data import KNOWN, dataset_title, load_dataset, make_dataset
from softadv.errors import SoftadvError
from tests.refusals import refusal, said

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(12, 3, 8, 9), dtype=np.uint8)
LABELS = np.arange(12) % 4


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A new working folder, and no SOFTADV_DATA."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)


def parts(**changed) -> dict:
    return {"train_x": PIXELS[:8], "train_y": LABELS[:8], "test_x": PIXELS[8:], "test_y": LABELS[8:]} | changed


def save(path: str, **arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


# What every data set has to be.


def test_what_is_not_said_is_found_out():
    found = make_dataset("mine", **parts())
    x = torch.from_numpy(PIXELS[:8]).double() / 255
    assert (found.title, found.class_names, found.classes) == ("mine", ("0", "1", "2", "3"), 4)
    assert found.image_shape == (3, 8, 9)
    assert found.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert found.std == pytest.approx(x.std((0, 2, 3)).tolist(), abs=1e-3)
    assert not found.mirror_keeps_class


def test_a_fingerprint_tells_pixels_labels_and_shapes_apart():
    small = np.concatenate([PIXELS[:8].ravel(), PIXELS[8:].ravel()])
    other = PIXELS.copy()
    other[0, 0, 0, 0] ^= 1
    finer = PIXELS / np.float32(255)
    finer[0, 0, 0, 0] += np.float32(1e-6) if finer[0, 0, 0, 0] < 0.5 else np.float32(-1e-6)
    made = [
        parts(),
        parts(train_x=other[:8]),
        parts(train_x=finer[:8]),
        parts(test_y=LABELS[8:] ^ 1),
        parts(train_y=LABELS[:8] + 256),
        parts(train_x=small[: 8 * 216].reshape(8, 3, 9, 8), test_x=small[8 * 216 :].reshape(4, 3, 9, 8)),
    ]
    assert len({make_dataset("mine", **one).fingerprint for one in made}) == len(made)


def test_a_fingerprint_does_not_depend_on_how_the_same_data_were_given():
    as_floats = parts(train_x=PIXELS[:8] / np.float32(255), test_x=torch.from_numpy(PIXELS[8:]) / 255)
    as_doubles = parts(train_x=PIXELS[:8] / 255, train_y=torch.from_numpy(LABELS[:8]).int())
    fingerprints = {make_dataset("mine", **one).fingerprint for one in (parts(), as_floats, as_doubles)}
    assert len(fingerprints) == 1


def test_first_and_to_keep_what_is_known_of_the_whole():
    whole = make_dataset("mine", **parts(), class_names=tuple("abcd"), title="Mine", mirror_keeps_class=True)
    some = whole.first(train=2, test=3).to(torch.device("cpu"))
    assert len(some.train_x) == 2
    assert (some.mean, some.std, some.class_names, some.title) == (whole.mean, whole.std, whole.class_names, "Mine")
    assert some.mirror_keeps_class
    same = {"train_x": PIXELS[:2], "train_y": LABELS[:2], "test_x": PIXELS[8:11], "test_y": LABELS[8:11]}
    assert some.fingerprint == make_dataset("x", **same).fingerprint


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((12, 8, 9), (1, 8, 9)),
        ((12, 1, 8, 9), (1, 8, 9)),
        ((12, 8, 9, 1), (1, 8, 9)),
        ((12, 8, 9, 3), (3, 8, 9)),
        ((12, 8, 9, 4), (4, 8, 9)),
        ((12, 3, 8, 9), (3, 8, 9)),
        ((12, 3, 8, 4), (3, 8, 4)),
        ((12, 5, 8, 9), (5, 8, 9)),
        ((12, 2, 8, 9), (2, 8, 9)),
    ],
)
def test_channels_are_where_the_rule_says(shape, taken):
    x = RNG.integers(256, size=shape, dtype=np.uint8)
    found = make_dataset("mine", **parts(train_x=x[:8], test_x=x[8:]))
    assert found.image_shape == taken
    expected = x.transpose(0, 3, 1, 2) if len(shape) == 4 and shape[1] == 8 else x.reshape(12, *taken)
    torch.testing.assert_close(torch.cat([found.train_x, found.test_x]) * 255, torch.from_numpy(expected).float())


def bad(array, index, value):
    changed = np.array(array, dtype=np.float64)
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"train_x": bad(PIXELS[:8] / 255, (5, 1, 2, 3), np.nan)}, "train_x: image 5 has pixels that are NaN"),
        ({"test_x": bad(PIXELS[8:] / 255, (1, 0, 0, 0), np.inf)}, "test_x: image 1 has pixels that are NaN"),
        ({"train_x": PIXELS[:8].astype(np.float32)}, "outside [0, 1]"),
        ({"train_x": bad(PIXELS[:8] / 255, (2, 0, 0, 0), -0.25)}, "train_x: image 2 has pixels from -0.25"),
        ({"train_x": PIXELS[:8].astype(np.int64)}, "train_x: expected pixels as uint8, or as floating point in [0, 1]"),
        ({"train_x": PIXELS[:8].astype(object)}, "train_x: expected pixels"),
        ({"train_x": PIXELS[:8] * 1j}, "train_x: expected pixels"),
        ({"train_x": PIXELS[:8].tolist()}, "train_x: expected an array or a tensor, got a list"),
        ({"train_x": PIXELS[0, 0]}, "train_x: expected images"),
        ({"train_x": PIXELS[:7]}, "train: 7 images but 8 labels"),
        ({"test_x": PIXELS[8:, :, :7]}, "images of shape (3, 8, 9) in train, (3, 7, 9) in test"),
        ({"test_x": PIXELS[8:, :1]}, "images of shape (3, 8, 9) in train, (1, 8, 9) in test"),
        ({"test_x": PIXELS[:0], "test_y": LABELS[:0]}, "test_x: no images"),
        ({"train_x": PIXELS[:8, :, :0]}, "train_x: no images, or images without pixels"),
        ({"train_y": LABELS[:8] - 1}, "train_y: image 0 has label -1, labels begin at 0"),
        ({"train_y": LABELS[:8].astype(float)}, "train_y: expected whole numbers (N,), got float64"),
        ({"train_y": LABELS[:8] > 1}, "train_y: expected whole numbers (N,), got bool"),
        ({"train_y": np.eye(8, dtype=int)}, "train_y: expected whole numbers (N,), got int64 of shape (8, 8)"),
        ({"train_y": list(LABELS[:8])}, "train_y: expected an array or a tensor, got a list"),
        ({"class_names": ("a", "b", "c")}, "train_y: image 3 has label 3, labels end at 2"),
        ({"class_names": ("a",)}, "at least two classes"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean and std: expected a number for each of 3 channels"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "mean and std"),
        ({"mean": (0.5,) * 3}, "mean and std"),
    ],
)
def test_what_is_wrong_with_data_is_one_line(changed, expected):
    message = refusal(make_dataset, "mine", **parts(**changed))
    assert message.startswith("dataset mine: ")
    assert expected in message


def test_a_channel_that_never_varies_can_be_normalised():
    x = PIXELS.copy()
    x[:, 1] = 7
    assert make_dataset("mine", **parts(train_x=x[:8], test_x=x[8:])).std[1] == 1


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_of_the_built_in_sets_is_what_they_say(name, request):
    about = KNOWN[name]
    assert len(about.mean) == len(about.std) == about.image_shape[0]
    assert len(about.class_names) == 10
    if name == "digits":
        found = request.getfixturevalue("digits")
        for key in ("title", "image_shape", "class_names", "mean", "std", "mirror_keeps_class"):
            assert getattr(found, key) == getattr(about, key)


# Functions.


@pytest.fixture
def module(tmp_path):
    """Writes a module of its own name into the working folder; returns the name."""
    counter = iter(range(10))

    def write(text: str) -> str:
        name = re.sub(r"\W", "_", f"softadv_{tmp_path.name}_{next(counter)}")
        Path(f"{name}.py").write_text(f"import numpy as np, softadv\nfrom softadv.data import *\n{text}")
        return name

    return write


OWN = """
def data(root="nowhere"):
    x = np.random.default_rng(0).random((6, 2, 5, 5))
    return make_dataset("mine", x, np.arange(6) % 3, x, np.arange(6) % 3, source=str(root), title="Mine")
def plain():
    return data("plain")
fixed = plain()
"""


def test_a_function_of_ones_own_returns_a_dataset(module):
    name = module(OWN)
    found = load_dataset(f"{name}:data", "over there")
    assert (found.name, found.title, found.source) == (f"{name}:data", "Mine", "over there")
    assert (found.image_shape, found.classes) == ((2, 5, 5), 3)
    assert load_dataset(f"{name}:plain").source == "plain"
    assert load_dataset(f"{name}:fixed").name == f"{name}:fixed"
    assert load_dataset(found) is found
    function = __import__(name).plain
    assert load_dataset(function).name == f"{name}:plain"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def data(): return 3", "expected a softadv.Dataset, got a int"),
        ("def data(): return {}['key']", "raised KeyError: 'key'; "),
        ("def data(path): return path", "missing 1 required positional argument"),
        ("def data(): return make_dataset('m', *[np.zeros((2, 1, 4, 4))] * 4)", "train_y: expected whole numbers"),
        ("data = 3", "expected a function that returns a softadv.Dataset, got a int"),
    ],
)
def test_a_function_that_does_not_is_one_line(module, text, expected):
    name = module(text)
    message = refusal(load_dataset, f"{name}:data")
    assert expected in message
    assert name in message or "dataset m: " in message


def test_a_registered_data_set_is_found_by_its_name():
    data.register("softadv-test-set")(lambda: make_dataset("x", **parts()))
    assert "softadv-test-set" in data.names()
    assert load_dataset("softadv-test-set").name == "softadv-test-set"


def test_titles_are_for_people():
    titles = {
        "cifar10": "CIFAR-10", "torchvision:SVHN": "SVHN", "folder:/a/flowers": "flowers", "npz:b/birds.npz": "birds",
        "my.sets:trees": "trees", "other": "other",
    }  # fmt: skip
    assert {name: dataset_title(name) for name in titles} == titles


# .npz files.


def test_an_npz_file_is_read_with_its_class_names():
    name = save("a.npz", **parts(), class_names=np.array(["ä", "b", "c", "d"]), other=np.zeros(3))
    found = load_dataset(name)
    assert (found.name, found.source, found.title) == (name, "a.npz", "a")
    assert found.class_names == ("ä", "b", "c", "d")
    torch.testing.assert_close(found.train_x, torch.from_numpy(PIXELS[:8]) / 255, rtol=0, atol=0)
    assert found.fingerprint == make_dataset("x", **parts()).fingerprint


def test_an_npz_file_in_other_number_formats_is_read():
    as_big = parts(train_x=(PIXELS[:8] / 255).astype(">f8"), train_y=LABELS[:8].astype(">i2"),
                   test_x=(PIXELS[8:] / 255).astype(np.float16), test_y=LABELS[8:].astype(np.uint64))  # fmt: skip
    found = load_dataset(save("a.npz", **as_big))
    torch.testing.assert_close(found.train_x, torch.from_numpy(PIXELS[:8]) / 255)
    assert found.train_y.tolist() == LABELS[:8].tolist()


class Touches:
    """Unpickled, makes a file."""

    def __reduce__(self):
        return open, ("target", "w")


def test_pickles_in_an_npz_file_are_refused_and_not_run():
    for key in ("train_x", "class_names"):
        name = save(f"{key}.npz", **(parts() | {key: np.array([Touches()] * 8, dtype=object)}))
        assert refusal(load_dataset, name).startswith(f"{key}.npz: not an .npz file of plain arrays")
    Path("pickle.npz").write_bytes(pickle.dumps(Touches()))
    assert refusal(load_dataset, "npz:pickle.npz").startswith("pickle.npz: ")
    assert not Path("target").exists()


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda: save("a.npz", train_x=PIXELS), "no train_y; expected train_x, train_y, test_x, test_y, found train_x"),
        (lambda: np.save("a.npz.npy", PIXELS) or Path("a.npz.npy").rename("a.npz"), "one array"),
        (lambda: Path("a.npz").write_bytes(b""), "damaged"),
        (lambda: Path("a.npz").write_text("text"), "damaged"),
        (lambda: Path("a.npz").mkdir(), "cannot be read (Is a directory)"),
        (lambda: None, "cannot be read (No such file or directory)"),
        (lambda: save("a.npz", **parts(), class_names=np.arange(4)), "class_names: expected strings"),
        (lambda: save("a.npz", **parts(), class_names=np.array([["a", "b"]])), "class_names: expected strings"),
        (lambda: zipfile.ZipFile("a.npz", "w").close(), "found nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_npz_file_is_named(write, expected):
    write()
    message = refusal(load_dataset, "npz:a.npz")
    assert message.startswith("a.npz: ")
    assert expected in message


def test_damage_anywhere_in_an_npz_file_is_one_line_or_harmless():
    for saved in (np.savez, np.savez_compressed):
        saved("a.npz", **parts())
        whole = Path("a.npz").read_bytes()
        rng = random.Random(0)
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            Path("a.npz").write_bytes(content[: rng.choice((None, None, rng.randrange(len(whole))))])
            said(load_dataset, "npz:a.npz")


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
