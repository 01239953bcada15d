"""What a model writes into its own values is read, or refused."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softadv.errors import SoftadvError
from tests.certify.asked import ask, linear


def test_a_view_whose_size_is_taken_does_not_hide_what_is_overwritten():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(1, 1, 1), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            a = self.conv(x)
            v = a.flatten(1)
            r = F.relu(v, inplace=True)
            return self.one(r.view(v.size(0), -1)) + self.two(a.flatten(1))

    with pytest.raises(SoftadvError, match="works in place on a value that is used again"):
        ask(Overwrites(), torch.rand(1, 1, 1, 2))


class Overwrites(nn.Module):
    """The second network is what is traced; the first one is what is computed, since `change` works on h itself."""

    def __init__(self, change):
        super().__init__()
        self.first, self.last = linear([[1.0], [0.0]], [0.0, 0.0]), linear([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.55])
        self.change = change

    def forward(self, x):
        h = self.first(x.flatten(1))
        self.change(h)
        return self.last(h)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: operator.iadd(h, -0.07),
        lambda h: operator.isub(h, 0.07),
        lambda h: operator.imul(h, 0.9),
        lambda h: operator.itruediv(h, 1.11),
        lambda h: torch.cat([h[:, :1] * 0.9, h[:, 1:] * 0.9], 1, out=h),
    ],
    ids=["+=", "-=", "*=", "/=", "out="],
)
def test_what_is_written_into_a_value_that_is_used_again_is_not_overlooked(change):
    model, x = Overwrites(change), torch.full((1, 1, 1, 1), 0.7)
    with torch.no_grad():
        assert model(x).argmax() == 0
        assert model(x - 0.13).argmax() == 1
    with pytest.raises(SoftadvError, match=r"in place|cat .*cannot be read"):
        ask(model, x, eps=0.14)


@pytest.mark.parametrize(
    ("change", "same"),
    [(operator.isub, operator.sub), (operator.imul, operator.mul), (operator.itruediv, operator.truediv)],
)
def test_what_works_in_place_on_a_value_of_its_own_is_read(engine, change, same):
    class Changes(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.last = function, linear([[1.0, 2.0], [0.5, -1.0]], [0.1, 0.2])

        def forward(self, x):
            return self.last(self.function(x, 0.4).flatten(1))

    x = torch.rand(3, 1, 1, 2)
    before = x.clone()
    found, expected = (ask(Changes(function), x).margin for function in (change, same))
    assert torch.equal(found, expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("drop", [nn.Dropout, nn.Dropout2d])
def test_a_dropout_that_would_work_in_place_writes_nothing_in_eval_mode(drop):
    class Drops(nn.Module):
        def __init__(self, *, inplace):
            super().__init__()
            self.drop, self.last = drop(inplace=inplace), linear([[1.0, 2.0], [0.5, -1.0]], [0.1, 0.2])

        def forward(self, x):
            return self.last((x + self.drop(x)).flatten(1))

    x = torch.rand(3, 1, 1, 2)
    found, expected = (ask(Drops(inplace=inplace).eval(), x).margin for inplace in (True, False))
    assert torch.equal(found, expected)
    assert found.isfinite().all()


def test_what_writes_into_the_result_of_a_dropout_writes_into_what_it_was_given():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.last = nn.Dropout(inplace=True), linear([[1.0], [0.0]], [0.0, 0.1])

        def forward(self, x):
            h = self.last(x.flatten(1))
            return h + F.relu(self.drop(h), inplace=True)

    with pytest.raises(SoftadvError, match="works in place on a value that is used again"):
        ask(Drops(), torch.rand(3, 1, 1, 1))
