""".npz files: read with what they hold, and refused in one line where they are damaged."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from softadv.data import load_dataset, make_dataset
from tests.readers.arrays import LABELS, PIXELS, parts
from tests.refusals import refusal, said


def save(path: str, **arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


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
