"""Metrics that the studies rest on: gaps, learning curves, four kinds of error."""

import math

import numpy as np
import pytest

from holdfast import metrics


def test_a_score_that_falls_and_comes_back_has_a_dip_as_deep_as_its_fall():
    curve = [[1.0, 0], [0.2, 0.5], [0.6, 0.9], [1.0, 0.9], [1.0, 0.9], [1.0, 0.9]]
    gap = metrics.stability_gap(curve, [0, 1, 1, 1, 1, 1])
    assert gap.drop == pytest.approx(0.8)
    assert gap.dip == pytest.approx(0.8)
    assert gap.fluctuation == 0
    assert gap.recovery == 3
    assert gap.recovered == 1


def test_a_score_that_falls_for_good_has_a_drop_but_no_dip():
    gap = metrics.stability_gap([[1.0, 0], [0.5, 1], [0.2, 1], [0.0, 1]], [0, 1, 1, 1])
    assert gap.drop == 1
    assert gap.dip == 0
    assert gap.recovered == 0
    assert math.isnan(gap.recovery)


def test_a_dip_counts_down_from_the_end_where_the_score_does_not_come_back_all_the_way():
    gap = metrics.stability_gap([[1.0, 0], [0.1, 1], [0.6, 1], [0.6, 1], [0.6, 1]], [0, 1, 1, 1, 1])
    assert gap.drop == pytest.approx(0.9)
    assert gap.dip == pytest.approx(0.5)


def test_a_score_that_did_not_fall_below_the_level_has_nothing_to_recover_from():
    gap = metrics.stability_gap([[0.5, 0], [0.49, 1], [0.5, 1], [0.0, 1]], [0, 1, 1, 1], level=0.0)
    assert math.isnan(gap.recovered)
    assert math.isnan(gap.recovery)


def test_fluctuation_is_the_dip_of_the_second_half_alone():
    curve = [[1.0, 0], *[[s, 1] for s in (0.2, 0.9, 0.8, 0.7, 0.8)]]
    assert metrics.stability_gap(curve, [0, 1, 1, 1, 1, 1]).fluctuation == pytest.approx(0.1)


def test_gaps_are_averaged_over_switches_and_earlier_test_sets_alike():
    # Set 0 dips by 0.4 at the first switch, by 0.2 at the second; set 1 by 0.6 at the second.
    curve = [[0.9, 0, 0], [0.5, 0, 0], [0.9, 0.8, 0], [0.7, 0.2, 0], [0.9, 0.8, 0.9]]
    gap = metrics.stability_gap(curve, [0, 1, 1, 2, 2])
    assert gap.dip == pytest.approx((0.4 + 0.2 + 0.6) / 3)


def test_one_experience_has_no_gap_to_speak_of():
    assert all(math.isnan(value) for value in metrics.stability_gap([[0.5], [0.9]], [0, 0]))


def test_learning_curve_area_reads_the_present_test_set_at_its_first_evaluations():
    curve = [[0.2, 0], [0.4, 0], [0.9, 0], [0.1, 0.6], [0.1, 0.8], [0.1, 1.0]]
    area = metrics.learning_curve_area(curve, [0, 0, 0, 1, 1, 1], first=2)
    assert area == pytest.approx((0.3 + 0.7) / 2)


def test_the_four_kinds_of_error_and_the_right_answers_are_all_examples():
    generator = np.random.default_rng(0)
    y, p = generator.integers(0, 6, 500), generator.integers(0, 6, 500)
    errors = metrics.error_decomposition(p, y, old=[0, 1, 2, 3], new=[4, 5])
    assert sum(errors) + (p == y).sum() == 500
    assert errors.old_as_new == sum(a < 4 <= b for a, b in zip(y, p, strict=True))
    assert errors.new_as_old == sum(b < 4 <= a for a, b in zip(y, p, strict=True))
    assert errors.new_as_new == sum(a != b and a >= 4 and b >= 4 for a, b in zip(y, p, strict=True))


def test_a_class_that_is_neither_old_nor_new_is_refused():
    with pytest.raises(ValueError, match=r"\[7\]"):
        metrics.error_decomposition([0], [7], old=[0], new=[1])
