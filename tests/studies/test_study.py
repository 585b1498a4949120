"""The rule that decides: conditions, claims and verdicts on numbers made by hand."""

import math

import pytest

from holdfast.studies.study import Claim, Condition, Results, shown


def results(**arms):
    return Results({arm: [{"accuracy": value} for value in values] for arm, values in arms.items()})


def above(bound, arm="a"):
    return Condition("accuracy", lambda r: r.values(arm, "accuracy"), bound)


def test_a_condition_holds_only_if_its_whole_interval_lies_beyond_the_bound():
    # Mean 0.6, deviation 0.1, n = 3: half-width 4.3027 x 0.1 / sqrt(3) = 0.2484.
    observed = results(a=[0.5, 0.6, 0.7])
    finding = above(0.35).check(observed)
    assert finding.mean == pytest.approx(0.6)
    assert finding.half == pytest.approx(0.2484, abs=1e-4)
    assert finding.holds
    assert not above(0.36).check(observed).holds


def test_a_condition_below_a_bound_looks_at_the_other_edge():
    def below(bound):
        measure = above(0).measure
        return Condition("accuracy", measure, bound, side="below").check(results(a=[0.5, 0.6, 0.7]))

    assert below(0.85).holds
    assert not below(0.84).holds


def test_one_seed_has_no_interval_and_so_proves_nothing():
    finding = above(0.0).check(results(a=[0.9]))
    assert math.isnan(finding.half)
    assert not finding.holds


def test_a_missing_number_proves_nothing():
    assert not above(0.0).check(results(a=[0.9, None, 0.9])).holds


@pytest.mark.parametrize(
    ("bounds", "decision"),
    [
        ((0.1, 0.2), "reproduced"),
        ((0.1, 0.9), "partly"),
        ((0.8, 0.9), "not reproduced"),
    ],
)
def test_a_claim_is_reproduced_partly_or_not_by_how_many_conditions_hold(bounds, decision):
    claim = Claim("It is so.", tuple(above(bound) for bound in bounds))
    assert claim.judge(results(a=[0.5, 0.5, 0.5])).decision == decision


def test_arms_are_compared_under_the_same_seed():
    observed = results(a=[0.5, 0.9], b=[0.4, 0.7])
    assert observed.less("a", "b", "accuracy") == pytest.approx([0.1, 0.2])


def test_an_arm_that_was_not_run_is_named():
    with pytest.raises(KeyError, match="No arm 'c'; there are: a, b"):
        results(a=[1], b=[1]).values("c", "accuracy")


def test_what_decides_is_said_before_with_its_bound():
    assert above(0.05).rule == "accuracy: above 5.0 %"


def test_a_cell_leaves_out_numbers_that_do_not_exist():
    assert shown([0.5, math.nan, 0.7], percent=False).startswith("0.60")
    assert shown([math.nan]) == "-"
