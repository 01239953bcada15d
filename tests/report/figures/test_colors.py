"""Contrast of text and lines, and colours that those who see fewer of them can tell apart."""

from itertools import combinations

import numpy as np
import pytest

from softadv.experiments.names import PALETTE, names_of
from softadv.experiments.spec import METHODS
from softadv.report.figures.colors import (
    DARK,
    LIGHT,
    PARTITION,
    PARTS,
    contrast,
    fill,
    luminance,
    ramp,
    readable,
    stylesheet,
)
from tests.report.trials import make_trial

OURS = [names_of(make_trial(method)).method_color for method in METHODS]
# What a colour looks like without one kind of cones, in linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1).
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.478, abs=1e-3)  # the example of the guidelines
    assert luminance("#FFFFFF") == pytest.approx(1)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_its_contrast_on_every_ground(scheme: dict[str, str]) -> None:
    pairs = [(text, ground) for text in ("ink", "soft", "link") for ground in ("paper", "card", "head")]
    pairs += [(word, f"{word}-bg") for word in ("holds", "fails", "open", "idle")] + [("ink", "open-bg")]
    assert {pair: ratio for pair in pairs if (ratio := contrast(scheme[pair[0]], scheme[pair[1]])) < 4.5} == {}
    assert contrast(scheme["edge"], scheme["card"]) >= 2.9  # of the claimed range


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_have_their_contrast_whatever_colour_was_asked_for(scheme: dict[str, str]) -> None:
    asked = [*OURS, *PALETTE, *PARTITION.values(), *ramp(5), "#FFFF00", "#000000", "#FFFFFF", "#332288", "#7F7F1F"]
    for color in asked:
        assert contrast(readable(color, on=scheme["card"]), scheme["card"]) >= 3, color
    assert readable("#0072B2", on=LIGHT["card"]) == "#0072B2"  # what is seen already stays as it is


def lab(color: str, blindness: str) -> np.ndarray:
    """CIELAB under D65 of a colour as it is seen."""
    rgb = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(BLINDNESS[blindness]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    xyz /= np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_one_figure_can_be_told_apart(scheme: dict[str, str], blindness: str) -> None:
    lines = [readable(color, on=scheme["card"]) for color in OURS]
    for group in (lines, list(PARTITION.values()), list(PARTS.values())):
        least = min(
            float(np.linalg.norm(lab(one, blindness) - lab(other, blindness)))
            for one, other in combinations(group, 2)
        )  # fmt: skip
        assert least > 10, (group, least)  # 2.3 is what can just be noticed


def test_a_stylesheet_has_both_schemes_and_only_the_colours_in_use() -> None:
    css = stylesheet([f'<circle class="point {fill("#e69f00")}"/>'])
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")
    assert f".f-E69F00 {{ fill: {readable('#E69F00', on=LIGHT['card'])}; }}" in light
    assert f".f-E69F00 {{ fill: {readable('#E69F00', on=DARK['card'])}; }}" in dark
    assert "009E73" not in css
    assert "var(" not in css
