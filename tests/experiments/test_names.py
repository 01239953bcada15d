"""What methods and data sets are called and how they are coloured, recorded or not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from softadv.certify.records import Parity
from softadv.errors import SoftadvError
from softadv.experiments.names import (
    PALETTE,
    Names,
    method_rank,
    names_of,
    names_together,
    short_title,
    within_sentence,
)
from softadv.experiments.records import result_from_table, result_to_table
from softadv.registry import Origin
from tests.finished import a_run

TRIAL = a_run().result.trial
MINE = Names(
    method_title="Mine, $\\beta$ = 6",
    method_color="#12ab9F",
    dataset_title="Flowers <of mine>",
    class_names=("rose", "tulip"),
    sources={"method": Origin("my.nets:Mine", "0" * 64), "dataset": Origin("my.flowers:load", None)},
)
PAPER = ("natural", "adversarial", "soft")


def test_a_result_keeps_its_names_through_json() -> None:
    result = replace(a_run().result, names=MINE, parity=Parity(images=1, largest_difference=0.0, classes_equal=True))
    table = json.loads(json.dumps(result_to_table(result)))
    assert result_from_table(table, where="x") == result
    table.pop("names")  # an old record
    assert result_from_table(table, where="x") == replace(result, names=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method_color": "red"}, "x: names: method_color: expected a colour such as #CC79A7, got 'red'"),
        ({"method_color": "#12345"}, "method_color: expected a colour"),
        ({"method_color": "#000;}"}, "method_color: expected a colour"),
        ({"method_title": ""}, "method_title: expected one line of text"),
        ({"dataset_title": "a\nb"}, "dataset_title: expected one line of text"),
        ({"dataset_title": 3}, "names.dataset_title: expected a text, got 3"),
        ({"class_names": "ab"}, "names.class_names: expected a list"),
        ({"sources": {"kitchen": {"path": "a:b", "sha256": None}}}, "kitchen"),
        ({"sources": {"method": {"path": "a:b"}}}, "sha256 is missing"),
        ({"taste": "good"}, "unknown key 'taste'"),
    ],
)
def test_names_are_read_strictly(change: dict[str, Any], message: str) -> None:
    table = result_to_table(a_run().result)
    with pytest.raises(SoftadvError) as error:
        result_from_table(table | {"names": asdict(MINE) | change}, where="x")
    assert message in str(error.value)


def test_old_records_have_the_papers_titles_and_data_sets() -> None:
    found = [names_of(replace(TRIAL, method=method)) for method in PAPER]
    assert [names.method_title for names in found] == [
        "Natural training", "Adversarial training", "Soft adversarial training",
    ]  # fmt: skip
    assert [names.method_color for names in found] == ["#0072B2", "#D55E00", "#009E73"]
    assert names_of(replace(TRIAL, dataset="cifar10")).class_names[:2] == ("airplane", "automobile")


def test_without_a_record_a_method_has_its_own_name_and_a_colour_of_the_palette() -> None:
    names = names_of(replace(TRIAL, method="my.nets:Mine", dataset="my.flowers:load"))
    assert (names.method_title, names.dataset_title, names.class_names) == ("my.nets:Mine", "load", ())
    assert names.method_color in PALETTE
    assert names_of(TRIAL, MINE) == MINE


def test_methods_on_a_page_have_titles_and_colours_of_their_own() -> None:
    methods = ["soft", "trades(beta=1)", "trades(beta=6)", "zebra", "ape", "natural"]
    trades = replace(MINE, method_title="TRADES", method_color=PALETTE[0])
    records = {"trades(beta=1)": trades, "trades(beta=6)": trades}
    trials = [replace(TRIAL, method=method, seed=seed) for method in methods for seed in (0, 1)]
    # Of seed 1 nothing has been recorded yet.
    found = names_together([(trial, records.get(trial.method) if trial.seed == 0 else None) for trial in trials])
    assert found[::2] == [replace(names, sources=found[2 * i].sources, class_names=found[2 * i].class_names)
                          for i, names in enumerate(found[1::2])]  # fmt: skip
    by_method = dict(zip(methods, found[::2], strict=True))
    assert by_method["trades(beta=6)"].method_title == "TRADES (beta=6)"
    assert by_method["ape"].method_title == "ape"
    assert by_method["trades(beta=1)"].method_color == PALETTE[0]
    assert len({names.method_color for names in found}) == len(methods)
    assert {names.dataset_title for names in found} == {"Flowers <of mine>"}


def test_a_palette_that_is_used_up_is_no_failure() -> None:
    methods = [f"m{index}" for index in range(len(PALETTE) + 2)]
    found = names_together([(replace(TRIAL, method=method), None) for method in methods])
    assert {names.method_color for names in found} == set(PALETTE)


def test_the_papers_methods_come_first_then_the_others_by_name() -> None:
    assert sorted(["zebra", "soft", "ape", "natural", "adversarial"], key=method_rank) == [*PAPER, "ape", "zebra"]


def test_titles_in_a_cell_and_in_a_sentence() -> None:
    assert short_title("soft", names_of(TRIAL)) == "Soft"
    assert short_title("mine", MINE) == MINE.method_title
    titles = ["Natural training", "TRADES", "x", "Mine, my own"]
    assert [within_sentence(title) for title in titles] == ["natural training", "TRADES", "x", "mine, my own"]


# What the three kinds of colour-blind see, as a matrix on linear RGB: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, table 1, severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> npt.NDArray[np.float64]:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIELAB of linear RGB: a distance of 2 or 3 is just seen."""
    x, y, z = np.cbrt(XYZ @ rgb.clip(0, 1) / (0.95047, 1, 1.08883))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_the_colours_can_be_told_apart(sight: str) -> None:
    colors = [names_of(replace(TRIAL, method=method)).method_color for method in PAPER] + list(PALETTE)
    seen = {color: lab(np.array(SIGHT[sight]) @ linear(color)) for color in colors}
    least = min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(colors, 2))
    assert least[0] > 10, least
