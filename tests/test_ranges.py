"""Numbers that mean something else are refused: at once, in one line, by one rule."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from softadv._ranges import check_clip, check_count, check_radius, number, shown
from softadv.errors import SoftadvError

LONG = [10**400, -(10**400), 10**5000, "9" * 5000, "1e999999999", "1/1e999999999", "1" * 5000 + "/3"]


def named(value):
    return f"{type(value).__name__}-{shown(value)}"


def refusal(action, *arguments, **rest):
    with pytest.raises(SoftadvError) as caught:
        action(*arguments, **rest)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["8/255", "2/255", "1/3", "0.1", "1e-3", " 8 / 255", "-1/7", "123456789012345/7", "+.5"]
)
def test_a_text_is_the_float_nearest_to_it(text):
    assert number(text, key="eps") == float(Fraction(text.replace(" ", "")))


@pytest.mark.parametrize(
    "value", [*LONG, "nan", "inf", "1/0", "", "8/", "a", None, True, [], math.nan, math.inf], ids=named
)
def test_what_is_no_number_is_refused_at_once(value):
    assert refusal(number, value, key="eps").startswith("eps: expected a number")


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5), Fraction(1, 2)])
def test_a_radius_is_any_number_from_zero_to_the_width(value):
    assert check_radius(value) == float(value)
    assert type(check_radius(value)) is float


def test_a_radius_above_the_width_is_refused_with_the_likely_fraction():
    assert refusal(check_radius, 8).endswith("did you mean 8/255?")
    assert refusal(check_radius, 8.0, key="--eps").startswith("--eps: 8 is more than the width")
    assert "did you mean" not in refusal(check_radius, 1.5)
    assert "did you mean" not in refusal(check_radius, 300)
    assert check_radius(8, clip=(0, 255)) == 8
    assert "did you mean" not in refusal(check_radius, 8, clip=(-2, 3))
    assert check_radius(1e9, clip=(-math.inf, math.inf)) == 1e9


@pytest.mark.parametrize(
    "value",
    [-1, -0.1, math.nan, math.inf, 10**400, "0.1", None, True, torch.tensor([0.1]), np.zeros((3, 1, 1)), 1j],
    ids=named,
)
def test_what_is_no_radius_is_refused(value):
    assert refusal(check_radius, value).startswith("eps: ")


@pytest.mark.parametrize("value", [-1, 11, 10**400, 10**5000, 2**32, 1.0, "1", None, True, math.nan], ids=named)
def test_counts_have_a_range(value):
    assert refusal(check_count, value, key="steps", most=10).startswith("steps: ")


def test_a_count_within_its_range_is_a_plain_int():
    assert [check_count(value, key="steps", most=10) for value in (0, 10, np.int64(3))] == [0, 10, 3]


@pytest.mark.parametrize("clip", [(1, 0), (0, 0), (0,), (0, math.nan), "01", None, (0, "1"), torch.zeros(2)])
def test_what_is_no_range_of_pixels_is_refused(clip):
    assert refusal(check_clip, clip).startswith("clip: ")


def test_long_values_are_cut():
    assert len(shown("x" * 1000)) < 70
    assert shown(0.1) == "0.1"
