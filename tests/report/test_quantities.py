"""Rounding: what a reader sees of a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.report.quantities import QUANTITIES, Cell


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        # 4.3027 * deviation / sqrt(3) by hand: 0.02 gives 0.0497.
        ("percent", (0.85, 0.87, 0.89), "87.0 ± 5.0"),
        ("percent", (1.0, 1.0), "100.0 ± 0.0"),
        ("percent", (-0.5,), "\N{MINUS SIGN}50.0"),
        ("percent", (-0.0001,), "0.0"),
        ("seconds", (0.1234,), "0.123 s"),
        ("seconds", (12.34,), "12.3 s"),
        ("seconds", (1234.5,), "1234 s"),
        ("seconds", (0.0,), "0 s"),
        ("bytes", (0.0, 0.0), "0 B"),
        ("bytes", (999.0,), "999 B"),
        ("bytes", (1000.0,), "1.00 kB"),
        ("bytes", (999_700.0,), "1.00 MB"),
        ("bytes", (467_247_104.0, 467_247_104.0), "467 MB"),
        ("operations", (2.05e8,), "205 M"),
        ("operations", (2.0e12, 4.0e12), "3.00 ± 12.71 T"),
    ],
)
def test_a_cell_shows_mean_and_interval_in_one_unit(kind, values, text):
    assert Cell(kind, values).text == text


def test_one_run_has_no_interval():
    assert "±" not in Cell("percent", (0.5,)).text


def test_a_quantity_that_no_run_has_is_a_dash_and_one_that_some_lack_says_so():
    assert Cell("percent", (math.nan, math.nan)).text == "\N{EN DASH}"
    assert Cell("percent", (0.5, math.nan, math.inf)).text == "NaN in 2 of 3"


def test_latex_writes_signs_in_mathematics_and_units_outside():
    assert Cell("percent", (-0.85, -0.87, -0.89)).latex == r"$-87.0 \pm 5.0$"
    assert Cell("bytes", (14472.0,)).latex == r"$14.5$\,kB"
    assert Cell("percent", (math.nan,)).latex == "--"


@given(st.floats(1e-3, 1e17))
def test_three_digits_are_never_further_off_than_half_a_percent(size):
    number, _, unit = Cell("bytes", (size,)).text.partition(" ")
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert float(number) * factor == pytest.approx(size, rel=0.0051, abs=0.5)


def test_every_quantity_has_a_name_of_its_own_and_a_meaning():
    assert len({q.name for q in QUANTITIES}) == len(QUANTITIES)
    assert all(q.meaning and q.title for q in QUANTITIES)
