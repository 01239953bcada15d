"""What the certifier refuses, and that it says in one line what and where."""

import pytest
import torch
from torch import nn

from softadv.certify import DOMAINS, certify
from softadv.errors import SoftadvError
from softadv.models import Normalize


class Doubled(nn.Linear):
    """A linear layer that is none."""

    def forward(self, x):
        return 2 * super().forward(x)


def classifier(*body, features):
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 3))


def refusal(model, x=None, y=None, *, eps=0.1, **options) -> str:
    x = torch.full((2, 1, 4, 4), 0.5) if x is None else x
    y = torch.tensor([0, 1]) if y is None else y
    with pytest.raises(SoftadvError) as caught:
        certify(model, x, y, eps=eps, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


MODEL = classifier(nn.Conv2d(1, 2, 3), nn.ReLU(), features=8)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (classifier(nn.Conv2d(1, 2, 3), nn.Tanh(), features=8), "layer 1 (Tanh)"),
        (classifier(nn.MaxPool2d(2), features=4), "layer 0 (MaxPool2d)"),
        (classifier(nn.Sequential(nn.ReLU(), nn.Sigmoid()), features=16), "layer 0.1 (Sigmoid)"),
        (nn.Sequential(nn.Flatten(), Doubled(16, 3)), "layer 1 (Doubled)"),
        (classifier(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1, groups=2), features=8), "layer 1 (Conv2d): groups"),
        (classifier(nn.Conv2d(1, 2, 2, dilation=2), features=8), "layer 0 (Conv2d): groups, dilation"),
        (classifier(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), features=32), "padding modes"),
        (classifier(nn.Conv2d(1, 2, 3, padding="same"), features=32), "layer 0 (Conv2d): padding='same'"),
        (classifier(nn.Conv2d(3, 2, 3), features=8), "layer 0 (Conv2d): takes 3 channels"),
        (classifier(nn.Conv2d(1, 2, 5), features=8), "layer 0 (Conv2d): its kernel (5, 5)"),
        (classifier(Normalize((0.1, 0.2), (1.0, 1.0)), features=16), "layer 0 (Normalize): takes 2 channels"),
        (classifier(features=15), "layer 1 (Linear): takes 15 features"),
        (nn.Sequential(nn.Linear(4, 3)), "layer 0 (Linear): its input is not a vector"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Conv2d(3, 3, 1)), "layer 2 (Conv2d): its input is a vector"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(16, 3)), "layer 0 (Flatten)"),
        (nn.Sequential(nn.Conv2d(1, 3, 4)), "is a Flatten missing?"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), "one output"),
        (nn.Sequential(), "model"),
        (nn.Linear(16, 3), "model: Linear is not an nn.Sequential"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_cannot_be_read_is_named(model, named):
    assert named in refusal(model)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (torch.tensor([0, 3]), "0..3"),
        (torch.tensor([-1, 0]), "-1..0"),
        (torch.tensor([0, 1], dtype=torch.int32), "torch.int32"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
        (torch.tensor([0]), "shape (1,)"),
        (torch.tensor([[0], [1]]), "shape (2, 1)"),
    ],
)
def test_labels_that_are_none_are_named(labels, named):
    message = refusal(MODEL, y=labels)
    assert message.startswith("y: ")
    assert named in message


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 4, 4), "shape (2, 4, 4)"),
        (torch.full((2, 1, 4, 4), 1.5), "1.5"),
        (torch.full((2, 1, 4, 4), -0.5), "-0.5"),
    ],
)
def test_images_that_are_none_are_named(images, named):
    message = refusal(MODEL, images)
    assert message.startswith("x: ")
    assert named in message


@pytest.mark.parametrize("pixel", [torch.nan, torch.inf, -torch.inf])
def test_a_pixel_that_is_no_number_is_named_by_its_image(pixel):
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 3] = pixel
    assert "image 1" in refusal(MODEL, images)


def test_pixels_outside_the_asked_clip_are_refused():
    assert "clip [0, 0.4]" in refusal(MODEL, clip=(0.0, 0.4))


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_named(eps):
    assert refusal(MODEL, eps=eps).startswith("eps: ")


def test_an_unknown_domain_is_named_beside_the_known_ones():
    message = refusal(MODEL, domain="deeppony")
    assert "'deeppony'" in message
    assert "deeppoly" in message


def test_a_model_without_weights_is_answered_or_refused():
    """Its type and device are those of the images: there is no parameter to ask."""
    model = nn.Sequential(nn.Flatten())
    try:
        found = certify(model, torch.tensor([[[[0.9, 0.1]]]]), torch.tensor([0]), eps=0.1)
    except SoftadvError:
        return
    torch.testing.assert_close(found.margin, torch.tensor([0.6]))


def test_a_layer_that_comes_twice_is_read_twice():
    relu = nn.ReLU()
    layers = [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]
    once = nn.Sequential(nn.Flatten(), layers[0], relu, layers[1], relu, layers[2])
    apart = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    for domain in DOMAINS:
        found = certify(once, x, y, eps=0.1, domain=domain).margin
        assert torch.equal(found, certify(apart, x, y, eps=0.1, domain=domain).margin)


def test_a_sequential_with_a_forward_of_its_own_is_refused_by_name():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    block = Residual(nn.Linear(4, 4), nn.ReLU())
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    with pytest.raises(SoftadvError, match=r"layer 1 \(Residual\): not supported"):
        certify(nn.Sequential(nn.Flatten(), block), x, y, eps=0.1)
    with pytest.raises(SoftadvError, match="Residual is not an"):
        certify(block, x, y, eps=0.1)
