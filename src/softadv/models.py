"""Networks: by name, from your own function, or with saved weights; and the layer that normalises the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._modes import eval_mode, in_eval_mode
from softadv._weights import SUFFIXES, check_state, read_weights
from softadv.data import KNOWN, About, Dataset
from softadv.errors import SoftadvError
from softadv.registry import Registry, call, origin

ImageShape = tuple[int, int, int]  # channels, height, width
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
Builder = Callable[[ImageShape, int], nn.Module]

IMAGE_SHAPES: dict[str, ImageShape] = {name: about.image_shape for name, about in KNOWN.items()}

registry: Registry[Builder] = Registry("model", expected="a function (shape, classes) that returns a torch.nn.Module")
register = registry.register
names = registry.names


class Normalize(nn.Module):
    """(x - mean) / std per channel, as a first layer, so that a model always takes [0, 1] images."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """mean and std: one number per channel; std must be positive (else SoftadvError)."""
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise SoftadvError(f"Normalize: needs one positive std per mean, got mean {mean} and std {std}")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W)."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


def load_model(
    what: str | Path | Builder | nn.Module,
    data: Dataset | About | None = None,
    *,
    weights: str | Path | None = None,
    normalize: bool = False,
    seed: int | None = None,
) -> nn.Module:
    """A model for a data set, on the CPU; a given nn.Module stays on its device.

    what: a registered name (names() lists them); "package.module:function", or a function (shape, classes) ->
    nn.Module, where shape is (C, H, W); an nn.Module; a file of weights, which names its model, or else is one of
    conv_small; or an ONNX file, with any input shape and in its own dtype (docs/networks.md lists what is read).
    data: the data set whose shape and classes the model must fit; optional for an ONNX file.
    weights: a file of the model's weights: .safetensors, or a state_dict in a .pt or .pth, of which no code is run. If
    they begin with a Normalize layer, the model gets one.
    normalize: put a Normalize layer with the data's statistics first, unless the weights begin with one.
    seed: of the initialisation; the global generator is left as it was. None draws from it.

    Raises SoftadvError (one line) for an unknown name, for a model that cannot be imported or built, or has another
    number of outputs than the data have classes, and for weights that are damaged or of another model.
    """
    if isinstance(what, str | Path) and Path(what).suffix == ".onnx":
        if weights is not None or normalize:
            raise SoftadvError(f"model {what}: an ONNX file has its weights, and takes its images as they are")
        return load_onnx(Path(what), data)
    if data is None:
        raise SoftadvError(f"model {what}: name the data that it is for; an ONNX file alone says so itself")
    if isinstance(what, str | Path) and Path(what).suffix in SUFFIXES:
        if weights is not None:
            raise SoftadvError(f"model {what}: is a file of weights, and others are given beside it: {weights}")
        state, metadata = read_weights(Path(what))
        name = metadata.get("model", "conv_small")
        return model_with_weights(name, state, data, where=str(what), normalize=normalize)
    if weights is not None:
        state, _ = read_weights(Path(weights))
        return model_with_weights(what, state, data, where=str(weights), normalize=normalize)
    statistics = (data.mean, data.std) if normalize else None
    return build_model(what, data.image_shape, len(data.class_names), normalize=statistics, seed=seed)


def load_onnx(path: Path, data: Dataset | About | None = None) -> nn.Module:
    """The network of an ONNX file, in eval mode, on the CPU.

    data: the data set that it must fit. Raises SoftadvError for a file that is damaged or not supported, and for
    another image shape or number of classes than the data have.
    """
    from softadv._onnx import read_onnx  # noqa: PLC0415 (brings onnx, which most programs do without)

    model = read_onnx(path)
    if data is not None:
        if model.shape != data.image_shape:
            raise SoftadvError(f"{path}: takes inputs of shape {model.shape}, the data have {data.image_shape}")
        _check_outputs(model, data.image_shape, len(data.class_names), where=str(path))
    return model


def build_model(
    what: str | Path | Builder | nn.Module,
    shape: ImageShape,
    classes: int,
    *,
    normalize: Statistics | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A freshly initialised model for images of a shape (C, H, W); arguments as in load_model.

    normalize: mean and deviation of each channel, for a Normalize layer in front.
    """
    found = what if isinstance(what, nn.Module) else registry.get(str(what) if isinstance(what, Path) else what)
    where = f"model {what if isinstance(what, str) else origin(found).path}"
    if isinstance(found, nn.Module) and found is not what:  # one for all who name it, whatever their seeds and weights
        raise SoftadvError(f"{where}: is a module; name a function (shape, classes) that makes one")
    # The generator is forked so that building a model never disturbs the caller's random numbers.
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs too
        if isinstance(found, nn.Module):
            model: nn.Module = found
        else:
            size = " x ".join(map(str, shape))
            model = call(f"{where} for images of {size} and {classes} classes", found, shape, classes)
            if not isinstance(model, nn.Module):
                raise SoftadvError(f"{where}: expected a torch.nn.Module, got a {type(model).__name__}")
        if normalize is not None:
            model = _normalized(model, normalize)
        _check_outputs(model, shape, classes, where=where)
    return model


def _normalized(model: nn.Module, statistics: Statistics) -> nn.Sequential:
    layers = model if is_plain_sequential(model) else (model,)
    return nn.Sequential(Normalize(*statistics), *layers)  # type: ignore[misc]


def _check_outputs(model: nn.Module, shape: ImageShape, classes: int, *, where: str) -> None:
    """Raise SoftadvError unless the model, in evaluation mode, gives images of the shape a score for each class."""
    parameter = next(model.parameters(), torch.zeros(0))
    images = torch.zeros(2, *shape, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad(), eval_mode(model):
        scores: object = call(f"{where} on images of {' x '.join(map(str, shape))}", model, images)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != 2:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise SoftadvError(f"{where}: expected scores (N, {classes}), got {got} for two images")
    if scores.shape[1] != classes:
        raise SoftadvError(f"{where}: has {scores.shape[1]} outputs, the data have {classes} classes")


def model_with_weights(
    what: str | Path | Builder | nn.Module,
    state: Mapping[str, Tensor],
    data: Dataset | About,
    *,
    where: str,
    normalize: bool = False,
) -> nn.Module:
    """A model with the given weights; it begins with a Normalize layer if they do.

    where: names the weights in messages. normalize: put such a layer before it if they do not.
    Raises SoftadvError where they do not fit the model.
    """
    statistics = data.mean, data.std
    model = build_model(what, data.image_shape, len(data.class_names), seed=0)
    if {"0.mean", "0.std"} <= state.keys() - model.state_dict().keys():
        model, normalize = _normalized(model, statistics), False
    its_name = what if isinstance(what, str) else origin(what).path
    check_state(state, model, where=f"{where}: not the weights of {its_name} for these images")
    model.load_state_dict(dict(state), strict=False)
    return _normalized(model, statistics) if normalize else model


def conv_small(dataset: str, *, normalize: bool = False, seed: int | None = None) -> nn.Sequential:
    """The paper's network for one of its data sets, freshly initialised, float32, on the CPU.

    dataset: "digits", "mnist" (1x28x28 images) or "cifar10" (3x32x32).
    normalize, seed: as in load_model. Raises SoftadvError for another dataset.
    """
    if dataset not in KNOWN:
        raise SoftadvError(f"dataset: unknown name {dataset!r}, expected one of {', '.join(KNOWN)}")
    model = load_model("conv_small", KNOWN[dataset], normalize=normalize, seed=seed)
    assert isinstance(model, nn.Sequential)
    return model


@register("conv_small")
def _conv_small(shape: ImageShape, classes: int) -> nn.Sequential:
    """ERAN's ConvSmall, the network of the paper's table 1.

    Convolutions of 16 and 32 filters 4x4, then linear layers of 100 neurons and of one score per class. The table omits
    stride and padding; its neuron counts (3,614 and 4,862) imply stride 2 and no padding.
    """
    _check_size("conv_small", shape, 10)
    channels, height, width = shape
    for _ in range(2):
        height, width = (height - 4) // 2 + 1, (width - 4) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * height * width, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


@register("conv_small_padded")
def _conv_small_padded(shape: ImageShape, classes: int) -> nn.Sequential:
    """Wong and Kolter's small network (ICML 2018): conv_small with padding 1; 4,814 neurons on MNIST."""
    return _padded("conv_small_padded", shape, classes, hidden=100)


@register("convmed")
def _convmed(shape: ImageShape, classes: int) -> nn.Sequential:
    """ERAN's ConvMed: 5,714 neurons on MNIST."""
    return _padded("convmed", shape, classes, hidden=1000)


def _padded(name: str, shape: ImageShape, classes: int, *, hidden: int) -> nn.Sequential:
    """conv_small's convolutions with padding 1, then a hidden linear layer of so many neurons."""
    _check_size(name, shape, 4)
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), hidden), nn.ReLU(), nn.Linear(hidden, classes),
    )  # fmt: skip


@register("convbig")
def _convbig(shape: ImageShape, classes: int) -> nn.Sequential:
    """ERAN's ConvBig: 48,074 neurons on MNIST."""
    _check_size("convbig", shape, 4)
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, classes),
    )  # fmt: skip


def _check_size(name: str, shape: ImageShape, least: int) -> None:
    if min(shape[1:]) < least:
        raise SoftadvError(
            f"model {name}: needs images of {least} x {least} pixels or more, got {shape[1]} x {shape[2]}"
        )


@register("mlp")
def _mlp(shape: ImageShape, classes: int) -> nn.Sequential:
    """Two hidden layers of 256."""
    sizes = (shape[0] * shape[1] * shape[2], 256, 256)
    hidden = [layer for size, next_size in pairwise(sizes) for layer in (nn.Linear(size, next_size), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


class Residual(nn.Module):
    """Two convolutions 3x3 with batch norm, added to the input (He et al., CVPR 2016, figure 2).

    Where the sizes differ, the input passes a convolution 1x1 with batch norm (option B of their section 3.3).
    """

    def __init__(self, entering: int, leaving: int, *, stride: int) -> None:
        """entering, leaving: channels."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(entering, leaving, 3, stride, 1, bias=False),
            nn.BatchNorm2d(leaving),
            nn.ReLU(),
            nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False),
            nn.BatchNorm2d(leaving),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or entering != leaving:
            self.shortcut = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W)."""
        summed: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(summed)


@register("resnet8")
def _resnet8(shape: ImageShape, classes: int) -> nn.Sequential:
    """He et al.'s network for CIFAR-10 (CVPR 2016, section 4.2) with n = 1: 6n + 2 layers; 16, 32 and 64 channels."""
    channels, height, width = shape
    for _ in range(2):
        height, width = (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Residual(16, 16, stride=1), Residual(16, 32, stride=2), Residual(32, 64, stride=2),
        nn.AvgPool2d((height, width)), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


@torch.no_grad()
def first_scores(model: nn.Module, x: Tensor) -> Tensor:
    """The scores (1, classes) of the first of the images x, (N, ...) with N > 0, in whatever mode the model is in.

    Raises SoftadvError where x is of another type, shape or device than the model takes, or more than scores come back.
    """
    image = x[:1].clone()  # a model that begins with an in-place layer would change the image
    try:
        scores = model(image)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        given = f"{str(x.dtype).removeprefix('torch.')} {tuple(image.shape)} on {x.device}"
        raise SoftadvError(f"model: {type(model).__name__} does not take x, {given}: {reason}") from error
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        what = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise SoftadvError(f"model: expected scores (N, classes), got {what}")
    return scores


def is_plain_sequential(model: nn.Module) -> bool:
    """Whether a model is exactly an nn.Sequential: a subclass may compute something else."""
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


@in_eval_mode
def count_neurons(model: nn.Module, image_shape: ImageShape) -> int:
    """Outputs of all convolutional and linear layers for one image: the count of the paper's table 1."""
    total = 0

    def add(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            parameter = next(model.parameters())
            model(torch.zeros(1, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return total
