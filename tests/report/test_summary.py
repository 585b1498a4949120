"""The answer in plain words."""

from __future__ import annotations

import math

from holdfast.report.comparison import comparisons
from holdfast.report.summary import Name, summarise


def _said(results):
    return "".join(summarise(comparisons(results)[0]))


def _two(made, first, second):
    """Methods a and b with final scores on test set 1 by seed."""
    return [
        made(method, seed, ((0.9, 0.0), (score, 0.9)))
        for method, scores in (("a", first), ("b", second))
        for seed, score in enumerate(scores)
    ]


def test_it_names_the_method_that_kept_most_with_its_numbers(three_seeds):
    said = _said(three_seeds)
    assert said.startswith(
        "er(capacity=200) kept most of 2 methods: 87.0 ± 5.0 % average accuracy after "
        "2 experiences, with 6.0 ± 9.9 % forgetting."
    )


def test_intervals_that_lie_apart_are_said_to_be_clear(made):
    said = _said(_two(made, (0.80, 0.82), (0.10, 0.12)))
    assert "Its 95 % interval lies clear of all others; next is b with 50.5 ± 6.4 %." in said


def test_intervals_that_overlap_do_not_tell_methods_apart(made):
    said = _said(_two(made, (0.80, 0.70), (0.60, 0.72)))
    assert (
        "Its 95 % interval overlaps with that of b, so these runs do not tell them apart." in said
    )
    assert "clear" not in said


def test_one_seed_says_that_the_difference_may_be_chance(made):
    said = _said(_two(made, (0.8,), (0.1,)))
    assert "the difference may be chance" in said
    assert "n = 1" in said
    assert "±" not in said


def test_a_single_method_is_not_said_to_beat_others(made):
    said = _said([made()])
    assert said.startswith("er ended with 70.0 % average accuracy after 2 experiences, with 30.0 %")
    assert "most" not in said


def test_a_single_experience_has_no_forgetting_to_speak_of(made):
    assert "forgetting" not in _said([made(matrix=[[0.5]])])


def test_cost_is_set_against_the_quickest(made):
    results = [
        made("slow", matrix=((0.9, 0.0), (0.9, 0.9)), cost={"seconds": 6.0, "method_bytes": 2e6}),
        made("quick", cost={"seconds": 2.0, "method_bytes": 0}),
    ]
    assert "The best took 6.00 s, 3.0 times as long as quick, and stores 2.00 MB." in _said(results)


def test_methods_without_a_final_accuracy_are_named_and_not_ranked(made):
    said = _said([made("fine"), made("broken", matrix=((0.9, 0.0), (math.nan, 0.8)))])
    assert said.startswith("fine ended with")
    assert "broken is not ranked: scores are missing (NaN)." in said


def test_all_scores_missing_leaves_a_sentence(made):
    said = _said([made("broken", matrix=((0.9, 0.0), (math.nan, 0.8)))])
    assert said.startswith("broken is not ranked")


def test_a_bound_does_not_win(made, monkeypatch):
    from holdfast.report import comparison

    monkeypatch.setattr(comparison, "_has_past_data", lambda method: method == "joint")
    said = _said([made("joint", matrix=((1.0, 0.0), (1.0, 1.0))), made("er"), made("ewc")])
    assert said.startswith("er kept most of 2 methods")
    assert "joint, which is given all earlier data and so is a bound, reached 100.0 %." in said


def test_unequal_seeds_are_pointed_out(made):
    said = _said([made("a", 0), made("a", 1), made("b", 0)])
    assert "Not all methods ran with the same seeds" in said
    assert "Against b there is no interval to compare." in said


def test_names_are_kept_apart_from_words_and_are_short(made):
    pieces = summarise(comparisons([made("x" * 500)])[0])
    names = [piece for piece in pieces if isinstance(piece, Name)]
    assert [len(name) for name in names] == [60]
