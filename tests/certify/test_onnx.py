"""The ONNX file: what old readers take, and the same function."""

import onnx
import pytest
import torch
from torch import nn

from softadv.certify.onnx import check_parity, export_onnx
from softadv.errors import SoftadvError
from softadv.models import IMAGE_SHAPES, conv_small
from tests.networks import ARCHITECTURES, random_images, seeded, with_head

ALLOWED = {"Conv", "Relu", "Reshape", "Gemm", "Sub", "Div"}


@pytest.fixture(params=[(dataset, normalize) for dataset in IMAGE_SHAPES for normalize in (False, True)], ids=str)
def exported(request, tmp_path):
    """A model of the paper, its image shape and its file."""
    dataset, normalize = request.param
    model = conv_small(dataset, normalize=normalize, seed=0)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, image_shape=IMAGE_SHAPES[dataset])
    return model, IMAGE_SHAPES[dataset], path


def test_the_file_is_what_old_readers_take(exported):
    _, shape, path = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (opset,) = proto.opset_import
    assert opset.domain == ""
    assert opset.version <= 13
    assert proto.ir_version <= 7
    operators = [node.op_type for node in proto.graph.node]
    assert set(operators) <= ALLOWED
    assert operators[-8:] == ["Conv", "Relu", "Conv", "Relu", "Reshape", "Gemm", "Relu", "Gemm"]
    assert all(
        at.i == 1 for node in proto.graph.node if node.op_type == "Gemm" for at in node.attribute if at.name == "transB"
    )
    sizes = [
        [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert sizes == [[1, *shape], [1, 10]]


def test_the_file_computes_what_the_model_does(exported):
    model, shape, path = exported
    x = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0))
    found = check_parity(model, path, x)
    assert found.images == 20
    assert found.largest_difference <= 1e-5
    assert found.classes_equal


def test_the_same_weights_give_the_same_bytes(exported, tmp_path):
    model, shape, path = exported
    again = tmp_path / "again.onnx"
    export_onnx(model, again, image_shape=shape)
    assert again.read_bytes() == path.read_bytes()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    export_onnx(model, again, image_shape=shape)
    assert again.read_bytes() != path.read_bytes()


def test_parity_notices_another_model(exported):
    model, shape, path = exported
    with torch.no_grad():
        model[-1].bias[3] += 100
    found = check_parity(model, path, torch.rand(4, *shape))
    assert found.largest_difference == pytest.approx(1, rel=1e-2)  # all of an output of about 100
    assert not found.classes_equal


class Moved(nn.Module):
    """What a function of images makes of them."""

    def __init__(self, move) -> None:
        super().__init__()
        self.move = move

    def forward(self, x):
        return self.move(x)


MOVES = [lambda x: x.reshape(-1, 1, 2, 8), lambda x: x.transpose(2, 3)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_chain_is_exported_as_it_computes(tmp_path, name):
    shape, build = ARCHITECTURES[name]
    model = seeded(0, build).float()
    export_onnx(model, tmp_path / "model.onnx", image_shape=shape)
    x, _ = random_images(shape, 5, seed=0)
    assert check_parity(model, tmp_path / "model.onnx", x.float()).largest_difference <= 1e-5


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)), "layer 1 (Tanh)"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)), "layer 0 (MaxPool2d)"),
        (nn.Linear(16, 3), "Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1)), "it ends in softmax"),
        *(
            (with_head((1, 4, 4), Moved(move), nn.Conv2d(1, 3, 2, 2)), "it begins by moving its input's numbers")
            for move in MOVES
        ),
    ],
)
def test_a_model_that_cannot_be_exported_is_named(tmp_path, model, named):
    with pytest.raises(SoftadvError) as caught:
        export_onnx(model, tmp_path / "model.onnx", image_shape=(1, 4, 4))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
