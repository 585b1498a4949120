"""The frontier of mixtures: what is searched, what is on it, and what is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import UsageError
from holdfast.language.measured import Measured
from holdfast.merge.frontier import Point, candidates, chosen, half, on_front, point


def measured(name, losses=(1.0,), scores=()):
    count = len(losses)
    return Measured(
        name, "text", "", np.array(losses, dtype=float), np.ones(count, dtype=int),
        np.ones(count, dtype=int), [""] * count, np.array(scores, dtype=float),
    )  # fmt: skip


def test_lists_and_arguments_that_are_not_given_are_searched():
    assert candidates("wise_ft(alpha=0.3)") == ["wise_ft(alpha=0.3)"]
    assert len(candidates("wise_ft")) == 9
    assert candidates("ties(density=[0.1, 0.2], scale=1.0)") == [
        "ties(density=0.1, scale=1.0)",
        "ties(density=0.2, scale=1.0)",
    ]
    assert len(candidates("neuron_fusion(share=0.1)")) == 4
    assert candidates("task_arithmetic(scale=0.5, weights=[[2.0]])") == [
        "task_arithmetic(scale=0.5, weights=[2.0])"
    ]
    with pytest.raises(UsageError, match="by name"):
        candidates("wise_ft(0.3)")


def test_what_is_lost_and_kept_is_counted_as_diff_counts_it():
    base = [
        measured("old", [2.0]),
        measured("sums", [1.0] * 4, [1, 1, 1, 0]),
        measured("new", [4.0]),
    ]
    tuned = [
        measured("old", [3.0]),
        measured("sums", [1.0] * 4, [0, 0, 0, 0]),
        measured("new", [2.0]),
    ]
    mixed = [
        measured("old", [2.2]),
        measured("sums", [1.0] * 4, [1, 0, 1, 0]),
        measured("new", [2.5]),
    ]
    found = point("mixed", mixed, base, tuned, 2)
    assert found.lost == pytest.approx((0.1 + 0.25) / 2)
    assert found.kept == pytest.approx(0.75)
    assert found.values == {"old": 2.2, "sums": 0.5, "new": 2.5}
    assert point("base", base, base, tuned, 2).kept == 0.0
    assert point("tuned", tuned, base, tuned, 2).kept == 1.0


def test_the_frontier_holds_what_no_other_beats_and_the_least_loss_is_chosen():
    points = on_front(
        [
            Point("base", 0.0, 0.0, {}),
            Point("a", 0.1, 0.96, {}),
            Point("b", 0.1, 0.90, {}),
            Point("c", 0.05, 0.90, {}),
            Point("tuned", 0.3, 1.0, {}),
        ]
    )
    assert [p.rule for p in points if p.front] == ["base", "a", "c", "tuned"]
    assert chosen(points, 0.95).rule == "a"
    assert chosen(points, 0.9).rule == "c"
    assert chosen(points, 1.0).rule == "tuned"


def test_large_sets_are_halved_and_small_ones_are_not():
    large, small = measured("l", np.arange(40.0)), measured("s", np.arange(39.0))
    assert half(large, 0).nll.tolist() == list(range(0, 40, 2))
    assert half(large, 1).nll.tolist() == list(range(1, 40, 2))
    assert half(small, 1) is small
