"""What the figures draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from holdfast.metrics import interval
from holdfast.report import curves, figures
from holdfast.report.bands import mean_and_half, thinned
from holdfast.report.comparison import comparisons


def _line(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_lines_show_the_mean_over_test_sets_seen_so_far(made):
    matrix = ((0.9, 0.0, 0.0), (0.5, 0.7, 0.0), (0.3, 0.6, 0.9))
    figure = figures.accuracy_over_experiences(comparisons([made(matrix=matrix)])[0])
    assert list(_line(figure, "er").y) == [90.0, 60.0, 60.0]


def test_the_band_is_the_interval_that_the_table_shows(three_seeds):
    comparison = comparisons(three_seeds)[0]
    figure = figures.accuracy_over_experiences(comparison)
    arm = comparison.arms[0]
    band = figure.data[0]
    mean, half = 100 * arm.mean("average_accuracy"), 100 * arm.half("average_accuracy")
    # The outline goes along the top, then back along the bottom.
    assert band.y[1] == pytest.approx(mean + half, abs=0.006)
    assert band.y[2] == pytest.approx(mean - half, abs=0.006)


def test_one_seed_has_no_band_and_no_error_bars(made):
    comparison = comparisons([made()])[0]
    lines = figures.accuracy_over_experiences(comparison)
    assert [trace.fill for trace in lines.data] == [None]
    [point] = figures.accuracy_against_cost(comparison, "seconds").data
    assert not point.error_x.visible
    assert point.error_x.array is None


def test_a_number_that_is_missing_leaves_a_gap_in_the_line(made):
    matrix = ((0.9, 0.0), (math.nan, 0.8))
    figure = figures.accuracy_over_experiences(comparisons([made(matrix=matrix)])[0])
    assert list(_line(figure, "er").y) == [90.0, None]


def test_heatmaps_hold_the_mean_over_seeds_and_print_it(three_seeds):
    [(name, figure)] = figures.matrices(comparisons(three_seeds)[0].arms[0])
    assert name == "class-incremental"
    assert figure.data[0].z == ([90.0, 0.0], [84.0, 90.0])
    assert figure.data[0].text[1][0] == "84.0"


def test_a_second_heatmap_appears_only_where_knowing_the_task_makes_a_difference(made):
    known = ((0.9, 0.5), (0.8, 0.9))
    both = figures.matrices(comparisons([made(task_matrix=known)])[0].arms[0])
    assert [name for name, _ in both] == ["class-incremental", "task-incremental"]
    assert both[1][1].data[0].z == ([90.0, 50.0], [80.0, 90.0])


def test_large_heatmaps_print_no_values(made):
    matrix = np.eye(13).tolist()
    [(_, figure)] = figures.matrices(comparisons([made(matrix=matrix)])[0].arms[0])
    assert figure.data[0].text is None


def _curve(*points):
    return [{"experience": e, "step": s, "scores": list(scores)} for e, s, *scores in points]


def test_curves_follow_each_test_set_from_its_own_experience_on(made):
    curve = _curve((0, 5, 0.5, 0.0), (0, 10, 0.9, 0.0), (1, 5, 0.4, 0.6), (1, 10, 0.7, 0.8))
    figure = curves.stability(comparisons([made(curve=curve)])[0].arms[0], 2)
    first, second = _line(figure, "test set 1"), _line(figure, "test set 2")
    assert (list(first.x), list(first.y)) == ([5, 10, 15, 20], [50.0, 90.0, 40.0, 70.0])
    assert (list(second.x), list(second.y)) == ([15, 20], [60.0, 80.0])
    assert [shape.x0 for shape in figure.layout.shapes] == [10]


def test_curves_average_only_over_steps_that_all_seeds_have(made):
    short = _curve((0, 5, 0.5, 0.0), (1, 5, 0.4, 0.6))
    longer = _curve((0, 5, 0.7, 0.0), (0, 10, 0.9, 0.0), (1, 5, 0.6, 0.6))
    runs = [made(seed=0, curve=short, steps=[5, 5]), made(seed=1, curve=longer)]
    figure = curves.stability(comparisons(runs)[0].arms[0], 2)
    line = _line(figure, "test set 1")
    assert (list(line.x), list(line.y)) == ([5, 15], [60.0, 50.0])


def test_without_continual_evaluation_there_is_no_curve(made):
    assert curves.stability(comparisons([made()])[0].arms[0], 2) is None
    runs = [made(seed=0), made(seed=1, curve=_curve((0, 5, 0.5, 0.0)))]
    assert curves.stability(comparisons(runs)[0].arms[0], 2) is None


@given(st.integers(1, 300))
def test_at_most_eight_test_sets_are_drawn_with_the_first_and_the_last(experiences):
    shown = curves.shown_test_sets(experiences)
    assert len(shown) == min(8, experiences)
    assert (shown[0], shown[-1]) == (0, experiences - 1)
    assert all(curves.age_colour(j, experiences) in {f"--t{k}" for k in range(8)} for j in shown)


def test_cost_is_drawn_with_both_intervals_but_never_below_zero(made):
    runs = [made(seed=s, cost={"seconds": x}) for s, x in enumerate((1.0, 3.0))]
    comparison = comparisons(runs)[0]
    [point] = figures.accuracy_against_cost(comparison, "seconds").data
    # t(0.975; 1) = 12.706 and the deviation is sqrt(2): a half-width of 12.706.
    assert point.x == (2.0,)
    assert point.error_x.array[0] == pytest.approx(12.706, abs=1e-3)
    assert point.error_x.arrayminus[0] == 2.0
    assert figures.accuracy_against_cost(comparison, "flops") is None


def test_twenty_methods_look_different(made):
    arms = comparisons([made(f"m{k}") for k in range(20)])[0].arms
    assert len({figures.look(arm) for arm in arms}) == 20


def test_names_are_escaped_for_plotly_which_reads_text_as_html(made):
    figure = figures.accuracy_over_experiences(comparisons([made("<a href=x>y</a>")])[0])
    assert figure.data[0].name == "&lt;a href=x&gt;y&lt;/a&gt;"


@given(arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-1, 1)))
def test_bands_are_the_intervals_of_the_metrics_at_every_point(values):
    mean, half = mean_and_half(values)
    expected = [interval(column) for column in values.T]
    assert np.allclose(mean, [m for m, _ in expected])
    assert np.allclose(half, [h for _, h in expected], equal_nan=True)


@given(arrays(float, st.integers(1, 500), elements=st.floats(0, 1)), st.integers(2, 60))
def test_thinning_keeps_the_ends_and_the_extremes(series, limit):
    kept = thinned(series, limit)
    assert len(kept) <= max(limit + 2, 2)
    assert (kept[0], kept[-1]) == (0, len(series) - 1)
    assert series[kept].min() == series.min()
    assert series[kept].max() == series.max()
    assert (np.diff(kept) > 0).all()
