"""The paired bootstrap against scipy's, against theory, and where there is nothing to tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import UsageError
from holdfast.language.paired import paired_bootstrap


@pytest.fixture
def pairs():
    rng = np.random.default_rng(1)
    base = rng.normal(size=300)
    return base, base + 0.1 + rng.normal(scale=0.5, size=300)


def test_the_interval_is_scipys(pairs):
    base, tuned = pairs
    found = paired_bootstrap(base, tuned)
    theirs = stats.bootstrap(
        (base, tuned), lambda a, b, axis: (b - a).mean(axis), paired=True, n_resamples=10_000,
        method="percentile", vectorized=True, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx((tuned - base).mean())
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_of_a_ratio_too(pairs):
    base, tuned = pairs
    tokens = np.random.default_rng(2).integers(5, 50, size=300).astype(float)
    found = paired_bootstrap(base * tokens, tuned * tokens, tokens)
    theirs = stats.bootstrap(
        ((tuned - base) * tokens, tokens), lambda d, w, axis: d.sum(axis) / w.sum(axis),
        paired=True, n_resamples=10_000, method="percentile", vectorized=True,
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_right_and_wrong_are_drawn_by_kind_with_the_same_interval():
    base = np.array([1.0] * 70 + [0.0] * 30)
    tuned = np.array([0.0] * 15 + [1.0] * 60 + [0.0] * 25)
    found = paired_bootstrap(base, tuned)
    one = np.random.default_rng(3).integers(100, size=(10_000, 100))
    low, high = np.quantile((tuned - base)[one].mean(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.011)
    # 15 lost, 5 gained: the mean of -0.1 has a standard error of sqrt(0.19 / 100).
    assert found.value == pytest.approx(-0.1)
    assert found.p == pytest.approx(2 * stats.norm.cdf(-0.1 / math.sqrt(0.0019)), abs=0.012)
    assert found.significant


def test_nothing_is_significant_where_nothing_differs():
    found = paired_bootstrap([0.3, 0.7, 0.1], [0.3, 0.7, 0.1])
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.significant


def test_one_example_gives_no_interval():
    found = paired_bootstrap([1.0], [0.0])
    assert found.value == -1
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert not found.significant


def test_under_no_difference_about_one_in_twenty_is_significant():
    rng = np.random.default_rng(0)
    false = sum(
        paired_bootstrap(*rng.normal(size=(2, 60)), resamples=400).significant for _ in range(400)
    )
    assert stats.binomtest(false, 400, 0.05).pvalue > 0.01


def test_it_is_repeatable(pairs):
    assert paired_bootstrap(*pairs, seed=1) == paired_bootstrap(*pairs, seed=1)
    assert paired_bootstrap(*pairs, seed=1) != paired_bootstrap(*pairs, seed=2)


def test_values_of_different_examples_are_refused():
    with pytest.raises(UsageError, match="same examples"):
        paired_bootstrap([1, 2], [1])
    with pytest.raises(UsageError, match="same examples"):
        paired_bootstrap([], [])
