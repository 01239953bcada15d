"""Methods by name: settings in brackets, and classes of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import softadv
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.methods import (
    Adversarial,
    Fat,
    Random,
    Soft,
    Trades,
    load_method,
    methods,
    parse_method,
    settings_of,
)

OWN = """
import torch
from dataclasses import dataclass
from softadv import methods

@dataclass(frozen=True, kw_only=True)
class Half(methods.Method):
    title, color = "The first half", "#123456"
    part: float = 0.5

    def attacked(self, epoch):
        return torch.arange(len(epoch.y)) < self.part * len(epoch.y)

class Nameless(methods.Method):
    pass

class Broken(methods.Method):
    title, color = "Broken", "#000000"

    def __init__(self):
        raise ValueError("two\\nlines")

def no_class():
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module my_methods in the current folder."""
    (tmp_path / "my_methods.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_methods", None)


def test_a_name_may_have_settings() -> None:
    assert parse_method("soft") == ("soft", {})
    assert parse_method("trades(beta=6)") == ("trades", {"beta": 6})
    assert parse_method("own.module:Class(a=-2, b_c = 6/255,d=1e-3)") == (
        "own.module:Class", {"a": -2, "b_c": 6 / 255, "d": 0.001}
    )  # fmt: skip
    assert type(parse_method("fat(tau=3)")[1]["tau"]) is int
    assert load_method("trades(beta=3)") == Trades(beta=3)
    assert load_method("adversarial(train_eps=6/255)") == Adversarial(train_eps=6 / 255)
    assert load_method("soft(split_every=5)", domain="box") == Soft(split_every=5, domain="box")
    fat = Fat(tau=1)
    assert load_method(fat) is fat
    assert settings_of(fat) == {"tau": 1}
    assert settings_of(Fat()) == {}


@pytest.mark.parametrize("name", methods.names())
def test_every_registered_method_can_be_made_by_its_name(name: str) -> None:
    assert type(load_method(name)) is methods.get(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name"),
        ("two words", "expected a name"),
        ("trades(beta=6", "expected a name"),
        ("trades)beta=6(", "expected a name"),
        ("trades(6)", r"trades\(6\): expected KEY=NUMBER, got '6'"),
        ("trades(beta=)", "expected KEY=NUMBER, got 'beta='"),
        ("trades(beta=six)", "beta: expected a number or a fraction such as 8/255, got 'six'"),
        ("trades(beta=1/0)", "beta: expected a number"),
        ("trades(beta=inf)", "beta: expected a number"),
        ("trades(beta=6, beta=7)", "beta is given twice"),
    ],
)
def test_what_has_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(SoftadvError, match=rf"^method: .*{message}") as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sofd", "unknown name 'sofd', did you mean soft"),
        ("natural(beta=6)", r"method natural\(beta=6\): no setting 'beta'; it has none"),
        ("trades(gamma=6)", "no setting 'gamma'; it has beta"),
        ("trades(beta=-1)", "beta: must be 0 or more, got -1"),
        ("fat(tau=-1)", "tau: must be at least 0, got -1"),
        ("fat(tau=1.5)", "tau: expected a whole number, got 1.5"),
        ("soft(split_every=0)", "split_every: must be at least 1, got 0"),
        ("inverted(domain=3)", "domain: unknown value 3, expected one of box, deepzono, deeppoly"),
        ("adversarial(train_eps=-8)", "train_eps: must be 0 or more and finite, got -8"),
        ("random(share=2)", r"share: must be in \[0, 1\], got 2"),
    ],
)
def test_a_method_that_cannot_be_had_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SoftadvError, match=message) as caught:
        load_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trades(beta="6"), "beta: expected a number, got '6'"),  # type: ignore[arg-type]
        (lambda: Random(share="0.5"), "share: expected a number, got '0.5'"),  # type: ignore[arg-type]
        (lambda: Random(counts=3), "counts: expected a list of whole numbers, got 3"),  # type: ignore[arg-type]
        (lambda: Random(counts=(1.5,)), "counts: expected a whole number, got 1.5"),  # type: ignore[arg-type]
        (lambda: Soft(split_share="0.5"), "split_share: expected a number, got '0.5'"),  # type: ignore[arg-type]
        (lambda: Adversarial(train_eps="8/255"), "train_eps: expected a number, got '8/255'"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_of_another_kind_is_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SoftadvError) as caught:
        make()
    assert str(caught.value) == message


def test_numbers_of_any_kind_are_kept_as_pythons_own() -> None:
    assert type(Fat(tau=np.int64(2)).tau) is int  # type: ignore[arg-type]
    assert type(Soft(split_every=np.int64(2)).split_every) is int  # type: ignore[arg-type]
    assert list(map(type, Random(counts=[np.int64(2)]).counts or ())) == [int]  # type: ignore[arg-type]


def test_what_is_no_method_at_all_is_one_line() -> None:
    for what in (dict, 6, None, object()):
        with pytest.raises(SoftadvError, match=r"^method: expected a name, or an object of .*Method, got"):
            load_method(what)  # type: ignore[arg-type]
    with pytest.raises(SoftadvError, match=r"^method Trades: is a class; make it a method first, such as Trades\(\)$"):
        load_method(Trades)  # type: ignore[arg-type]
    with pytest.raises(SoftadvError, match=r"^method Trades: has its settings already, got beta$"):
        load_method(Trades(), beta=3)
    with pytest.raises(SoftadvError, match="eran-deeppoly computes deeppoly, not box"):
        Soft(domain="box", certifier="eran-deeppoly")


@pytest.mark.usefixtures("own")
def test_a_class_of_ones_own_is_found_in_the_current_folder(digits: Dataset) -> None:
    images: tuple[Tensor, Tensor] = digits.train_x[:40], digits.train_y[:40]
    model = softadv.conv_small("digits")
    method = "my_methods:Half(part=0.25)"
    ran = softadv.train(model, images, method=method, eps=0.05, epochs=1, attack=softadv.PGD(steps=1))
    assert [epoch.attacked for epoch in ran.history] == [10]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_methods:Nameless", "class Nameless has no title, by which figures show it"),
        ("my_methods:Broken", "raised ValueError: two lines; .*my_methods.py, line"),
        ("my_methods:no_class", "expected a subclass of softadv.methods.Method, got a function"),
        ("my_methods:Hald", "has no 'Hald'; did you mean Half"),
        ("my_method:Half", "there is no module my_method in the current folder"),
        ("my_methods:Half(whole=1)", "no setting 'whole'; it has part"),
    ],
)
def test_a_class_of_ones_own_that_does_not_do_is_one_line(name: str, message: str) -> None:
    with pytest.raises(SoftadvError, match=message) as caught:
        load_method(name)
    assert "\n" not in str(caught.value)
