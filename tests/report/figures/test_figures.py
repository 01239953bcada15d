"""The report's figures, and the words in them; their files are tested with the report."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from softadv.experiments.names import names_of
from softadv.experiments.spec import METHODS
from softadv.experiments.spec_text import Series, by_setting, fraction, setting_title
from softadv.report.figures import accuracy, examples, trade_off, verified
from softadv.report.figures.style import wrapped
from tests.report.test_page import make_epoch, make_trial


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (0.2, "0.2"), (8 / 255, "8/255"), (1 / 255, "1/255"), (0.0, "0"), (1 / 3, "85/255")],
)
def test_numbers_are_written_as_the_paper_does(value: float, text: str) -> None:
    assert fraction(value) == text


def test_settings_are_ordered_by_eps_and_titled_as_in_the_paper() -> None:
    trials = [make_trial(eps=k / 255, setting=f"eps{k}") for k in (10, 2, 1)]
    runs = [Series(trial=trial, epochs=(make_epoch(trial, epoch=1),)) for trial in trials]
    assert list(by_setting(runs)) == ["eps1", "eps2", "eps10"]
    assert setting_title(runs[1]) == "Digits   Epochs: 2   ε: 2/255   Steps: 3   α: 0.01"


def test_accuracy_panels_share_their_axis_and_hold_percent() -> None:
    runs = [Series(trial=t, epochs=(make_epoch(t, epoch=1), make_epoch(t, epoch=2))) for t in map(make_trial, METHODS)]
    panels = accuracy.draw(runs).axes
    assert [axes.get_title() for axes in panels] == [
        "Natural training",
        "Adversarial training",
        "Soft adversarial training",
    ]
    assert len({axes.get_ylim() for axes in panels}) == 1
    assert list(panels[0].lines[0].get_ydata()) == pytest.approx([80, 90])
    assert {axes.get_xlabel() for axes in panels} == {"Epoch"}


def test_trade_off_has_a_panel_per_setting() -> None:
    trials = [make_trial(eps=k / 255, setting=f"eps{k}", seed=seed) for k in (1, 2, 4, 8) for seed in (0, 1)]
    figure = trade_off.draw([Series(trial=t, epochs=(make_epoch(t, epoch=1),)) for t in trials])
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 4
    assert {axes.get_xlabel() for axes in shown} == {"Natural accuracy (%)"}
    assert {axes.get_ylabel() for axes in shown} == {"Adversarial accuracy (%)"}


@pytest.mark.parametrize(("eps", "gain"), [(0.1, 5), (8 / 255, 15), (0.0, 1), (1.0, 1)])
def test_the_gain_shows_eps_in_full(eps: float, gain: int) -> None:
    assert examples.difference_gain(replace(make_trial(), eps=eps)) == gain


def soft_runs(*settings: str, epochs: int = 2) -> list[Series]:
    trials = [make_trial(setting=setting) for setting in settings]
    return [Series(trial=t, epochs=tuple(make_epoch(t, epoch=e) for e in range(1, epochs + 1))) for t in trials]


def test_verified_lines_that_end_alike_have_labels_apart() -> None:
    names = [f"s{index}" for index in range(6)]
    (axes,) = verified.draw({name: soft_runs(name) for name in names}, title="x").axes
    places = sorted(text.xy[1] for text in axes.texts)
    assert len(places) == 6
    assert min(later - earlier for earlier, later in pairwise(places)) > 1
    assert axes.get_ylim()[0] < places[0] < places[-1] <= axes.get_ylim()[1]


def test_many_verified_lines_have_a_legend() -> None:
    names = [f"s{index:02}" for index in range(16)]
    figure = verified.draw({name: soft_runs(name) for name in names}, title="x")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}: 25.0" for name in names]


def test_lines_begin_with_the_first_split() -> None:
    (run,) = soft_runs("s", epochs=4)
    late = replace(run, trial=replace(run.trial, natural_epochs=2, epochs=4))
    (axes,) = verified.draw({"s": [late]}, title="x").axes
    assert list(axes.lines[0].get_xdata()) == [3, 4]


def test_a_title_is_broken_between_its_parts() -> None:
    title = setting_title(Series(trial=replace(make_trial(), optimizer="sgd", batch_size=64)))
    assert wrapped(title, inches=2.5, size=9).replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        "Digits   Epochs: 2   ε: 0.1   Steps: 3",
        "α: 0.01   optimizer: sgd",
        "batch_size: 64",
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_examples_name_their_classes_whatever_the_channels(channels: int) -> None:
    image = torch.rand(3, channels, 8, 8)
    tensors = {
        "image": image, "attacked": image, "label": torch.tensor([0, 1, 2]), "predicted": torch.tensor([0, 1, 2]),
        "predicted_attacked": torch.tensor([1, 2, 0]), "verified": torch.tensor([False] * 3),
    }  # fmt: skip
    figure = examples.draw(make_trial(), tensors, class_names=("rose", "a very long flower's name"))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["label rose", "label a very long…", "label 2"]
    assert figure.axes[3].get_xlabel() == "a very long… ✗"


@pytest.mark.parametrize(
    ("about", "names"),
    [
        ({"class_names": '["a", "b"]'}, ["a", "b"]),
        ({}, "0123456789"),
        ({"class_names": "3"}, "0123456789"),
        ({"class_names": "[1, 2]"}, "0123456789"),
        ({"class_names": "["}, "0123456789"),
        ({"class_names": "[" * 100_000}, "0123456789"),
    ],
)
def test_class_names_are_the_data_sets_or_else_the_known_ones(about: dict[str, str], names: str | list[str]) -> None:
    assert list(examples._class_names(names_of(make_trial()), about)) == list(names)
