"""Images are found where they are looked for, read as they are, and refused when they are damaged."""

import gzip
import io
import tarfile
from dataclasses import replace
from hashlib import md5
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from softadv._data import files as _files
from softadv.data import check_images, find_dataset, load_dataset, search_places
from softadv.errors import SoftadvError

SIZES = {
    name: {f"{layout.folders[0]}/{file}": size for file, size in layout.files.items()}
    for name, (layout, *_) in _files.LAYOUTS.items()
}
FILES = [(name, file) for name, files in SIZES.items() for file in files]
# Of an IDX file: two zeros, the type 8 (bytes), the number of dimensions, the dimensions.
IDX_HEADERS = {
    "train-images-idx3-ubyte": (2051, 60_000, 28, 28),
    "train-labels-idx1-ubyte": (2049, 60_000),
    "t10k-images-idx3-ubyte": (2051, 10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (2049, 10_000),
}


def lay_out(root: Path, name: str) -> Path:
    """A dataset of zeros of the right sizes; the files are sparse and take no room."""
    for file, size in SIZES[name].items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as opened:
            opened.write(np.array(IDX_HEADERS.get(path.name, ()), dtype=">u4").tobytes())
            opened.truncate(size)
    return root


def write_at(path: Path, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def refusal(name: str, root=None) -> str:
    with pytest.raises(SoftadvError) as caught:
        load_dataset(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, no SOFTADV_DATA, and downloads that are refused on this very machine."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(_files, "CIFAR10_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")


@pytest.fixture
def serve():
    """Serves files by name on this machine; returns the address."""
    servers = []

    def start(files: dict[str, bytes], *, cut: int = 0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                content = files[self.path.lstrip("/")]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - cut])

            def log_message(self, *_arguments):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """CIFAR-10 with four images to a file, as an archive, and its pixels and labels."""
    binary, pickles = _files.LAYOUTS["cifar10"]
    small = replace(binary, files=dict.fromkeys(binary.files, 4 * 3073))
    monkeypatch.setitem(_files.LAYOUTS, "cifar10", (small, pickles))
    monkeypatch.setattr(_files, "_CIFAR10_IMAGES", 4)
    random = np.random.default_rng(0)
    labels = random.integers(10, size=(6, 4, 1), dtype=np.uint8)
    pixels = random.integers(256, size=(6, 4, 3072), dtype=np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file, records in zip(SIZES["cifar10"], np.concatenate([labels, pixels], 2), strict=True):
            entry = tarfile.TarInfo(file)
            entry.size = records.nbytes
            archive.addfile(entry, io.BytesIO(records.tobytes()))
    archive = packed.getvalue()
    monkeypatch.setattr(_files, "CIFAR10_MD5", md5(archive).hexdigest())
    return archive, pixels.reshape(6, 4, 3, 32, 32), labels[:, :, 0]


def test_digits_are_images_and_labels(digits):
    assert digits.train_x.shape == (1437, 1, 28, 28)
    assert digits.test_x.shape == (360, 1, 28, 28)
    for x, y in ((digits.train_x, digits.train_y), (digits.test_x, digits.test_y)):
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert (float(x.min()), float(x.max())) == (0.0, 1.0)
        assert y.unique().tolist() == list(range(10))
        torch.testing.assert_close(x * 255, (x * 255).round(), rtol=0, atol=1e-4)


def test_digits_come_out_the_same_each_time(digits):
    again = load_dataset("digits")
    assert again.fingerprint == digits.fingerprint
    assert again.fingerprint == "81588af00a6abc9589a644a01028344605692afaaf0fbea642127fb93243d6c7"
    assert torch.equal(again.train_x, digits.train_x)


def test_the_first_images_have_a_fingerprint_of_their_own(digits):
    some = digits.first(train=100, test=7)
    assert torch.equal(some.train_x, digits.train_x[:100])
    assert torch.equal(some.test_y, digits.test_y[:7])
    assert len({some.fingerprint, digits.first(train=100).fingerprint, digits.fingerprint}) == 3
    assert digits.first(train=1437, test=360).fingerprint == digits.fingerprint
    assert digits.first() is digits


@pytest.mark.parametrize("asked", [{"train": 1438}, {"test": 361}, {"train": 0}, {"test": -1}])
def test_more_images_than_there_are_cannot_be_had(digits, asked):
    with pytest.raises(
        SoftadvError, match=f"digits: asked for {next(iter(asked.values()))} {next(iter(asked))} images"
    ):
        digits.first(**asked)


def test_an_unknown_dataset_is_named():
    assert "'svhn'" in refusal("svhn")


def test_mnist_is_read_as_it_lies_there(tmp_path):
    root = lay_out(tmp_path, "mnist")
    write_at(root / "MNIST/raw/train-images-idx3-ubyte", 16 + 784 + 28 + 2, b"\x33")
    write_at(root / "MNIST/raw/train-labels-idx1-ubyte", 8 + 1, b"\x07")
    write_at(root / "MNIST/raw/t10k-images-idx3-ubyte", 16 + 9999 * 784, b"\xff")
    found = load_dataset("mnist", root)
    assert found.train_x.shape == (60_000, 1, 28, 28)
    assert found.test_x.shape == (10_000, 1, 28, 28)
    assert found.train_x.nonzero().tolist() == [[1, 0, 1, 2]]
    assert float(found.train_x[1, 0, 1, 2]) == pytest.approx(0.2)
    assert found.train_y.nonzero().tolist() == [[1]]
    assert int(found.train_y[1]) == 7
    assert float(found.test_x[9999, 0, 0, 0]) == 1.0


def test_cifar10_is_read_channel_by_channel(small_cifar10, tmp_path):
    _, pixels, labels = small_cifar10
    root = lay_out(tmp_path, "cifar10")
    for file, images, classes in zip(SIZES["cifar10"], pixels, labels, strict=True):
        records = np.concatenate([classes[:, None], images.reshape(4, -1)], 1)
        (root / file).write_bytes(records.tobytes())
    found = load_dataset("cifar10", root)
    assert found.train_y.tolist() == labels[:5].ravel().tolist()
    assert found.test_y.tolist() == labels[5].tolist()
    torch.testing.assert_close(found.train_x, torch.from_numpy(pixels[:5].reshape(20, 3, 32, 32)) / 255)
    torch.testing.assert_close(found.test_x, torch.from_numpy(pixels[5]) / 255)


@pytest.mark.parametrize(("name", "file"), FILES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_named(tmp_path, name, file, change):
    path = lay_out(tmp_path, name) / file
    with open(path, "r+b") as opened:
        opened.truncate(path.stat().st_size + change)
    assert str(path) in refusal(name, tmp_path)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_missing_file_is_named(tmp_path, name, file):
    path = lay_out(tmp_path, name) / file
    path.unlink()
    assert refusal(name, tmp_path).startswith(f"{path}: missing")


@pytest.mark.parametrize(
    ("file", "offset", "image"),
    [
        ("cifar-10-batches-bin/data_batch_1.bin", 3073 * 4321, 4321),
        ("cifar-10-batches-bin/test_batch.bin", 0, 0),
        ("MNIST/raw/train-labels-idx1-ubyte", 8 + 59_999, 59_999),
        ("MNIST/raw/t10k-labels-idx1-ubyte", 8 + 3, 3),
    ],
)
@pytest.mark.parametrize("label", [10, 255])
def test_a_label_above_nine_is_named_by_file_and_image(tmp_path, file, offset, image, label):
    name = "mnist" if file.startswith("MNIST") else "cifar10"
    path = lay_out(tmp_path, name) / file
    write_at(path, offset, bytes([label]))
    assert refusal(name, tmp_path).startswith(f"{path}: image {image} has label {label}")


@pytest.mark.parametrize("file", IDX_HEADERS)
@pytest.mark.parametrize(
    ("offset", "content"),
    [(0, b"\0\0\0\0"), (2, b"\x09"), (2, b"\x0a"), (3, b"\x02"), (4, b"\xff")],
    ids=["zeros", "signed bytes", "no such type", "two dimensions", "too many images"],
)
def test_a_damaged_header_is_an_error_of_mnist(tmp_path, file, offset, content):
    write_at(lay_out(tmp_path, "mnist") / "MNIST/raw" / file, offset, content)
    assert "MNIST" in refusal("mnist", tmp_path)


def test_the_places_are_searched_in_order(tmp_path, monkeypatch):
    named, here = tmp_path / "named", tmp_path / "cwd/data"
    for place in (named, here):
        place.mkdir()
    monkeypatch.setenv("SOFTADV_DATA", str(named))
    assert search_places() == [named, Path("data")]
    assert find_dataset("mnist") is None
    lay_out(here, "mnist")
    assert find_dataset("mnist") == Path("data")
    lay_out(named, "mnist")
    assert find_dataset("mnist") == named


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_named_root_without_the_data_is_an_error_though_they_lie_elsewhere(tmp_path, monkeypatch, name):
    root, named = tmp_path / "root", tmp_path / "named"
    for place in (root, named):
        place.mkdir()
    lay_out(named, name)
    monkeypatch.setenv("SOFTADV_DATA", str(named))
    assert search_places(root) == [root]
    message = refusal(name, root)
    assert message.startswith(f"{name}: {root} has no ")
    assert str(named) not in message
    lay_out(root, name)
    assert find_dataset(name, root) == root


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_root_that_is_no_folder_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "nothing", tmp_path / "file"):
        assert str(root) in refusal(name, root)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_network_the_error_says_where_was_searched_and_what_helps(tmp_path, monkeypatch, name):
    named = tmp_path / "named"
    monkeypatch.setenv("SOFTADV_DATA", str(named))
    message = refusal(name)
    for part in (name, str(named), "data", "refused", "digits"):
        assert part in message
    assert not Path("data").exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_dataset():
    Path("data").write_text("not a folder")
    assert refusal("cifar10").startswith("cifar10: ")
    assert Path("data").read_text() == "not a folder"


def test_a_download_is_checked_and_laid_out_under_data(serve, small_cifar10, monkeypatch):
    archive, pixels, _ = small_cifar10
    monkeypatch.setattr(_files, "CIFAR10_URL", serve({"c.tar.gz": archive}) + "c.tar.gz")
    first = load_dataset("cifar10")
    assert sorted(path.name for path in Path("data").iterdir()) == ["cifar-10-batches-bin"]
    torch.testing.assert_close(first.test_x, torch.from_numpy(pixels[5]) / 255)
    monkeypatch.setattr(_files, "CIFAR10_URL", "http://127.0.0.1:9/")
    assert load_dataset("cifar10").fingerprint == first.fingerprint


def test_a_download_fills_a_folder_that_was_left_empty(serve, small_cifar10, monkeypatch):
    monkeypatch.setattr(_files, "CIFAR10_URL", serve({"c.tar.gz": small_cifar10[0]}) + "c.tar.gz")
    Path("data/cifar-10-batches-bin").mkdir(parents=True)
    assert len(load_dataset("cifar10").test_x) == 4


@pytest.mark.parametrize("damage", ["altered", "cut off"])
def test_a_damaged_download_leaves_nothing(serve, small_cifar10, monkeypatch, damage):
    archive, *_ = small_cifar10
    if damage == "altered":
        address = serve({"c.tar.gz": archive[:-1] + bytes([archive[-1] ^ 1])})
    else:
        address = serve({"c.tar.gz": archive}, cut=1000)
    monkeypatch.setattr(_files, "CIFAR10_URL", address + "c.tar.gz")
    assert "download failed" in refusal("cifar10")
    assert not Path("data").exists()


def test_an_altered_download_of_mnist_leaves_nothing(serve, monkeypatch):
    files = {f"{name}.gz": gzip.compress(b"") for name in IDX_HEADERS}
    monkeypatch.setattr(MNIST, "mirrors", [serve(files)])
    assert "download failed" in refusal("mnist")
    assert not Path("data").exists()


def test_many_images_of_few_bits_are_finite_though_their_sum_is_beyond_their_numbers():
    x, y = torch.full((1000, 1, 28, 28), 0.5, dtype=torch.float16), torch.zeros(1000, dtype=torch.int64)
    check_images(x, y)
    x[7, 0, 3, 3] = torch.inf
    with pytest.raises(SoftadvError, match="x: image 7 has pixels that are NaN or infinite"):
        check_images(x, y)
