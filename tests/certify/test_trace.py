"""Models as people write them: whatever way an operation is spelled, it is the same network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.certify import DOMAINS, certify
from softadv.errors import SoftadvError
from softadv.models import Normalize
from tests.networks import Residual, batch_norm, random_images

SHAPE = (1, 6, 6)
FLATTENINGS = {
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "torch.flatten by name": lambda x: torch.flatten(x, start_dim=1),
    "flatten": lambda x: x.flatten(1),
    "flatten to -1": lambda x: x.flatten(1, -1),
    "view": lambda x: x.view(x.size(0), -1),
    "view of a shape": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(x.size(0), -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "reshape to a tuple": lambda x: x.reshape((x.size(0), -1)),
    "nn.Flatten": nn.Flatten(),
}
RELUS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
}
SUMS = {
    "+": lambda a, b: a + b,
    "torch.add": torch.add,
    "add": lambda a, b: a.add(b),
}


class Written(nn.Module):
    """One network with a convolution, a residual block and two linear layers, in the words that are given."""

    def __init__(self, *, flatten=FLATTENINGS["flatten"], relu=F.relu, add=torch.add) -> None:
        super().__init__()
        self.flatten, self.relu, self.add = flatten, relu, add
        self.parts = nn.ModuleDict(
            {
                "first": nn.Conv2d(1, 2, 3),
                "second": nn.Conv2d(2, 2, 3, padding=1),
                "third": nn.Linear(32, 6),
                "last": nn.Linear(6, 4),
            }
        )

    def forward(self, x):
        x = self.relu(self.parts["first"](x))
        x = self.relu(self.add(x, self.parts["second"](x)))
        return self.parts["last"](self.relu(self.parts["third"](self.flatten(x))))

    def as_layers(self):
        first, second, third, last = self.parts.values()
        return nn.Sequential(
            first, nn.ReLU(), Residual(second), nn.ReLU(), nn.Flatten(), third, nn.ReLU(), last
        ).requires_grad_(False)


class BasicBlock(nn.Module):
    """A residual block as ResNets have it."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
        self.bn1, self.bn2 = batch_norm(outputs), batch_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), batch_norm(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


def question(*, seed=0):
    x, y = random_images(SHAPE, 4, seed=seed)
    return x.float(), y


def assert_same_network(model, plain):
    x, y = question()
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
    for domain in DOMAINS:
        found, expected = (certify(m, x, y, eps=0.05, domain=domain, rounding="none").margin for m in (model, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FLATTENINGS)
def test_every_way_to_flatten_is_read(name):
    model = Written(flatten=FLATTENINGS[name])
    assert_same_network(model, model.as_layers())


@pytest.mark.parametrize("name", RELUS)
def test_every_way_to_write_relu_is_read(name):
    model = Written(relu=RELUS[name])
    assert_same_network(model, model.as_layers())


@pytest.mark.parametrize("name", SUMS)
def test_every_way_to_add_is_read(name):
    model = Written(add=SUMS[name])
    assert_same_network(model, model.as_layers())


def test_a_residual_network_is_read(engine, generator):
    head = nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(3, 4))
    model = nn.Sequential(Normalize((0.3,), (0.4,)), BasicBlock(1, 2, 1), BasicBlock(2, 3, 2), head).eval()
    x, y = question()
    outputs = model(x).detach()
    expected = outputs.gather(1, y[:, None])[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(certify(model, x, y, eps=0.0).margin, expected, rtol=1e-3, atol=1e-3)
    margin = certify(model, x, y, eps=0.02).margin
    for _ in range(50):
        noise = torch.empty_like(x).uniform_(-0.02, 0.02, generator=generator)
        outputs = model((x + noise).clamp(0, 1)).detach()
        others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
        assert (outputs.gather(1, y[:, None])[:, 0] - others >= margin).all()


def test_a_subclass_is_read_by_what_it_computes():
    class Block(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    conv = nn.Conv2d(1, 1, 3, padding=1)
    tail = (nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    assert_same_network(nn.Sequential(Block(conv, nn.ReLU()), *tail), nn.Sequential(Residual(conv, nn.ReLU()), *tail))


def test_layers_that_do_nothing_change_nothing():
    body = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)]
    idle = [nn.Identity(), nn.Dropout(0.4), nn.Dropout2d(0.4), nn.Sequential()]
    mixed = nn.Sequential(body[0], idle[2], body[1], idle[0], body[2], idle[1], body[3], idle[3]).eval()
    x, y = question()
    for domain in DOMAINS:
        found = certify(mixed, x, y, eps=0.05, domain=domain).margin
        assert torch.equal(found, certify(nn.Sequential(*body), x, y, eps=0.05, domain=domain).margin)


def test_an_activation_added_to_itself_is_doubled(engine):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(36, 5), nn.Linear(5, 4)

        def forward(self, x):
            x = self.first(x.flatten(1)).relu()
            x = x + x
            return self.last(x + x)

    model = Twice()
    doubled = nn.Linear(5, 4)
    with torch.no_grad():
        doubled.weight.copy_(4 * model.last.weight)
        doubled.bias.copy_(model.last.bias)
    assert_same_network(model, nn.Sequential(nn.Flatten(), model.first, nn.ReLU(), doubled))


def test_an_activation_that_leads_nowhere_does_no_harm():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.last = nn.Conv2d(1, 2, 3), nn.Linear(36, 4)

        def forward(self, x):
            self.aside(x).relu()
            return self.last(x.flatten(1))

    model = Unused()
    assert_same_network(model, nn.Sequential(nn.Flatten(), model.last))


@pytest.mark.parametrize("domain", DOMAINS)
def test_constants_of_a_smaller_type_are_those_of_the_evaluation(engine, domain):
    """PyTorch subtracts a float32 mean from a float64 image in float64."""
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    mixed = nn.Sequential(Normalize((0.3, 0.4), (0.2, 0.7)), body)
    wide = nn.Sequential(Normalize((0.3, 0.4), (0.2, 0.7)).double(), body)
    x, y = random_images((2, 4, 4), 3, seed=0, classes=3)
    for eps in (0.0, 0.05):
        found, expected = (certify(model, x, y, eps=eps, domain=domain).margin for model in (mixed, wide))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_layout_of_images_and_weights_in_memory_does_not_matter(engine):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 3))
    x, y = random_images((2, 6, 6), 3, seed=0, classes=3)
    x = x.float()
    expected = certify(model, x, y, eps=0.01).margin
    channels_last = x.to(memory_format=torch.channels_last)
    # Not the same bits: which order PyTorch's product adds in may depend on the layout, and does without AVX-512.
    torch.testing.assert_close(certify(model, channels_last, y, eps=0.01).margin, expected, rtol=1e-5, atol=1e-5)
    model.to(memory_format=torch.channels_last)
    model[4].weight.data = model[4].weight.data.t().contiguous().t()
    model[0].bias.data = torch.stack([model[0].bias.data] * 2, 1)[:, 0]
    torch.testing.assert_close(certify(model, x, y, eps=0.01).margin, expected, rtol=1e-5, atol=1e-5)
    once = certify(model, x[:1].expand(3, -1, -1, -1), y[:1].expand(3), eps=0.01).margin
    torch.testing.assert_close(once, expected[:1].expand(3), rtol=1e-5, atol=1e-5)


class Overwritten(nn.Module):
    """A view that a ReLU overwrites: the tensor behind it changes, too, which no trace shows."""

    def __init__(self, view) -> None:
        super().__init__()
        self.view, self.head = view, nn.Linear(4, 2)

    def forward(self, x):
        x = x * 1.0 - 0.6
        F.relu(self.view(x), inplace=True)
        return self.head(x)


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, :2], lambda x: x.permute(0, 1), lambda x: x.split(2, 1)[0], nn.Unflatten(1, (2, 2)), nn.Flatten()],
)
def test_a_view_that_is_overwritten_in_place_is_refused(view):
    with pytest.raises(SoftadvError, match="in place"):
        certify(Overwritten(view), torch.rand(2, 4), torch.zeros(2, dtype=torch.int64), eps=0.1)


class Moved(nn.Module):
    """A function between two layers."""

    def __init__(self, first, move, last) -> None:
        super().__init__()
        self.first, self.move, self.last = first, move, last

    def forward(self, x):
        return self.last(self.move(self.first(x)))


def exchanged(parts):
    return torch.cat([parts[1], parts[0]], 1)


MOVES = {
    "a matrix that becomes an image": ((2, 3), lambda x: x.reshape(-1, 2, 3, 1), nn.Conv2d(2, 3, (2, 1)), 6),
    "rows with a stride": ((2, 6), lambda x: x[:, :, ::2], nn.Identity(), 6),
    "one column": ((3, 4), lambda x: x[..., 1], nn.Identity(), 3),
    "transposed": ((2, 3), lambda x: x.transpose(1, 2), nn.Identity(), 6),
    "repeated": ((2, 3), lambda x: x.repeat(1, 2, 1), nn.Identity(), 12),
    "split": ((4, 3), lambda x: exchanged(x.split([1, 3], 1)), nn.Identity(), 12),
    "joined in width": ((2, 3, 2), lambda x: torch.cat([x, x.flip(3)], 3), nn.Identity(), 24),
    "padded with ones": ((2, 3), lambda x: F.pad(x, (1, 0), value=1.0), nn.Identity(), 8),
    "reflected": ((2, 3), lambda x: F.pad(x, (1, 1), mode="reflect"), nn.Identity(), 10),
    "squeezed": ((1, 4), lambda x: x.squeeze(1).unsqueeze(2), nn.Identity(), 4),
    "a mean of rows": ((3, 4), lambda x: x.mean(1), nn.Identity(), 4),
    "a matrix product": ((3, 4), lambda x: x.view(x.shape[0], x.size(1), 4), nn.Linear(4, 2), 6),
    "a constant of each number": ((2, 3), lambda x: x + torch.arange(6.0).reshape(2, 3), nn.Identity(), 6),
    "a difference": ((2, 3), lambda x: x - x[:, :1], nn.Identity(), 6),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_numbers_moves_them_in_the_certifier_too(engine, name, generator):
    shape, move, last, features = MOVES[name]
    tail = nn.Sequential(last, nn.ReLU(), nn.Flatten(), nn.Linear(features, 4))
    model = Moved(nn.ReLU(), move, tail).eval().requires_grad_(False)
    x = torch.rand(5, *shape, generator=generator)
    y = model(x).argmax(1)
    for domain in DOMAINS:
        exact = certify(model, x, y, eps=0.0, domain=domain)
        scores = model(x)
        others = scores.scatter(1, y[:, None], -torch.inf).amax(1)
        torch.testing.assert_close(exact.margin, scores.amax(1) - others, rtol=1e-3, atol=1e-4)
        margin = certify(model, x, y, eps=0.05, domain=domain).margin
        for _ in range(50):
            near = (x + (torch.rand(x.shape, generator=generator).round() * 2 - 1) * 0.05).clamp(0, 1)
            found = model(near)
            assert (
                found.gather(1, y[:, None])[:, 0] - found.scatter(1, y[:, None], -torch.inf).amax(1) >= margin
            ).all()


def test_branches_of_different_strides_are_added(engine, generator):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 3, stride=2), nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 3, stride=1)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            z = F.relu(self.a(x) + self.c(F.relu(self.b(x)))[:, :, :2, :2])
            return self.head(z.flatten(1))

    torch.manual_seed(0)
    model = Branches().eval().requires_grad_(False)
    x = torch.rand(4, 1, 5, 5, generator=generator)
    y = model(x).argmax(1)
    margin = certify(model, x, y, eps=0.02).margin
    for _ in range(50):
        found = model((x + (torch.rand(x.shape, generator=generator).round() * 2 - 1) * 0.02).clamp(0, 1))
        assert (found.gather(1, y[:, None])[:, 0] - found.scatter(1, y[:, None], -torch.inf).amax(1) >= margin).all()
