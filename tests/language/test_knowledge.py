"""The trade of facts for new ones, counted by hand."""

from __future__ import annotations

import math

import pytest

from holdfast.errors import UsageError
from holdfast.language.knowledge import fuar, x_delta


def test_facts_lost_are_set_against_facts_won() -> None:
    trade = fuar(
        invariant=([True, True, True, False], [True, False, False, True]),
        updated=([False, False, True], [True, False, False]),
        new=([False, False, False], [True, True, False]),
    )
    assert (trade.lost, trade.invariant, trade.updated, trade.new) == (2, 3, 1, 2)
    assert trade.ratio == pytest.approx(2 / 3)


def test_what_rises_elsewhere_does_not_hide_what_is_lost() -> None:
    trade = fuar(([1, 0], [0, 1]), ([0], [1]), ([], []))
    assert (trade.lost, trade.ratio) == (1, 1.0)  # a mean over the set would not have changed


def test_nothing_won_is_infinitely_dear_and_nothing_at_all_is_no_number() -> None:
    assert fuar(([1], [0]), ([0], [0]), ([0], [0])).ratio == math.inf
    assert math.isnan(fuar(([1], [1]), ([0], [0]), ([0], [0])).ratio)


def test_facts_must_be_the_same_before_and_after() -> None:
    with pytest.raises(UsageError, match=r"updated facts .* \(2,\) and \(1,\)"):
        fuar(([1], [1]), ([0, 0], [0]), ([0], [0]))


def test_the_change_on_unrelated_sets_is_its_mean() -> None:
    assert x_delta([0.5, 0.75, 1.0], [0.25, 0.75, 0.5]) == pytest.approx(-0.25)
    with pytest.raises(UsageError, match="given: 2 and 1"):
        x_delta([0.1, 0.2], [0.1])
    with pytest.raises(UsageError, match="given: 0 and 0"):
        x_delta([], [])
