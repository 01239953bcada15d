"""Settings, methods and signs in words."""

from dataclasses import replace

import pytest

from softadv.claims.judge import Claim, Expectations, Verdict
from softadv.claims.selection import Required
from softadv.experiments.names import names_of
from softadv.experiments.spec_text import Series, setting_title
from softadv.report.claims_table import claim_groups
from softadv.report.words import in_symbols, in_words, method_label, method_title, setting_words
from tests.report.trials import make_trial


def series(**other: object) -> Series:
    return Series(trial=replace(make_trial(), **other))  # type: ignore[arg-type]


def test_a_setting_says_as_much_as_tells_it_from_the_others() -> None:
    runs = [
        series(setting="a"), series(setting="b", eps=8 / 255), series(setting="b-long", eps=8 / 255, epochs=64),
        series(setting="c", eps=0.3), series(setting="c-sgd", eps=0.3, optimizer="sgd"),
        series(setting="d", eps=0.4), series(setting="e", eps=0.4, steps=9),
    ]  # fmt: skip
    required = Required(dataset="digits", eps=0.1, alpha=0.01, steps=3, epochs=50)
    expected = [Expectations([], {"paper": required, "far": replace(required, eps=0.7)})]
    assert setting_words(runs, expected) == {
        "a": "Digits, ε 0.1",
        "b": "Digits, ε 8/255, 2 epochs",
        "b-long": "Digits, ε 8/255, 64 epochs",
        "c": "Digits, ε 0.3",
        "c-sgd": "Digits, ε 0.3, optimizer: sgd",
        "d": "Digits, ε 0.4 (d)",
        "e": "Digits, ε 0.4 (e)",
        "paper": "Digits, ε 0.1, 50 epochs",  # was not run, and is not what was
        "far": "Digits, ε 0.7",
    }


def test_names_and_signs_become_words() -> None:
    words = {"mnist-eps0.1": "MNIST, ε 0.1", "mnist-eps0.15": "MNIST, ε 0.15"}
    assert in_words("mnist-eps0.15 -2.00 [-3.10, 1.5-2], mnist-eps0.1, deeppoly - box", words) == (
        "MNIST, ε 0.15 −2.00 [−3.10, 1.5-2], MNIST, ε 0.1, DeepPoly − Box"
    )
    assert in_words("no finished soft run of mnist-eps0.1; my-mnist-eps0.1", words) == (
        "no finished soft run of MNIST, ε 0.1; my-mnist-eps0.1"
    )
    assert in_symbols("eps 4/255, steps, train_eps 0.1, 2e-5") == "ε 4/255, steps, ε 0.1, 2e-5"


@pytest.mark.parametrize(
    ("method", "recorded", "label", "title"),
    [
        ("soft", "", "Soft", "Soft adversarial training"),
        ("trades(beta=6)", "TRADES (beta=6)", "TRADES β 6", "TRADES β 6"),
        ("adversarial(train_eps=6/255)", "Adversarial training (train_eps=6/255)", "Adversarial ε 6/255",
         "Adversarial ε 6/255"),
        ("my.nets:Mine", "Mine, my own", "Mine, my own", "Mine, my own"),
        ("my(odd name", "Odd", "Odd", "Odd"),
    ],
)  # fmt: skip
def test_methods_have_short_names(method: str, recorded: str, label: str, title: str) -> None:
    names = names_of(make_trial())
    names = replace(names, method_title=recorded) if recorded else names
    assert method_label(method, names) == label
    assert method_title(method, names) == title


def test_a_choice_of_a_setting_is_named_in_words() -> None:
    title = setting_title(series(batch_size=8, split_every=3))
    assert title.endswith("batch size: 8   split every: 3") or title.endswith("split every: 3   batch size: 8")


def test_the_value_of_a_choice_stays_as_it_is_written() -> None:
    padded = series(setting="digits-padded", model="conv_small_padded")
    assert setting_words([series(), padded])["digits-padded"].endswith("model: conv_small_padded")


def test_a_claim_begins_with_a_capital() -> None:
    claim = Claim(id="1", title="the digits-a models", source="s", kind="check")
    (group,) = claim_groups([Verdict(claim=claim, outcome="holds", reason="r")], {"digits-a": "Digits, ε 0.1"})
    assert [row.title for row in group.decided] == ["The Digits, ε 0.1 models"]
