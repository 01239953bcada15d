"""What the engines are given: the network behind Normalize and Flatten, and boxes that hold what enters it."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from softadv.certify.eran.files import write_boxes, write_model
from softadv.errors import SoftadvError
from softadv.models import Normalize, conv_small
from tests.networks import seeded, with_head

SHAPE = (2, 5, 6)


def convolutional() -> nn.Sequential:
    return with_head(SHAPE, nn.Conv2d(2, 3, 3, 2, padding=1), nn.ReLU())


class Reshaped(nn.Module):
    """5 x 6 pixels as 3 x 10."""

    def forward(self, x):
        return x.reshape(-1, 2, 3, 10)


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 5), nn.ReLU(), nn.Linear(5, 4))


@pytest.fixture(params=["plain", "normalised", "inverted"])
def statistics(request):
    """Nothing, a Normalize layer, and one with a negative std, which turns boxes over."""
    if request.param == "plain":
        return []
    layer = Normalize((0.4914, 0.1), (0.247, 0.031))
    if request.param == "inverted":
        layer.std.neg_()
    return [layer]


@pytest.mark.parametrize("build", [convolutional, dense])
def test_the_file_and_the_boxes_are_the_model_together(tmp_path, statistics, build):
    model = nn.Sequential(*statistics, *seeded(0, build).float()).eval()
    written = write_model(model, tmp_path, image_shape=SHAPE)
    proto = onnx.load(written.path)
    assert proto.graph.node[0].op_type == ("Conv" if build is convolutional else "Gemm")
    assert written.shape == (SHAPE if build is convolutional else (60,))
    x = torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(0))
    lower, upper = written.boxes(x, eps=0.0, clip=(0.0, 1.0))
    assert lower.dtype == upper.dtype == np.float64
    session = onnxruntime.InferenceSession(str(written.path), providers=["CPUExecutionProvider"])
    middle = ((lower + upper) / 2).astype(np.float32)
    found = np.concatenate([session.run(None, {"image": row[None]})[0] for row in middle])
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_every_point_of_the_ball_enters_within_the_box(tmp_path, statistics):
    model = nn.Sequential(*statistics, *seeded(0, convolutional).float()).eval()
    written = write_model(model, tmp_path, image_shape=SHAPE)
    generator = torch.Generator().manual_seed(1)
    x, eps = torch.rand(50, *SHAPE, generator=generator), 8 / 255
    lower, upper = (torch.from_numpy(bound) for bound in written.boxes(x, eps=eps, clip=(0.0, 1.0)))
    least, most = (x.double() - eps).clamp(0, 1), (x.double() + eps).clamp(0, 1)
    layer = statistics[0] if statistics else nn.Identity()
    for share in (0.0, 1.0, torch.rand(x.shape, generator=generator, dtype=torch.float64)):
        point = (least + share * (most - least)).float()
        entering = [layer(point)]
        if statistics:  # as a runtime may arrange it
            mean, std = layer.mean[:, None, None], layer.std[:, None, None]
            entering += [(point - mean) * (1 / std), point * (1 / std) - mean / std]
        for values in entering:
            assert (lower <= values.double()).all()
            assert (values.double() <= upper).all()
    factor = float(layer.std.abs().min()) if statistics else 1.0
    assert float((upper - lower).max()) <= 2 * eps / factor + 1e-4  # and not much more


def test_the_name_of_a_file_is_that_of_its_bytes(tmp_path):
    model = conv_small("digits", normalize=True, seed=0)
    first = write_model(model, tmp_path, image_shape=(1, 28, 28)).path
    assert write_model(copy.deepcopy(model), tmp_path, image_shape=(1, 28, 28)).path == first
    with torch.no_grad():
        model[-1].bias += 1
    assert write_model(model, tmp_path, image_shape=(1, 28, 28)).path != first


def test_what_the_engines_would_misread_is_refused(tmp_path):
    dilated = with_head(SHAPE, nn.Conv2d(2, 3, 2, dilation=2)).eval()
    with pytest.raises(SoftadvError, match="dilated convolution"):
        write_model(dilated, tmp_path, image_shape=SHAPE)
    with pytest.raises(SoftadvError, match="the model is in float64"):
        write_model(dense().double(), tmp_path, image_shape=SHAPE)
    with pytest.raises(SoftadvError, match="MaxPool2d"):
        write_model(with_head(SHAPE, nn.MaxPool2d(2)).eval(), tmp_path, image_shape=SHAPE)
    reshaped = with_head(SHAPE, Reshaped(), nn.Conv2d(2, 3, 2)).eval()
    with pytest.raises(SoftadvError, match="it begins by moving its input's numbers"):
        write_model(reshaped, tmp_path, image_shape=SHAPE)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SoftadvError, match=r"nowhere: cannot be written \(No such file or directory\)"):
        write_boxes(tmp_path / "nowhere", np.zeros((1, 2)), np.zeros((1, 2)), torch.zeros(1).long())
