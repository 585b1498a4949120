"""Verdicts: what counts as a drop."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import DataError
from holdfast.language.harness import Task
from holdfast.language.measured import Measured
from holdfast.language.verdict import compare_set, compare_task


def answers(right, confidence=0.5):
    right = np.asarray(right, dtype=float)
    n = len(right)
    return Measured(
        "asked", "answer", "exact match", 2 - right, np.full(n, 2), np.full(n, 5),
        [f"a.jsonl:{i + 1}" for i in range(n)], right, np.empty(0),
        ["yes" if r else "n…" for r in right], ["yes"] * n, [f"{i} ?" for i in range(n)],
        np.full(n, confidence),
    )  # fmt: skip


def texts(losses, tokens=100):
    n = len(losses)
    return Measured(
        "texts", "text", "", np.asarray(losses, dtype=float) * tokens, np.full(n, tokens),
        np.full(n, 400), [f"t.jsonl:{i + 1}" for i in range(n)],
    )  # fmt: skip


def test_a_clear_loss_of_score_is_a_drop_and_names_what_flipped():
    base, tuned = answers([1] * 60 + [0] * 40), answers([0] * 20 + [1] * 45 + [0] * 35)
    found = compare_set(base, tuned)
    assert found.score == (0.6, 0.45)
    assert found.drop == pytest.approx(0.15)
    assert found.verdict == "drop"
    assert len(found.lost) == 20
    assert len(found.gained) == 5
    lost, gained = found.lost[0], found.gained[0]
    assert (lost.where, lost.prompt, lost.expected) == ("a.jsonl:1", "0 ?", "yes")
    assert (lost.base, lost.tuned) == ("yes", "n…")
    assert (gained.where, gained.base, gained.tuned) == ("a.jsonl:61", "n…", "yes")
    assert found.calibration == (pytest.approx(0.1), pytest.approx(0.05))


def test_a_loss_that_is_allowed_or_may_be_chance_is_no_drop():
    base = answers([1] * 60 + [0] * 40)
    assert compare_set(base, answers([0] * 20 + [1] * 40 + [0] * 40), 0.25).verdict == "loss"
    assert compare_set(base, answers([0] * 3 + [1] * 57 + [0] * 40), 0.02).verdict == "same"
    assert compare_set(base, answers([1] * 90 + [0] * 10)).verdict == "gain"
    same = compare_set(base, base)
    assert same.verdict == "same"
    assert (same.drop, same.score_difference.value, same.loss_difference.value) == (0, 0, 0)


def test_of_text_the_rise_of_the_loss_counts_relative_to_the_base():
    rng = np.random.default_rng(0)
    losses = rng.uniform(1.5, 2.5, size=50)
    base = texts(losses)
    found = compare_set(base, texts(losses * 1.03 + rng.normal(scale=0.005, size=50)))
    assert found.drop == pytest.approx(0.03, abs=0.002)
    assert found.verdict == "drop"
    assert compare_set(base, texts(losses * 1.01)).verdict == "loss"
    assert compare_set(base, texts(losses * 0.9)).verdict == "gain"
    assert found.perplexity[0] == pytest.approx(np.exp(losses.mean()))
    rises = [text.tuned - text.base for text in found.worse]
    assert rises == sorted(rises, reverse=True)
    assert len(rises) == 20


def test_a_single_example_is_never_called_a_drop():
    assert compare_set(texts([1.0]), texts([9.0])).verdict == "same"


def test_other_tokens_on_the_two_sides_are_refused():
    with pytest.raises(DataError, match="other tokens"):
        compare_set(texts([1.0, 2.0]), texts([1.0, 2.0], tokens=90))


def test_tasks_are_judged_by_their_scores():
    ones = np.array([1.0] * 50 + [0.0] * 50)
    found = compare_task(Task("t", "acc", ones), Task("t", "acc", ones * 0))
    assert (found.kind, found.metric, found.drop, found.verdict) == ("task", "acc", 0.5, "drop")
    with pytest.raises(DataError, match="scored otherwise"):
        compare_task(Task("t", "acc", ones), Task("t", "acc", ones[:9]))
