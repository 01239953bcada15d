"""MNIST and CIFAR-10 in every layout that they come in; what lies there instead; and files that would run code."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import shutil
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softadv._data import files as _files
from softadv._data.unpickle import bytes_of_array, read_pickle
from softadv.cli import doctor
from softadv.data import find_dataset, load_dataset
from tests.refusals import refusal, said

MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10 = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, no SOFTADV_DATA, and no download."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(_files, "CIFAR10_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")


@pytest.fixture
def mnist(monkeypatch) -> dict[str, bytes]:
    """The files of an MNIST of seven and three images."""
    monkeypatch.setattr(_files, "_MNIST_IMAGES", (7, 3))
    rng = np.random.default_rng(0)
    files = {}
    for images, labels, count in ((*MNIST[:2], 7), (*MNIST[2:], 3)):
        files[images] = struct.pack(">4I", 2051, count, 28, 28) + rng.bytes(count * 784)
        files[labels] = struct.pack(">2I", 2049, count) + rng.integers(10, size=count, dtype=np.uint8).tobytes()
    (layout,) = _files.LAYOUTS["mnist"]
    small = replace(layout, files={name: len(content) for name, content in files.items()})
    monkeypatch.setitem(_files.LAYOUTS, "mnist", (small,))
    return files


@pytest.fixture
def cifar10(monkeypatch) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Pixels and labels of a CIFAR-10 with four images to a file, by file."""
    monkeypatch.setattr(_files, "_CIFAR10_IMAGES", 4)
    binary, pickles = _files.LAYOUTS["cifar10"]
    monkeypatch.setitem(
        _files.LAYOUTS, "cifar10", (replace(binary, files=dict.fromkeys(binary.files, 4 * 3073)), pickles)
    )
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(256, size=(4, 3072), dtype=np.uint8), rng.integers(10, size=4).tolist()) for name in CIFAR10
    }


def write_binary(folder: Path, files: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in files.items():
        records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_pickles(folder: Path, files: dict, *, protocol: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in files.items():
        table = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * len(pixels)}
        (folder / name).write_bytes(pickle.dumps(table, protocol=protocol))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("folder", ["MNIST/raw", "mnist", "raw", "."])
def test_mnist_is_found_in_each_of_its_layouts(mnist, tmp_path, folder, dotted, packed):
    lay_out_mnist(tmp_path / "usual/MNIST/raw", mnist)
    place = tmp_path / "root" / folder
    lay_out_mnist(place, mnist, dotted=dotted, packed=packed)
    found = load_dataset("mnist", tmp_path / "root")
    assert found.fingerprint == load_dataset("mnist", tmp_path / "usual").fingerprint
    assert found.train_y.tolist() == list(mnist[MNIST[1]][8:])
    assert found.source == str(tmp_path / "root")


def lay_out_mnist(folder: Path, files: dict[str, bytes], *, dotted: bool = False, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    for file, content in files.items():
        name = file.replace("-idx", ".idx") if dotted else file
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("deep", ["MNIST", "MNIST/raw"])
def test_mnist_is_found_by_a_folder_that_is_too_deep(mnist, tmp_path, deep):
    lay_out_mnist(tmp_path / "MNIST/raw", mnist)
    assert len(load_dataset("mnist", tmp_path / deep).train_x) == 7


def test_files_of_several_forms_may_lie_together(mnist, tmp_path):
    lay_out_mnist(tmp_path / "MNIST/raw", mnist)
    packed = tmp_path / "MNIST/raw" / MNIST[0]
    packed.with_suffix(".gz").write_bytes(gzip.compress(mnist[MNIST[0]]))
    packed.unlink()
    assert len(load_dataset("mnist", tmp_path).train_x) == 7


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "too long", "too short", "another header", "empty"])
@pytest.mark.parametrize("file", MNIST)
def test_a_damaged_gzipped_file_is_named(mnist, tmp_path, damage, file):
    lay_out_mnist(tmp_path / "raw", mnist, packed=True)
    path = tmp_path / "raw" / f"{file}.gz"
    whole = path.read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "garbage": b"not gzipped at all",
        "flipped": whole[:30] + bytes([whole[30] ^ 255]) + whole[31:],
        "too long": gzip.compress(mnist[file] + b"\0" * 10**7),
        "too short": gzip.compress(mnist[file][:-1]),
        "another header": gzip.compress(b"\0" + mnist[file]),
        "empty": b"",
    }[damage]
    path.write_bytes(content)
    assert refusal(load_dataset, "mnist", tmp_path).startswith(f"{path}: ")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "."])
def test_cifar10_is_the_same_in_both_of_its_versions(cifar10, tmp_path, folder, protocol):
    write_binary(tmp_path / "binary/cifar-10-batches-bin", cifar10)
    write_pickles(tmp_path / "python" / folder, cifar10, protocol=protocol)
    binary, found = (load_dataset("cifar10", tmp_path / version) for version in ("binary", "python"))
    assert found.fingerprint == binary.fingerprint
    assert found.test_y.tolist() == cifar10["test_batch"][1]
    assert find_dataset("cifar10", tmp_path / "python") == tmp_path / "python"


def test_a_whole_version_is_taken_before_one_with_files_missing(cifar10, tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin", cifar10)
    write_pickles(tmp_path / "cifar-10-batches-py", cifar10)
    missing = tmp_path / "cifar-10-batches-bin/data_batch_3.bin"
    missing.unlink()
    assert len(load_dataset("cifar10", tmp_path).train_x) == 20
    (tmp_path / "cifar-10-batches-py/test_batch").unlink()
    assert refusal(load_dataset, "cifar10", tmp_path).startswith(f"{missing}: missing")


def test_the_bytes_that_python_2_wrote_are_read():
    """Protocol 2 with strings as bytes, as the publisher's own files have them."""
    written = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\n"
        b"q\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01"
        b"\x87Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftbu."
    )
    table = read_pickle(written, where="x")
    assert table[b"labels"] == [6, 9]
    assert bytes_of_array(table[b"data"], where="x").tolist() == [[97, 98, 99], [100, 101, 102]]


class Opens:
    """Unpickled, makes a file."""

    def __init__(self, path: Path, how) -> None:
        self.path, self.how = path, how

    def __reduce__(self):
        return self.how(self.path)


HOSTILE = {
    "open": lambda path: (open, (str(path), "w")),
    "os.system": lambda path: (os.system, (f"touch {path}",)),
    "eval": lambda path: (eval, (f"open({str(path)!r}, 'w')",)),
    "getattr": lambda path: (getattr, (Path(path), "touch")),
    "numpy.load": lambda path: (np.load, (str(path),)),
    "numpy.fromfile": lambda path: (np.fromfile, (str(path),)),
    "object array": lambda path: np.array([path], dtype=object).__reduce__(),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", HOSTILE)
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(cifar10, tmp_path, how, protocol):
    write_pickles(tmp_path / "cifar-10-batches-py", cifar10)
    path = tmp_path / "cifar-10-batches-py/data_batch_2"
    target = tmp_path / "target"
    path.write_bytes(pickle.dumps({b"labels": [0] * 4, b"data": Opens(target, HOSTILE[how])}, protocol=protocol))
    message = refusal(load_dataset, "cifar10", tmp_path)
    assert message.startswith(f"{path}: ")
    assert how == "object array" or "no plain data" in message
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n.",
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x02Pabc\n.",  # a persistent id
        b"\x80\x02c_codecs\nencode\n}U\x01aK\x01sb.",  # sets an attribute of what may be called
        b"\x80\x02cnumpy\nndarray\n)R.",  # calls what is only an argument
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b".",  # 2**63 bytes are said to follow
        b"",
        b".",
    ],
)
def test_a_hostile_or_damaged_pickle_is_one_line(content):
    message = refusal(read_pickle, content, where="the file")
    assert message.startswith("the file: not a pickle of plain data, or damaged (")


def test_a_pickle_takes_no_more_memory_than_it_fills():
    assert read_pickle(b"\x80\x02K\x01r\xff\xff\xff\xff.", where="x") == 1  # in the four thousand millionth place
    nested = read_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", where="x")
    assert said(lambda: bytes_of_array(nested, where="x")) == "x: expected an array of bytes"


@pytest.mark.parametrize(
    "table",
    [
        [1, 2],
        {b"data": np.zeros((4, 3072), np.uint8)},
        {b"labels": [0] * 4},
        {b"data": np.zeros((4, 3072), np.int8), b"labels": [0] * 4},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0] * 3},
        {b"data": np.zeros((4, 3071), np.uint8), b"labels": [0] * 4},
        {b"data": b"\0" * 4 * 3072, b"labels": [0] * 4},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 10]},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, -1]},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 10**400]},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 1.0]},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": b"\0\1\2\3"},
    ],
)
def test_a_pickle_of_other_things_is_named(cifar10, tmp_path, table):
    write_pickles(tmp_path / "cifar-10-batches-py", cifar10)
    path = tmp_path / "cifar-10-batches-py/data_batch_5"
    path.write_bytes(pickle.dumps(table))
    assert refusal(load_dataset, "cifar10", tmp_path).startswith(f"{path}: ")


def test_damage_anywhere_in_a_pickle_is_one_line_or_harmless(cifar10, tmp_path):
    write_pickles(tmp_path / "cifar-10-batches-py", cifar10)
    path = tmp_path / "cifar-10-batches-py/data_batch_1"
    whole = path.read_bytes()
    rng = random.Random(0)
    header = range(min(400, len(whole)))
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.choice((*header, len(whole) - 1 - rng.randrange(400)))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice((None, None, rng.randrange(len(whole))))])
        message = said(load_dataset, "cifar10", tmp_path)
        assert message is None or message.startswith(str(path))


@pytest.mark.parametrize(
    ("name", "looked"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-bin/data_batch_1.bin or cifar-10-batches-py/data_batch_1"),
    ],
)
def test_what_lies_there_instead_is_named(tmp_path, name, looked):
    root = tmp_path / "root"
    for entry in ("cifar-10-python.tar.gz", "notes", *(f"x{i}" for i in range(9))):
        (root / entry).mkdir(parents=True)
    message = refusal(load_dataset, name, root)
    assert f"{root} has no {looked} (it has cifar-10-python.tar.gz, notes, x0, x1, x2, x3, ...)" in message
    assert "data has no" in refusal(load_dataset, name)
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refusal(load_dataset, name, tmp_path / "empty")


@pytest.fixture
def foreign():
    """A folder whose files are to be taken from this process; whoever runs the tests, even root."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    yield root
    os.seteuid(user)
    for folder in (root, *root.rglob("*")):
        folder.chmod(0o755)
    shutil.rmtree(root)


def take_away(path: Path) -> None:
    """Make a path unreadable for this process."""
    user = os.geteuid()
    if user == 65_534:
        os.seteuid(0)
    path.chmod(0)
    os.seteuid(user)


def write_as_root(path: Path, content: bytes) -> None:
    user = os.geteuid()
    if user == 65_534:
        os.seteuid(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    os.seteuid(user)


@pytest.mark.parametrize("closed", ["cifar-10-batches-bin", "."])
def test_a_folder_that_may_not_be_read_is_one_line(foreign, closed):
    write_as_root(foreign / "cifar-10-batches-bin/data_batch_1.bin", b"")
    take_away(foreign / closed)
    for ask in (load_dataset, find_dataset):
        message = refusal(ask, "cifar10", foreign)
        assert message.startswith(str(foreign))
        assert message.endswith("cannot be read (Permission denied)")
    # Only this line of doctor's: what it asks of compiled kernels as this user, the whole process would remember.
    finding = doctor._dataset("cifar10", foreign)
    assert "Permission denied" in finding.found
    assert finding.advice


def test_a_file_that_may_not_be_read_is_one_line(foreign, cifar10):
    for name, (pixels, labels) in cifar10.items():
        records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], 1)
        write_as_root(foreign / f"cifar-10-batches-bin/{name}.bin", records.tobytes())
    assert len(load_dataset("cifar10", foreign).train_x) == 20
    path = foreign / "cifar-10-batches-bin/data_batch_4.bin"
    take_away(path)
    assert refusal(load_dataset, "cifar10", foreign) == f"{path}: cannot be read (Permission denied)"


def test_a_folder_in_the_place_of_a_file_is_one_line(mnist, tmp_path):
    lay_out_mnist(tmp_path / "raw", mnist)
    path = tmp_path / "raw" / MNIST[2]
    path.unlink()
    path.mkdir()
    assert refusal(load_dataset, "mnist", tmp_path) == f"{path}: not a file"
