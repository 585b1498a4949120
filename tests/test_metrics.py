"""Metrics agree with what is worked out by hand, and with the papers' sums as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from holdfast import metrics

HAND = [
    [0.9, 0.1, 0.0],
    [0.7, 0.8, 0.2],
    [0.5, 0.6, 1.0],
]
INITIAL = [0.2, 0.3, 0.1]

scores = st.floats(0, 1, allow_nan=False)
matrices = st.integers(1, 6).flatmap(lambda n: arrays(float, (n, n), elements=scores))


def test_metrics_of_a_matrix_are_those_worked_out_by_hand() -> None:
    assert metrics.average_accuracy(HAND) == pytest.approx((0.5 + 0.6 + 1.0) / 3)
    assert metrics.average_anytime_accuracy(HAND) == pytest.approx((0.9 + 0.75 + 0.7) / 3)
    assert metrics.forgetting(HAND) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.6)) / 2)
    assert metrics.backward_transfer(HAND) == pytest.approx(((0.5 - 0.9) + (0.6 - 0.8)) / 2)
    assert metrics.forward_transfer(HAND, INITIAL) == pytest.approx(((0.1 - 0.3) + (0.2 - 0.1)) / 2)
    assert metrics.plasticity(HAND) == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    reference = np.full((3, 3), 0.95)
    assert metrics.intransigence(HAND, reference) == pytest.approx((0.05 + 0.15 - 0.05) / 3)


def test_forgetting_takes_the_best_score_since_the_experience_was_learned() -> None:
    # Test set 0 peaks at 0.95 after experience 1; test set 1 scored 0.9 before it was learned,
    # which does not count, as in the definition (l ranges over experiences that had seen it).
    matrix = [[0.6, 0.9, 0.0], [0.95, 0.5, 0.0], [0.4, 0.3, 0.8]]
    assert metrics.forgetting(matrix) == pytest.approx(((0.95 - 0.4) + (0.5 - 0.3)) / 2)


def test_forgetting_is_negative_where_scores_rise_later() -> None:
    assert metrics.forgetting([[0.5, 0.0], [0.7, 0.9]]) == pytest.approx(-0.2)


def test_one_experience_has_nothing_to_forget_or_transfer() -> None:
    assert metrics.forgetting([[0.7]]) == 0
    assert metrics.backward_transfer([[0.7]]) == 0
    assert metrics.forward_transfer([[0.7]], [0.1]) == 0
    assert metrics.average_accuracy([[0.7]]) == metrics.plasticity([[0.7]]) == 0.7


@given(matrices)
def test_metrics_agree_with_loops_over_the_matrix(matrix: np.ndarray) -> None:
    t = len(matrix)
    assert metrics.average_accuracy(matrix) == pytest.approx(sum(matrix[t - 1]) / t)
    anytime = [sum(matrix[i][j] for j in range(i + 1)) / (i + 1) for i in range(t)]
    assert metrics.average_anytime_accuracy(matrix) == pytest.approx(sum(anytime) / t)
    if t == 1:
        return
    drops, back, forward = 0.0, 0.0, 0.0
    for j in range(t - 1):
        drops += max(matrix[i][j] for i in range(j, t - 1)) - matrix[t - 1][j]
        back += matrix[t - 1][j] - matrix[j][j]
        forward += matrix[j][j + 1] - 0.1
    assert metrics.forgetting(matrix) == pytest.approx(drops / (t - 1))
    assert metrics.backward_transfer(matrix) == pytest.approx(back / (t - 1))
    assert metrics.forward_transfer(matrix, [0.1] * t) == pytest.approx(forward / (t - 1))


@given(matrices)
def test_forgetting_is_at_least_minus_backward_transfer(matrix: np.ndarray) -> None:
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12


CURVE = [  # evaluations during experiences 0, 0, 1, 1, 2, 2 on three test sets
    [0.8, 0.0, 0.0],
    [1.0, 0.0, 0.0],
    [0.4, 0.5, 0.0],
    [0.6, 0.9, 0.0],
    [0.2, 0.3, 0.5],
    [0.5, 0.7, 0.9],
]
DURING = [0, 0, 1, 1, 2, 2]


def test_worst_case_of_a_small_curve_is_that_worked_out_by_hand() -> None:
    worst = metrics.worst_case(CURVE, DURING)
    assert worst.min_accuracy == pytest.approx((0.2 + 0.3) / 2)
    assert worst.worst_case_accuracy == pytest.approx(0.9 / 3 + 2 / 3 * 0.25)


def test_scores_before_a_test_sets_experience_has_ended_do_not_count_as_worst() -> None:
    worst = metrics.worst_case([[0.0, 0.0], [0.9, 0.0], [0.8, 0.4]], [0, 0, 1])
    assert worst.min_accuracy == pytest.approx(0.8)


def test_a_curve_of_one_experience_has_no_minimum() -> None:
    worst = metrics.worst_case([[0.3], [0.6]], [0, 0])
    assert math.isnan(worst.min_accuracy)
    assert worst.worst_case_accuracy == pytest.approx(0.6)


def test_windowed_changes_of_a_small_curve_are_those_worked_out_by_hand() -> None:
    # Drops between neighbours: 0.6 (1.0 to 0.4), 0.6 (0.9 to 0.3), 0.
    assert metrics.windowed_forgetting(CURVE, 2) == pytest.approx((0.6 + 0.6 + 0) / 3)
    # Within four evaluations test set 0 falls from 1.0 to 0.2.
    assert metrics.windowed_forgetting(CURVE, 4) == pytest.approx((0.8 + 0.6 + 0) / 3)
    assert metrics.windowed_plasticity(CURVE, 2) == pytest.approx((0.3 + 0.5 + 0.5) / 3)


@given(
    arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=scores),
    st.integers(1, 14),
)
def test_windowed_changes_agree_with_all_pairs_within_a_window(
    curve: np.ndarray, window: int
) -> None:
    rises, falls = [], []
    for column in curve.T:
        pairs = [
            (column[m], column[n])
            for n in range(len(column))
            for m in range(max(0, n - window + 1), n + 1)
        ]
        rises.append(max(after - before for before, after in pairs))
        falls.append(max(before - after for before, after in pairs))
    assert metrics.windowed_plasticity(curve, window) == pytest.approx(np.mean(rises))
    assert metrics.windowed_forgetting(curve, window) == pytest.approx(np.mean(falls))


def test_what_a_test_set_scored_before_its_experience_began_is_no_forgetting() -> None:
    curve = metrics.begun([[0.5, 0.9], [0.6, 0.2], [0.4, 0.6]], [0, 1, 1])
    assert metrics.windowed_forgetting(curve, 10) == pytest.approx((0.2 + 0.0) / 2)
    assert metrics.windowed_plasticity(curve, 10) == pytest.approx((0.1 + 0.4) / 2)


def test_curve_summary_reads_a_records_curve() -> None:
    curve = [
        {"experience": e, "step": n, "scores": s}
        for n, (e, s) in enumerate(zip(DURING, CURVE, strict=True))
    ]
    summary = metrics.curve_summary(curve)
    assert summary["min_accuracy"] == pytest.approx(0.25)
    assert summary["windowed_forgetting_10"] == pytest.approx((0.8 + 0.6 + 0) / 3)
    assert metrics.curve_summary([]) == {}


def test_summary_holds_every_metric_of_one_matrix() -> None:
    assert metrics.summary(HAND, INITIAL) == {
        "average_accuracy": metrics.average_accuracy(HAND),
        "average_anytime_accuracy": metrics.average_anytime_accuracy(HAND),
        "forgetting": metrics.forgetting(HAND),
        "backward_transfer": metrics.backward_transfer(HAND),
        "forward_transfer": metrics.forward_transfer(HAND, INITIAL),
        "plasticity": metrics.plasticity(HAND),
    }


def test_interval_is_students_with_the_tables_quantile() -> None:
    mean, width = metrics.interval([0.1, 0.2, 0.3])
    # t(0.975, 2 degrees of freedom) = 4.302653 in any table; the deviation is 0.1.
    assert mean == pytest.approx(0.2)
    assert width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_interval_of_one_value_has_no_width() -> None:
    mean, width = metrics.interval([0.4])
    assert mean == 0.4
    assert math.isnan(width)


@pytest.mark.parametrize("wrong", [[], [[1.0, 0.0]], [0.5, 0.5]])
def test_a_matrix_that_is_not_square_is_refused_with_its_shape(wrong: list) -> None:
    with pytest.raises(ValueError, match="square and not empty; given shape"):
        metrics.average_accuracy(wrong)


# Three test sets, of which the second is met in row 1 and the third never; rows are evaluations.
RECURRING = [[0.6, 0.0, 0.1], [0.4, 0.5, 0.2], [0.8, 0.3, 0.0], [0.7, 0.4, 0.0]]
MET = [0, 1, 4]


def test_metrics_of_recurring_streams_go_by_the_row_in_which_a_test_set_is_met() -> None:
    assert metrics.average_accuracy(RECURRING, MET) == pytest.approx((0.7 + 0.4 + 0.0) / 3)
    # Rows: 0.6; (0.4 + 0.5) / 2; (0.8 + 0.3) / 2; (0.7 + 0.4) / 2.
    anytime = (0.6 + 0.45 + 0.55 + 0.55) / 4
    assert metrics.average_anytime_accuracy(RECURRING, MET) == pytest.approx(anytime)
    assert metrics.forgetting(RECURRING, MET) == pytest.approx((0.1 + 0.1) / 2)
    assert metrics.backward_transfer(RECURRING, MET) == pytest.approx((0.1 - 0.1) / 2)
    assert metrics.plasticity(RECURRING, MET) == pytest.approx((0.6 + 0.5) / 2)
    # Of test set 1 alone: row 0 minus the initial score.
    assert metrics.forward_transfer(RECURRING, [0.1, 0.2, 0.3], MET) == pytest.approx(-0.2)


@settings(deadline=None)
@given(arrays(float, (4, 4), elements=st.floats(0, 1)))
def test_without_more_being_said_test_set_j_is_met_in_row_j(matrix) -> None:
    assert metrics.summary(matrix, matrix[0]) == metrics.summary(matrix, matrix[0], range(4))


def test_a_matrix_that_is_not_square_needs_to_be_told_what_is_met_when() -> None:
    with pytest.raises(ValueError, match=r"square and not empty; given shape \(4, 3\)"):
        metrics.summary(RECURRING, [0, 0, 0])
    with pytest.raises(ValueError, match="3 test sets need as many rows of `met`; given: 2"):
        metrics.summary(RECURRING, [0, 0, 0], [0, 1])


def test_curves_of_recurring_streams_count_from_when_a_test_set_is_met() -> None:
    curve = [[0.9, 0.1], [0.5, 0.2], [0.6, 0.7], [0.6, 0.5]]
    points = [{"experience": k, "step": 1, "scores": s} for k, s in enumerate(curve)]
    found = metrics.curve_summary(points, since=[0, 2])
    assert set(found) == {
        f"windowed_{w}_{n}" for w in ("forgetting", "plasticity") for n in (10, 100)
    }
    assert found["windowed_forgetting_10"] == pytest.approx((0.4 + 0.2) / 2)
    assert found["windowed_plasticity_10"] == pytest.approx((0.1 + 0.0) / 2)
