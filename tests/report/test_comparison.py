"""Gathering: what is averaged with what."""

from __future__ import annotations

import math

import pytest

from holdfast.errors import UsageError
from holdfast.report.comparison import comparisons


def test_seeds_of_one_method_become_one_arm_in_order_of_seed(made):
    [comparison] = comparisons([made(seed=2), made(seed=0), made(seed=1)])
    [arm] = comparison.arms
    assert [run.seed for run in arm.runs] == [0, 1, 2]


def test_mean_and_half_width_are_those_of_students_t(made):
    runs = [made(seed=s, matrix=((0.9, 0.0), (a, 0.9))) for s, a in enumerate((0.8, 0.84, 0.88))]
    [comparison] = comparisons(runs)
    # Averages 0.85, 0.87, 0.89: deviation 0.02, and t(0.975; 2) = 4.3027.
    assert comparison.arms[0].mean("average_accuracy") == pytest.approx(0.87)
    assert comparison.arms[0].half("average_accuracy") == pytest.approx(
        4.3027 * 0.02 / 3**0.5, 1e-4
    )


def test_one_method_in_two_settings_is_two_arms_that_say_what_differs(made):
    runs = [
        made(seed=seed, config={"lr": lr, "epochs": 1, "seed": seed})
        for lr in (0.1, 0.01)
        for seed in (0, 1)
    ]
    [comparison] = comparisons(runs)
    assert sorted(arm.label for arm in comparison.arms) == ["er · lr=0.01", "er · lr=0.1"]
    assert [len(arm.runs) for arm in comparison.arms] == [2, 2]


def test_streams_are_never_compared_with_each_other(made):
    found = comparisons([made(stream="a"), made(stream="b")])
    assert [comparison.stream for comparison in found] == ["a", "b"]


def test_arms_are_ranked_by_final_accuracy_and_those_without_one_come_last(made):
    results = [
        made("nan", matrix=((0.9, 0.0), (math.nan, 0.8))),
        made("low", matrix=((0.9, 0.0), (0.0, 0.8))),
        made("high", matrix=((0.9, 0.0), (0.9, 0.8))),
    ]
    [comparison] = comparisons(results)
    assert [arm.label for arm in comparison.arms] == ["high", "low", "nan"]
    assert [arm.place for arm in comparison.arms] == [2, 1, 0]


def test_no_results_are_refused():
    with pytest.raises(UsageError, match="at least one result; none was given"):
        comparisons([])


def test_a_run_given_twice_is_refused_because_its_interval_would_be_too_narrow(made):
    with pytest.raises(UsageError, match="'er' with the same settings and seed 0"):
        comparisons([made(), made()])


def test_an_unfinished_run_is_refused_by_name(made):
    with pytest.raises(
        UsageError, match="'er' on 'split-digits', seed 0, is not that of a finished"
    ):
        comparisons([made(matrix=[(0.9, 0.0)])])


def test_a_cost_that_one_run_lacks_is_not_a_number_there(made):
    runs = [made(seed=0), made(seed=1, cost={"flops": 1.0})]
    [comparison] = comparisons(runs)
    assert comparison.arms[0].values["flops"] == (3e9, 1.0)
    assert math.isnan(comparison.arms[0].values["seconds"][1])


def test_methods_of_the_catalogue_are_not_bounds_unless_they_need_past_data(made, monkeypatch):
    class Joint:
        class tags:  # noqa: N801
            needs = frozenset({"past data"})

    from holdfast.report import comparison as module

    real = module.method_class
    monkeypatch.setattr(module, "method_class", lambda n: Joint if n == "joint" else real(n))
    [compared] = comparisons([made("joint"), made("er(capacity=5)"), made("their own method!")])
    assert {arm.label: arm.reference for arm in compared.arms} == {
        "joint": True,
        "er(capacity=5)": False,
        "their own method!": False,
    }
