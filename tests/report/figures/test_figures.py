"""The report's figures, and the words in them; their files are tested with the report."""

import base64
import io
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from softadv.experiments.names import names_of
from softadv.experiments.records import Autoattacked, Result
from softadv.experiments.spec import METHODS, Trial
from softadv.experiments.spec_text import Series, by_setting, fraction, setting_title
from softadv.report.dominance import plane
from softadv.report.figures import accuracy, examples, trade_off, verified
from softadv.report.figures.svg import AxisScale, Panel, apart
from tests.report.trials import make_epoch, make_trial


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


def texts(panel: Panel) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(panel.svg()).iter("text")]


def said(panel: Panel) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(panel.svg()).iter("title")]


def test_accuracy_panels_share_their_axis_and_hold_percent() -> None:
    runs = [Series(trial=t, epochs=(make_epoch(t, epoch=1), make_epoch(t, epoch=2))) for t in map(make_trial, METHODS)]
    panels = accuracy.draw(runs)
    titles = ["Natural training", "Adversarial training", "Soft adversarial training"]
    assert [texts(panel)[0] for panel in panels] == titles
    assert len({tuple(texts(panel)[1:-2]) for panel in panels}) == 1  # the ticks
    assert texts(panels[0])[-2:] == ["natural 90.0", "attacked 60.0"]  # at the ends of the lines
    assert said(panels[0]) == [
        f"Natural training, epoch {epoch}: natural {natural:.2f}%, attacked {attacked:.2f}%"
        for epoch, natural, attacked in ((1, 80, 50), (2, 90, 60))
    ]


def finished(trial: Trial, natural: float, adversarial: float) -> Series:
    result = Result(
        trial=trial, natural_accuracy=natural, adversarial_accuracy=adversarial, certified=(), parity=None, neurons=1,
        train_images=10, test_images=1000, data_fingerprint="", data_source="", weights_sha256="", environment={},
        autoattack=Autoattacked(images=1000, correct=round(1000 * adversarial) - 10, seconds=1.0),
    )  # fmt: skip
    return Series(trial=trial, epochs=(make_epoch(trial, epoch=1), make_epoch(trial, epoch=2)), result=result)


def test_the_plane_has_a_panel_per_setting_under_autoattack() -> None:
    trials = [make_trial(eps=k / 255, setting=f"eps{k}", seed=seed) for k in (1, 2, 4, 8) for seed in (0, 1)]
    panels = trade_off.draw([finished(trial, 0.8 + 0.02 * trial.seed, 0.5) for trial in trials])
    assert [texts(panel)[0] for panel in panels] == [f"Digits, ε {k}/255" for k in (1, 2, 4, 8)]
    for panel in panels:
        assert {"Natural accuracy (%)", "Accuracy under AutoAttack (%)", "Soft"} <= set(texts(panel))
        assert said(panel) == [
            "Soft: natural 81.00% (68.29 to 93.71), under AutoAttack 49.00% (49.00 to 49.00); 2 seeds"
        ]


def test_the_plane_joins_the_settings_of_a_method_and_says_what_lies_beyond() -> None:
    places: dict[str, tuple[float, float]] = {
        "natural": (0.95, 0.02), "adversarial": (0.80, 0.52), "soft": (0.82, 0.51), "trades(beta=6)": (0.79, 0.54),
        "trades(beta=1)": (0.84, 0.48), "adversarial(train_eps=6/255)": (0.83, 0.49),
    }  # fmt: skip
    (panel,) = trade_off.draw([finished(make_trial(method), *place) for method, place in places.items()])
    labels = {"Adversarial", "Soft", "trades β 6", "trades β 1", "Adversarial ε 6/255", "Natural, beyond: 95.0, 1.0"}
    assert labels <= set(texts(panel))
    drawn = ElementTree.fromstring(panel.svg())
    heights = {text.text: float(text.get("y", "")) for text in drawn.iter("text")}
    assert heights["Natural, beyond: 95.0, 1.0"] > heights["Natural accuracy (%)"]  # it covers nothing that is drawn
    assert len([path for path in drawn.iter("path") if path.get("class", "").startswith("link")]) == 2


def test_a_plane_of_many_methods_has_their_names_below_and_no_seeds() -> None:
    methods = ["adversarial", "soft", "random", "inverted", "trades(beta=1)", "trades(beta=6)", "fat(tau=0)"]
    few, many = (
        trade_off.draw([finished(make_trial(m, seed=s), 0.8 + 0.01 * n, 0.5 + 0.01 * s)
                        for n, m in enumerate(methods[:count]) for s in range(3)])[0]
        for count in (6, 7)
    )  # fmt: skip
    assert {"trades β 1", "trades β 6", "Soft"} <= set(texts(few))
    assert {"trades", "β 1", "β 6", "fat", "τ 0", "Soft", "inverted"} <= set(texts(many))
    assert len(texts(many)) == len(set(texts(many)))  # each family once
    assert ["seed " in "".join(panel.parts) for panel in (few, many)] == [True, False]
    assert many.height > few.height


def test_variations_share_their_scales() -> None:
    places = {"one": 0.7, "two": 0.9}
    runs = [finished(make_trial("soft", setting=setting, eps=0.1), place, 0.5) for setting, place in places.items()]
    apart, alike = (trade_off.draw(runs, alike=shared) for shared in (False, True))

    def numbers(panel: Panel) -> list[str]:
        return [said for said in texts(panel) if re.fullmatch(r"[\d.]+", said)]

    assert numbers(apart[0]) != numbers(apart[1])
    assert numbers(alike[0]) == numbers(alike[1])


def test_a_wide_interval_of_two_seeds_does_not_set_the_planes_scale() -> None:
    close = [finished(make_trial(method, seed=seed), 0.80 + 0.01 * seed, 0.50 + 0.01 * seed)
             for method in ("adversarial", "soft") for seed in range(5)]  # fmt: skip
    (usual,) = trade_off.draw(close)
    wide = [finished(make_trial("random", seed=seed), 0.81 + 0.02 * seed, 0.52) for seed in (0, 1)]
    (panel,) = trade_off.draw([*close, *wide])  # whose interval is 25 points wide
    numbers = [float(text) for text in texts(panel) if re.fullmatch(r"\d+(\.\d+)?", text)]
    assert min(numbers) > 45  # of both axes
    assert max(numbers) < 90
    arrows = "".join(panel.parts).count("goes-on")
    assert (arrows, "goes-on" in "".join(usual.parts)) == (2, False)
    assert "random: natural 82.00% (69.29 to 94.71)" in " ".join(said(panel))


def test_a_dominated_method_is_named_with_what_dominates_it() -> None:
    ends = {"adversarial": (0.80, 0.50), "soft": (0.82, 0.50), "trades(beta=6)": (0.81, 0.49)}
    runs = [
        finished(make_trial(method, seed=seed), natural + 0.001 * seed, robust)
        for method, (natural, robust) in ends.items()
        for seed in (0, 1, 2)
    ]
    found = plane(runs)
    assert found is not None
    assert found.under == "AutoAttack"
    assert found.dominated() == {"adversarial": ["soft"], "trades(beta=6)": ["soft"]}
    assert plane(runs[::3]).compares is False  # type: ignore[union-attr]  # one seed of each tells nothing
    noisy = [replace(run, result=replace(run.result, natural_accuracy=value)) for run, value in zip(  # type: ignore[type-var]
        runs, (0.7, 0.8, 0.9, 0.9, 0.8, 0.71, 0.8, 0.8, 0.8), strict=True)]  # fmt: skip
    assert "adversarial" not in plane(noisy).dominated()  # type: ignore[union-attr]


def test_the_plane_asks_for_as_many_images_and_equal_trainings() -> None:
    runs = [finished(make_trial(method, seed=seed), 0.8, 0.5) for method in ("adversarial", "soft") for seed in (0, 1)]
    assert runs[0].result is not None
    fewer = replace(runs[0], result=replace(runs[0].result, autoattack=Autoattacked(images=9, correct=9, seconds=1.0)))
    assert plane([fewer, *runs[1:]]).under == "PGD"  # type: ignore[union-attr]
    assert plane(runs).compares  # type: ignore[union-attr]
    longer = [replace(run.trial, epochs=3) for run in runs[:2]]
    other = [finished(trial, 0.8, 0.5) for trial in longer]
    assert not plane([*other, *runs[2:]]).compares  # type: ignore[union-attr]


@pytest.mark.parametrize(("eps", "gain"), [(0.1, 5), (8 / 255, 15), (0.0, 1), (1.0, 1)])
def test_the_gain_shows_eps_in_full(eps: float, gain: int) -> None:
    assert examples.difference_gain(replace(make_trial(), eps=eps)) == gain


def soft_runs(*settings: str, epochs: int = 2) -> list[Series]:
    trials = [make_trial(setting=setting) for setting in settings]
    return [Series(trial=t, epochs=tuple(make_epoch(t, epoch=e) for e in range(1, epochs + 1))) for t in trials]


def test_verified_lines_that_end_alike_have_labels_apart() -> None:
    names = [f"s{index}" for index in range(6)]
    (panel,) = verified.draw({name: soft_runs(name) for name in names}, title="x")
    labels = [text for text in ElementTree.fromstring(panel.svg()).iter("text") if (text.text or "").startswith("s")]
    places = sorted(float(text.get("y", 0)) for text in labels)
    assert [text.text for text in labels] == [f"{name}: 25.0" for name in names]
    assert min(later - earlier for earlier, later in pairwise(places)) > 12
    assert panel.top < places[0] < places[-1] < panel.height - panel.bottom + 5


def test_many_verified_lines_have_a_legend() -> None:
    names = [f"s{index:02}" for index in range(16)]
    (panel,) = verified.draw({name: soft_runs(name) for name in names}, title="x")
    labels = [text for text in ElementTree.fromstring(panel.svg()).iter("text") if (text.text or "").startswith("s")]
    assert [text.text for text in labels] == [f"{name}: 25.0" for name in names]
    assert all(panel.height - panel.bottom < float(text.get("y", 0)) < panel.height for text in labels)


def test_lines_begin_with_the_first_split() -> None:
    (run,) = soft_runs("s", epochs=4)
    late = replace(run, trial=replace(run.trial, natural_epochs=2, epochs=4))
    (panel,) = verified.draw({"s": [late]}, title="x")
    assert [text.split(":")[0] for text in said(panel)] == ["Epoch 3", "Epoch 4"]


def test_places_are_moved_apart_and_stay_within() -> None:
    assert apart([10, 11, 50], gap=15, low=0, high=100) == [10, 25, 50]
    assert apart([99, 98], gap=15, low=0, high=100) == [100, 85]
    assert apart([-5], gap=15, low=0, high=100) == [0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-2.2, 2.1, [-2, -1, 0, 1, 2]),
        (30.1, 33.9, [31, 32, 33]),
        (1, 6, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert AxisScale(low, high, 0, 100).ticks() == ticks


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_examples_name_their_classes_whatever_the_channels(channels: int) -> None:
    image = torch.rand(3, channels, 8, 8)
    tensors = {
        "image": image, "attacked": image, "label": torch.tensor([0, 1, 2]), "predicted": torch.tensor([0, 1, 2]),
        "predicted_attacked": torch.tensor([1, 2, 0]), "verified": torch.tensor([False] * 3),
    }  # fmt: skip
    panels = examples.draw(make_trial(), tensors, class_names=("rose", "a very long flower's name"))
    assert [texts(panel)[0] for panel in panels] == ["is rose", "is a very …", "is 2"]
    assert texts(panels[0])[1:] == ["model: rose ✓", "attacked: a very … ✗", "unverified"]
    pictures = [image.get("href", "") for image in ElementTree.fromstring(panels[0].svg()).iter("image")]
    shown = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert (shown.size, shown.mode) == ((8, 8), "RGB" if channels == 3 else "L")


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
