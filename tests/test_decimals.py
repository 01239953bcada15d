"""One rule of rounding for the terminal, the report and the documents."""

import math

import pytest

from softadv._decimals import decimal, percent, spread


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.595007, "1.60"),
        (1.594999, "1.59"),
        (22.125, "22.13"),  # a half, whatever the neighbouring digits
        (33.895, "33.90"),  # as a float it is a little less
        (-0.125, "-0.13"),
        (-0.0049, "0.00"),
        (100.0, "100.00"),
        (1e-12, "0.00"),
    ],
)
def test_halves_are_rounded_away_from_zero(value: float, text: str) -> None:
    assert decimal(value) == text


def test_a_difference_has_its_sign_unless_it_is_nothing() -> None:
    assert [decimal(value, sign=True) for value in (0.5, -0.5, 0.001, -0.001)] == ["+0.50", "-0.50", "0.00", "0.00"]


def test_what_is_no_number_is_said_as_it_is() -> None:
    assert [decimal(value) for value in (math.inf, -math.inf, math.nan)] == ["inf", "-inf", "nan"]


def test_a_fraction_in_per_cent() -> None:
    assert percent(0.57865) == "57.87%"


def test_a_spread_is_rounded_once() -> None:
    values = [0.2472 + shift for shift in (-0.0159500714, 0, 0.0159500714)]
    assert spread(values) == "24.72 ± 1.60"  # by way of 0.015950 it would be 1.59
    assert spread([0.5]) == "50.00"
