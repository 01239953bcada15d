"""Networks by name, of one's own, and with saved weights; and what is wrong with them."""

from __future__ import annotations

import os
import random
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from softadv import certify, models
from softadv._io import tensors_sha256, write_tensors
from softadv.data import KNOWN, make_dataset
from softadv.errors import SoftadvError
from softadv.models import Normalize, build_model, conv_small, count_neurons, load_model
from tests.refusals import refusal

MNIST = KNOWN["mnist"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A new working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def coloured():
    """Five classes of 2 x 12 x 13 images."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(10, 2, 12, 13), dtype=np.uint8), np.arange(10) % 5
    return make_dataset("coloured", x, y, x[:5], y[:5])


def own(tmp_path: Path, text: str) -> str:
    name = re.sub(r"\W", "_", f"softadv_{tmp_path.name}")
    Path(f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{text}")
    return name


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("normalize", [False, True])
def test_every_model_is_built_for_any_images_and_classes(coloured, name, normalize):
    model = load_model(name, coloured, normalize=normalize, seed=0)
    assert model.training
    assert model.eval()(coloured.test_x).shape == (5, 5)
    again = load_model(name, coloured, normalize=normalize, seed=0)
    assert tensors_sha256(again.state_dict()) == tensors_sha256(model.state_dict())
    other = load_model(name, coloured, normalize=normalize, seed=1)
    assert tensors_sha256(other.state_dict()) != tensors_sha256(model.state_dict())
    assert ("0.mean" in model.state_dict()) == normalize


@pytest.mark.parametrize("name", models.names())
def test_every_model_can_be_certified(coloured, name):
    model = load_model(name, coloured, seed=0).eval()
    found = certify(model, coloured.test_x, coloured.test_y, eps=1e-6)
    assert torch.equal(found.correct, model(coloured.test_x).argmax(1) == coloured.test_y)


# The weights of the stored runs began as these: SHA-256 of conv_small's initial weights before it had a name.
@pytest.mark.parametrize("dataset", KNOWN)
@pytest.mark.parametrize("normalize", [False, True])
def test_conv_small_begins_as_it_always_did(dataset, normalize):
    channels, height, width = KNOWN[dataset].image_shape
    for _ in range(2):
        height, width = (height - 4) // 2 + 1, (width - 4) // 2 + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = nn.Sequential(
            *([Normalize(KNOWN[dataset].mean, KNOWN[dataset].std)] if normalize else []),
            nn.Conv2d(channels, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * height * width, 100), nn.ReLU(), nn.Linear(100, 10),
        )  # fmt: skip
    for model in (
        conv_small(dataset, normalize=normalize, seed=7),
        load_model("conv_small", KNOWN[dataset], normalize=normalize, seed=7),
    ):
        assert tensors_sha256(model.state_dict()) == tensors_sha256(expected.state_dict())
        assert str(model) == str(expected)


@pytest.mark.parametrize(
    ("name", "neurons"), [("conv_small", 3614), ("conv_small_padded", 4814), ("convmed", 5714), ("convbig", 48_074)]
)
def test_the_neurons_are_those_that_are_published(name, neurons):
    assert count_neurons(load_model(name, MNIST), MNIST.image_shape) == neurons


def test_resnet8_has_eight_layers_and_its_channels():
    model = load_model("resnet8", KNOWN["cifar10"])
    kinds = [layer for name, layer in model.named_modules() if "shortcut" not in name]
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in kinds) == 8
    # He et al. give 0.27 million parameters for n = 3; a block more of each size makes the difference.
    assert sum(parameter.numel() for parameter in model.parameters()) == 78_042


def test_a_built_model_leaves_the_global_random_numbers_as_they_were():
    before = torch.get_rng_state()
    load_model("resnet8", MNIST, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("registries")
def test_models_of_ones_own(coloured, tmp_path):
    name = own(
        tmp_path,
        "def net(shape, classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__()\n"
        "        self.flat, self.last = nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)\n"
        "    def forward(self, x): return self.last(self.flat(x))\n"
        "made = Net((2, 12, 13), 5)\n",
    )
    for what in (f"{name}:net", f"{name}:Net"):
        assert load_model(what, coloured, seed=0)(coloured.test_x).shape == (5, 5)
    module = __import__(name)
    assert load_model(module.made, coloured) is module.made
    assert isinstance(load_model(module.Net, coloured, normalize=True)[0], Normalize)
    models.register("softadv-test-net")(module.net)
    assert isinstance(load_model("softadv-test-net", coloured), nn.Sequential)
    assert "softadv-test-net" in models.names()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def net(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(312, 7))", "has 7 outputs, the data"),
        ("def net(shape, classes): return 3", "expected a torch.nn.Module, got a int"),
        ("def net(): pass", "takes 0 positional arguments but 2 were given"),
        ("def net(shape, classes): raise OSError('no\\nluck')", "raised OSError: no luck; "),
        ("def net(shape, classes): return nn.Linear(4, 5)", "on images of 2 x 12 x 13: raised RuntimeError: "),
        ("def net(shape, classes): return nn.Identity()", "expected scores (N, 5), got shape (2, 2, 12, 13)"),
        ("class net(nn.Module):\n    def __init__(self, *a): super().__init__()\n    def forward(self, x): return [x]",
         "expected scores (N, 5), got a list"),
        ("net = 3", "expected a function (shape, classes) that returns a torch.nn.Module, got a int"),
        ("net = nn.Sequential(nn.Flatten(), nn.Linear(312, 5))", "is a module; name a function (shape, classes) that"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_of_ones_own_is_one_line(coloured, tmp_path, text, expected):
    name = own(tmp_path, text)
    message = refusal(load_model, f"{name}:net", coloured)
    assert message.startswith(f"model {name}:net")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "least"),
    [("conv_small", 10), ("conv_small_padded", 4), ("convmed", 4), ("convbig", 4), ("resnet8", 1), ("mlp", 1)],
)
def test_images_that_are_too_small_for_a_model_are_told(name, least):
    build_model(name, (1, least, least), 10)
    if least > 1:
        message = refusal(build_model, name, (1, least + 5, least - 1), 10)
        assert (
            message == f"model {name}: needs images of {least} x {least} pixels or more, got {least + 5} x {least - 1}"
        )


def test_an_unknown_model_is_named_beside_the_known_ones(coloured):
    message = refusal(load_model, "conv_smal", coloured)
    assert message.startswith("model: unknown name 'conv_smal', did you mean conv_small?")
    assert "resnet8" in message


def test_checking_a_model_changes_nothing_of_it(coloured):
    model = build_model("resnet8", coloured.image_shape, 5, seed=0)
    model[3].eval()
    before = tensors_sha256(model.state_dict())
    modes = [module.training for module in model.modules()]
    assert load_model(model, coloured) is model
    assert [module.training for module in model.modules()] == modes
    assert tensors_sha256(model.state_dict()) == before


# Weights.


@pytest.fixture(params=["conv_small", "resnet8"])
def trained(request, coloured):
    """A name and a model of it whose every weight differs from a freshly initialised one's."""
    model = load_model(request.param, coloured, seed=3).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    return request.param, model


def save(path: str, model: nn.Module, wrap) -> str:
    state = model.state_dict()
    if path.endswith(".safetensors"):
        save_file(wrap(dict(state)), path)
    else:
        torch.save(wrap(state), path)
    return path


@pytest.mark.parametrize("path", ["w.safetensors", "w.pt", "w.pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_come_back_whatever_wrapped_the_model(coloured, trained, path, prefix):
    name, model = trained
    save(path, model, lambda state: {f"{prefix}{key}": tensor for key, tensor in state.items()})
    found = load_model(name, coloured, weights=path).eval()
    assert torch.equal(found(coloured.test_x), model(coloured.test_x))


@pytest.mark.parametrize(
    "wrap",
    [
        OrderedDict,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
        lambda state: {"state_dict": [state], "epoch": 3},
        lambda state: {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")},
        lambda state: {key: t.double() for key, t in state.items()},
    ],
)
def test_weights_are_found_in_a_checkpoint(coloured, trained, wrap):
    name, model = trained
    found = load_model(name, coloured, weights=save("w.pt", model, wrap)).eval()
    assert torch.equal(found(coloured.test_x), model(coloured.test_x))


def test_weights_say_their_model_and_bring_their_normalisation(coloured):
    model = load_model("mlp", coloured, normalize=True, seed=1)
    write_tensors(Path("w.safetensors"), model.state_dict(), metadata={"model": "mlp"})
    found = load_model("w.safetensors", coloured)
    assert isinstance(found, nn.Sequential)
    assert isinstance(found[0], Normalize)
    assert torch.equal(found(coloured.test_x), model(coloured.test_x))
    assert "are given beside it" in refusal(load_model, "w.safetensors", coloured, weights="w.safetensors")


def test_weights_that_bring_no_normalisation_are_given_it_where_it_is_asked_for(coloured):
    model = load_model("mlp", coloured, seed=1)
    write_tensors(Path("w.safetensors"), model.state_dict(), metadata={"model": "mlp"})
    first = Normalize(coloured.mean, coloured.std)
    for found in (
        load_model("mlp", coloured, weights="w.safetensors", normalize=True),
        load_model("w.safetensors", coloured, normalize=True),
    ):
        assert torch.equal(found(coloured.test_x), model(first(coloured.test_x)))
    write_tensors(Path("w.safetensors"), nn.Sequential(first, *model).state_dict(), metadata={"model": "mlp"})
    once = load_model("w.safetensors", coloured, normalize=True)  # and not twice
    assert torch.equal(once(coloured.test_x), model(first(coloured.test_x)))


def test_weights_without_a_name_are_conv_smalls():
    model = conv_small("mnist", seed=1)
    save_file(model.state_dict(), "w.safetensors")
    assert torch.equal(
        load_model(Path("w.safetensors"), MNIST)(torch.ones(1, 1, 28, 28)), model(torch.ones(1, 1, 28, 28))
    )


class Touches:
    """Unpickled, makes a file."""

    def __reduce__(self):
        return os.system, ("touch target",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Touches(), "not a state_dict of tensors alone"),
        ({"state_dict": OrderedDict(a=torch.zeros(1)), "more": Touches()}, "not a state_dict of tensors alone"),
        (nn.Linear(2, 2), "not a state_dict of tensors alone"),
        ([torch.zeros(2)], "holds no state_dict"),
        ({}, "holds no state_dict"),
        ({"epoch": 3}, "holds no state_dict"),
        (torch.zeros(2), "holds no state_dict"),
    ],
)
def test_a_file_of_more_than_weights_is_refused_and_runs_nothing(coloured, content, expected):
    for old in (False, True):
        torch.save(content, "w.pt", _use_new_zipfile_serialization=not old)
        message = refusal(load_model, "mlp", coloured, weights="w.pt")
        assert message.startswith("w.pt: ")
        assert expected in message
        assert not Path("target").exists()


def test_what_is_wrong_with_weights_is_named(coloured):
    state = load_model("mlp", coloured).state_dict()
    changed = {
        "1.weight is of shape (256, 4), not (256, 312)": state | {"1.weight": torch.zeros(256, 4)},
        "has no 5.bias": {key: tensor for key, tensor in state.items() if key != "5.bias"},
        "has extra besides": state | {"extra": torch.zeros(1)},
        "5.weight is of shape (10, 256), not (5, 256)": state | {"5.weight": torch.zeros(10, 256)},
    }
    for said, weights in changed.items():
        torch.save(weights, "w.pt")
        message = refusal(load_model, "mlp", coloured, weights="w.pt")
        assert message == f"w.pt: not the weights of mlp for these images: {said}"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damage_anywhere_in_weights_is_one_line_or_harmless(coloured, suffix):
    path = Path(save(f"w{suffix}", load_model("conv_small", coloured), lambda state: state))
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.choice((rng.randrange(400), rng.randrange(len(whole)), -1 - rng.randrange(900)))] = (
                rng.randrange(256)
            )
        path.write_bytes(content[: rng.choice((None, None, rng.randrange(len(whole))))])
        try:
            load_model("conv_small", coloured, weights=path)
        except SoftadvError as error:
            assert "\n" not in str(error)  # noqa: PT017 (it may also not be refused)


def test_files_that_are_not_weights_are_one_line(coloured):
    Path("net.onnx").write_bytes(b"")
    assert refusal(load_model, "net.onnx", coloured).startswith("net.onnx: not a well-formed ONNX file")
    assert refusal(load_model, "a\0.onnx", coloured) == "a\0.onnx: cannot be read (embedded null byte)"
    for name in ("no.pt", "no.safetensors"):
        assert refusal(load_model, name, coloured) == f"{name}: no such file"
    Path("folder.pt").mkdir()
    assert refusal(load_model, "folder.pt", coloured) == "folder.pt: no such file"
    for content in (b"", b"PK\x03\x04", b"text", b"\x80\x02."):
        Path("w.pth").write_bytes(content)
        assert refusal(load_model, "mlp", coloured, weights="w.pth").startswith("w.pth: not a state_dict")
