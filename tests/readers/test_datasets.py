"""What every data set has to be, whoever makes it; and functions that return one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from softadv import data
from softadv.data import KNOWN, dataset_title, load_dataset, make_dataset
from tests.readers.arrays import LABELS, PIXELS, RNG, parts
from tests.refusals import refusal

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


@pytest.mark.usefixtures("registries")
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
