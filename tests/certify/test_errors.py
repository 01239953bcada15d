"""What the certifier refuses, and that it says in one line what and where."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.certify import DOMAINS, certify
from softadv.certify.trace import read_network
from softadv.errors import SoftadvError
from softadv.models import Normalize
from tests.networks import Residual


class Doubled(nn.Linear):
    """A linear layer that is none."""

    def forward(self, x):
        return 2 * super().forward(x)


class Computes(nn.Module):
    """Any function of an image and of two layers, and then a linear layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.body = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ELU())
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.function(self, x))


def classifier(*body, features):
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 3)).eval()


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
        (classifier(nn.Conv2d(1, 2, 3), nn.Softplus(), features=8), ("1", "Softplus", "register")),
        (classifier(nn.Sequential(nn.ReLU(), nn.ELU()), features=16), ("0.1", "ELU")),
        (classifier(Residual(nn.Conv2d(1, 1, 1), nn.GELU()), features=16), ("0.body.1", "GELU")),
        (classifier(nn.PReLU(3), features=16), ("0", "PReLU", "3 slopes")),
        (classifier(nn.Softmax(1), features=16), ("0", "Softmax", "last")),
        (classifier(nn.LayerNorm(4), features=16), ("0", "LayerNorm", "batch normalisation")),
        (classifier(nn.AdaptiveAvgPool2d(3), features=9), ("0", "AdaptiveAvgPool2d", "several sizes")),
        (classifier(nn.ZeroPad2d(-1), features=4), ("0", "ZeroPad2d", "negative")),
        (classifier(nn.BatchNorm1d(1), features=16), ("0", "BatchNorm1d", "not a vector")),
        (classifier(nn.ConvTranspose2d(1, 1, 1), features=16), ("0", "ConvTranspose2d")),
        (classifier(nn.GroupNorm(1, 1), features=16), ("0", "GroupNorm")),
        (nn.Sequential(nn.Flatten(), Doubled(16, 3)), ("linear",)),
        (classifier(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), features=32), ("0", "reflect")),
        (classifier(nn.Conv2d(1, 1, 2, padding="same"), features=16), ("0", "Conv2d", "same")),
        (classifier(nn.Conv2d(3, 2, 3), features=8), ("0", "Conv2d", "3 channels")),
        (classifier(nn.Conv2d(1, 2, 5), features=8), ("0", "Conv2d", "(5, 5)")),
        (classifier(nn.Conv2d(1, 2, 3, dilation=2), features=8), ("0", "Conv2d", "(5, 5)")),
        (classifier(nn.AvgPool2d(2, ceil_mode=True), features=4), ("0", "AvgPool2d", "ceil_mode")),
        (classifier(nn.AvgPool2d(2, divisor_override=3), features=4), ("0", "AvgPool2d", "divisor_override")),
        (classifier(nn.AvgPool2d(5), features=1), ("0", "AvgPool2d", "(5, 5)")),
        (classifier(nn.MaxPool2d(2, ceil_mode=True), features=4), ("0", "MaxPool2d", "ceil_mode")),
        (classifier(nn.MaxPool2d(2, dilation=2), features=4), ("0", "MaxPool2d", "dilation")),
        (classifier(nn.MaxPool2d(2, return_indices=True), features=4), ("0", "MaxPool2d", "return_indices")),
        (classifier(nn.BatchNorm2d(1, track_running_stats=False), features=16), ("0", "BatchNorm2d")),
        (classifier(nn.BatchNorm2d(2), features=16), ("0", "BatchNorm2d", "2 channels")),
        (classifier(Normalize((0.1, 0.2), (1.0, 1.0)), features=16), ("0", "Normalize", "2 channels")),
        (classifier(features=15), ("1", "Linear", "15 features")),
        (nn.Sequential(nn.Linear(5, 3)), ("0", "Linear", "not a vector")),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Conv2d(3, 3, 1)), ("2", "Conv2d", "is a vector")),
        (nn.Sequential(nn.Flatten(2), nn.Linear(16, 3)), ("ends in shape", "Flatten")),
        (nn.Sequential(nn.Conv2d(1, 3, 4)), ("is a Flatten missing?",)),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), ("one output",)),
        (nn.Sequential(), ("model",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_layer_that_cannot_be_read_is_named(model, named):
    message = refusal(model)
    assert all(part in message for part in named), message


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda _, x: F.gelu(x).flatten(1), "gelu"),
        (lambda m, x: m.body(x).flatten(1), "body.1"),
        (lambda _, x: F.dropout(x.flatten(1)), "dropout"),
        (lambda _, x: F.leaky_relu(x, x.mean()).flatten(1), "mean"),
        (lambda _, x: (x * x).flatten(1), "mul"),
        (lambda _, x: (x * 1e7).flatten(1), "mul"),
        (lambda _, x: (1 / x).flatten(1), "div"),
        (lambda _, x: (x + torch.rand(4, 4)).flatten(1), "something else"),
        (lambda _, x: x.clamp(1, 0).flatten(1), "clamp"),
        (lambda _, x: F.pad(x, (1, 1), "reflect").flatten(1), "pad"),
        (lambda _, x: x.softmax(1).flatten(1), "softmax"),
        (lambda _, x: torch.add(x, x, alpha=2).flatten(1), "add"),
        (lambda _, x: (x + x.flatten(1)).flatten(1), "add"),
        (lambda m, x: (x + m.last.bias).flatten(1), "add"),
        (lambda _, x: torch.cat([x, x]).flatten(1), "cat"),
        (lambda _, x: x.flatten(), "flatten"),
        (lambda _, x: x.mean((0, 1)), "mean"),
        (lambda _, x: x.transpose(0, 1).flatten(1), "transpose"),
        (lambda _, x: x.view(x.size(1), -1), "view"),
        (lambda _, x: x.reshape(x.shape[3], -1), "reshape"),
        (lambda _, x: x.half().flatten(1), "half"),
        (lambda _, x: F.max_pool2d(x, 1, dilation=2).flatten(1), "max_pool2d"),
        (lambda _, x: x.flatten(1) if x.sum() > 0 else x.relu().flatten(1), "traced"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_that_cannot_be_read_is_named(function, named):
    assert named in refusal(Computes(function))


def works_in_place(_, x):
    y = x.flatten(1)
    z = F.relu(y, inplace=True)
    return y + z


def adds_in_place(m, x):
    y = m.body[0](x)
    z = y
    y += x
    return (y + z + x).flatten(1)


def test_what_works_in_place_on_a_value_that_is_used_again_is_computed_or_refused():
    """A trace does not show that the other use sees the change."""
    torch.manual_seed(0)
    body = Residual(nn.ReLU(inplace=True), nn.Conv2d(1, 1, 3, padding=1))
    x, y = torch.rand(4, 1, 4, 4) * 2 - 1, torch.tensor([0, 1, 2, 0])
    for model in (Computes(works_in_place), Computes(adds_in_place), classifier(nn.Conv2d(1, 1, 1), body, features=16)):
        before = x.clone()
        try:
            margin = certify(model, x, y, eps=0.0, clip=(-1.0, 1.0)).margin
        except SoftadvError as error:
            reason = str(error)
            assert "in place" in reason
            continue
        finally:
            assert torch.equal(x, before)
        outputs = model(x.clone())
        expected = outputs.gather(1, y[:, None])[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
        torch.testing.assert_close(margin, expected, rtol=1e-4, atol=1e-4)


def test_certify_leaves_the_images_as_they_are():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(3, 1, 2, 2) * 2 - 1
    before = x.clone()
    found = certify(model, x, torch.tensor([0, 1, 2]), eps=0.1, clip=(-1.0, 1.0))
    assert torch.equal(x, before)
    apart = nn.Sequential(nn.ReLU(), *model[1:])
    assert torch.equal(found.margin, certify(apart, x, torch.tensor([0, 1, 2]), eps=0.1, clip=(-1.0, 1.0)).margin)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.Dropout(0.3), nn.Dropout2d(0.3)], ids=str)
def test_a_layer_in_training_mode_is_certified_as_in_eval_mode_and_left_so(layer):
    model = classifier(nn.Conv2d(1, 1, 1), nn.Sequential(layer), features=16)
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    expected = certify(model, x, y, eps=0.1)
    layer.train()
    assert torch.equal(certify(model, x, y, eps=0.1).margin, expected.margin)
    assert layer.training
    with pytest.raises(SoftadvError, match=r"1\.0.*eval\(\)"):  # whoever reads it without setting the mode
        read_network(model, (1, 4, 4))


def test_max_pooling_has_no_zonotope():
    model = classifier(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), features=4)
    message = refusal(model, domain="deepzono")
    assert "1 (MaxPool2d)" in message
    for domain in ("box", "deeppoly"):
        certify(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), eps=0.1, domain=domain)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_may_change_what_a_layer_computes(register):
    model = classifier(nn.Conv2d(1, 2, 3), nn.ReLU(), features=8)
    for at in ("0", "3"):
        handle = getattr(model.get_submodule(at), register)(lambda *_: None)
        message = refusal(model)
        assert at in message
        assert "hook" in message
        handle.remove()
    certify(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), eps=0.1)


def test_a_hook_of_all_layers_is_no_different():
    handle = torch.nn.modules.module.register_module_forward_hook(lambda _layer, _inputs, output: -output)
    try:
        assert "hook" in refusal(MODEL)
    finally:
        handle.remove()


@pytest.mark.parametrize("at", ["", "3"])
def test_a_forward_that_was_replaced_is_what_counts(at):
    """Both the model's and a layer's own forward may be replaced on the instance."""
    torch.manual_seed(0)
    model = classifier(nn.Conv2d(1, 2, 3), nn.ReLU(), features=8)
    layer = model.get_submodule(at)
    original = layer.forward
    layer.forward = lambda x: -original(x)
    assert "forward" in refusal(model) or "neg" in refusal(model)


class Autocast(nn.Module):
    """A float32 model that computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.last(x.flatten(1))


def test_autocast_inside_a_model_is_not_overlooked():
    assert Autocast()(torch.rand(1, 1, 4, 4)).dtype == torch.bfloat16
    assert "autocast" in refusal(Autocast())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_no_sound_mode(dtype):
    model = classifier(nn.Conv2d(1, 2, 3), nn.ReLU(), features=8).to(dtype)
    assert "rounding" in refusal(model)


def test_autocast_has_no_sound_mode():
    with torch.autocast("cpu", torch.bfloat16):
        assert "rounding" in refusal(MODEL)
    assert certify(MODEL, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), eps=0.1).margin.isfinite().all()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_coarse_products_have_no_sound_mode(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        assert "rounding" in refusal(MODEL)
    finally:
        torch.set_float32_matmul_precision("highest")


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
        (torch.zeros(2), "shape (2,)"),
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


@pytest.mark.parametrize("option", ["domain", "rounding"])
def test_an_unknown_option_is_named_beside_the_known_ones(option):
    message = refusal(MODEL, **{option: "deeppony"})
    assert message.startswith(f"{option}: ")
    assert "'deeppony'" in message
    assert ("deeppoly" if option == "domain" else "sound") in message


def test_what_is_no_model_is_named():
    with pytest.raises(SoftadvError, match=r"^model: expected a torch\.nn\.Module, got 'mlp'; softadv"):
        certify("mlp", torch.rand(1, 1, 6, 6), torch.zeros(1, dtype=torch.long), eps=0.1)


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
    parts = [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]
    once = nn.Sequential(nn.Flatten(), parts[0], relu, parts[1], relu, parts[1], parts[2])
    apart = nn.Sequential(nn.Flatten(), parts[0], nn.ReLU(), parts[1], nn.ReLU(), parts[1], parts[2])
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    for domain in DOMAINS:
        found = certify(once, x, y, eps=0.1, domain=domain).margin
        assert torch.equal(found, certify(apart, x, y, eps=0.1, domain=domain).margin)
