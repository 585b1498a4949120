"""Truth ratio, forget quality and utility, against numbers by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from holdfast.errors import UsageError
from holdfast.language.truth_ratio import (
    forget_quality,
    harmonic_mean,
    truth_forgotten,
    truth_kept,
    truth_ratio,
)


def test_a_truth_ratio_is_right_over_the_geometric_mean_of_wrong() -> None:
    """Probabilities a token of 0.5, and of 0.25 and 0.04."""
    right, wrong = -math.log(0.5), [-math.log(0.25), -math.log(0.04)]
    assert truth_ratio(right, wrong) == pytest.approx(0.5 / math.sqrt(0.25 * 0.04))
    assert truth_ratio(right, wrong, inverse=True) == pytest.approx(0.2)
    with pytest.raises(UsageError, match="needs wrong answers"):
        truth_ratio(1.0, [])


def test_a_collapsed_models_ratio_is_finite() -> None:
    assert 0 < truth_ratio(5000.0, [1.0]) < truth_ratio(1.0, [5000.0]) < math.inf


def test_what_ratios_come_to_on_what_is_kept_and_on_what_is_forgotten() -> None:
    ratios = [4.0, 1.0, 0.5]
    assert truth_kept(ratios) == pytest.approx((0.75 + 0 + 0) / 3)
    assert truth_forgotten(ratios) == pytest.approx((0.25 + 1 + 0.5) / 3)


def test_forget_quality_is_scipys_two_sample_test() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.lognormal(0, 1, 40), draw.lognormal(0.7, 1, 55)
    found, expected = forget_quality(one, other), ks_2samp(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.log10_p == pytest.approx(math.log10(expected.pvalue))
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.examples == (40, 55)


def test_the_statistic_is_the_largest_distance_of_the_distributions() -> None:
    """Of 1, 2, 3, 4 against 3, 4, 5, 6 half lies below where nothing of the others does."""
    assert forget_quality([1, 2, 3, 4], [3, 4, 5, 6]).statistic == pytest.approx(0.5)
    assert forget_quality([1, 2, 3], [1, 2, 3]).p == pytest.approx(1.0)
    with pytest.raises(UsageError, match="given: 0 and 2"):
        forget_quality([], [1.0, 2.0])


def test_utility_is_0_as_soon_as_one_of_its_parts_is() -> None:
    assert harmonic_mean([0.2, 0.4, 0.4]) == pytest.approx(0.3)
    assert harmonic_mean([1.0, 0.0]) == 0.0
