"""Text metrics against hand-worked cases, published figures and the definitions."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.language import scoring
from holdfast.language.scoring import METRICS, final_number, score

SOURCE = "About 95 species are currently accepted ."
SIMPLER = [
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
]


def test_exact_match_looks_past_spaces_but_not_past_case_unless_told():
    assert scoring.exact_match(["a  b\n", "A b", "ab"], ["a b"] * 3).tolist() == [1, 0, 0]
    assert scoring.exact_match(["A b"], ["a B"], case=False).tolist() == [1]
    assert scoring.exact_match(["a  b"], ["a b"], whitespace=True).tolist() == [0]
    assert scoring.exact_match(["C. Because", "B"], ["C", "C"], first=1).tolist() == [1, 0]


def test_of_several_references_the_best_counts():
    assert scoring.exact_match(["b", "c"], [["a", "b"], ["a", "b"]]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("#### -5 degrees, not 7", "-5"),
        ("The answer is 3.50.", "3.50"),
        ("10-3", "3"),
        ("it fell to -3", "-3"),
        ("1,2", "2"),
    ],
)
def test_the_final_number_is_found(text, number):
    assert final_number(text) == Decimal(number)


def test_numbers_match_by_value_and_a_text_without_one_does_not():
    assert scoring.number_match(["so 18.0", "none", "17"], ["#### 18"] * 3).tolist() == [1, 0, 0]
    assert scoring.number_match(["nothing"], ["nothing"]).tolist() == [0]


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    # Lin (2004): "police kill the gunman" shares 2 of 4 words, in order, with the reference, and
    # "police killed" is not stemmed: subsequence "police the gunman" has 3.
    reference = "police killed the gunman"
    found = scoring.rouge_l(["police kill the gunman", "the gunman kill police"], [reference] * 2)
    assert found.tolist() == [0.75, 0.5]
    assert scoring.rouge_l(["police kills the gunman"], [reference], stemmed=True)[0] == 1


def test_rouge_l_reads_letters_beyond_a_to_z():
    assert scoring.rouge_l(["für Züge"], ["über Züge"])[0] == 0.5


def test_bleu_is_the_geometric_mean_of_precisions_with_a_penalty_for_brevity():
    prediction, reference = "the cat sat on mat", "the cat sat on the mat"
    precisions = [5 / 5, 3 / 4, 2 / 3, 1 / 2]
    brevity = math.exp(1 - 6 / 5)
    expected = brevity * math.prod(precisions) ** 0.25
    assert scoring.bleu([prediction], [reference])[0] == pytest.approx(expected)
    assert scoring.bleu([prediction], [reference], order=1)[0] == pytest.approx(brevity)


@pytest.mark.parametrize(
    ("prediction", "published"),
    [("About 95 you now get in .", 0.26953601953601954)],
)
def test_sari_is_the_published_figure(prediction, published):
    """The figure in the documentation of Hugging Face's `evaluate` for this example."""
    found = scoring.sari([prediction], [SIMPLER], sources=[SOURCE])
    assert found[0] == pytest.approx(published, abs=1e-12)


def test_sari_of_a_case_worked_by_hand():
    # Source "a b", prediction "a c", reference "a d". Words: kept a (precision 1, recall 1);
    # added c, wanted d (0); deleted b, rightly (1). Pairs: source "a b", prediction "a c",
    # reference "a d": nothing to be kept (1), "a c" added for "a d" (0), "a b" deleted (1).
    # Triples and longer: there are none, nothing to do (1, 1, 1).
    assert scoring.sari(["a c"], ["a d"], sources=["a b"])[0] == pytest.approx((2 + 2 + 3 + 3) / 12)


def test_sari_is_one_for_what_was_wanted_and_needs_the_source():
    assert scoring.sari([SIMPLER[0]], [SIMPLER[0]], sources=[SOURCE])[0] == 1
    with pytest.raises(UsageError, match="needs the sources"):
        score("sari", ["a"], ["b"])
    with pytest.raises(UsageError, match="one source per prediction; given: 2 for 1"):
        scoring.sari(["a"], ["b"], sources=["a", "b"])


def test_edit_similarity_counts_insertions_and_deletions():
    # "kitten" to "sitting": common subsequence "ittn" of 4, so 2 * 4 / (6 + 7).
    assert scoring.edit_similarity(["kitten"], ["sitting"])[0] == pytest.approx(8 / 13)


def test_placeholders_of_py150_are_put_back():
    code = "open(<STR_LIT:a b>, <NUM_LIT:0>, <STR_LIT>)<EOL>"
    assert scoring.with_literals(code) == 'open("a b", 0, "")\n'
    assert scoring.edit_similarity(['open("a b", 0, "")\n'], [code], placeholders=True)[0] == 1
    assert scoring.edit_similarity(['open("a b", 0, "")\n'], [code])[0] < 1


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_an_empty_prediction_scores_nothing_and_stays_in_the_mean(metric):
    found = score(metric, ["7 days .", " "], ["7 days .", "7 days ."], ["7 long days ."] * 2)
    assert found.tolist() == [pytest.approx(1), 0]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_scores_are_finite_fractions_whatever_the_texts(pairs):
    predictions, references = [a for a, _ in pairs], [b for _, b in pairs]
    for metric in METRICS:
        found = score(metric, predictions, references, references)
        assert found.shape == (len(pairs),)
        assert np.all((found >= 0) & (found <= 1 + 1e-9))


def test_f1_and_matthews_correlation_of_a_confusion_worked_by_hand():
    # Positive: 3 hits, 1 false alarm, 1 miss; 5 rightly negative.
    predicted = ["y", "y", "y", "y", "n", *["n"] * 5]
    shown = ["y", "y", "y", "n", "y", *["n"] * 5]
    assert scoring.f1(predicted, shown) == pytest.approx((6 / 8 + 10 / 12) / 2)
    assert scoring.matthews(predicted, shown) == pytest.approx(
        (3 * 5 - 1) / math.sqrt(4 * 4 * 6 * 6)
    )


def test_a_metric_is_named_with_its_arguments():
    assert score("bleu(order=1)", ["a b"], ["b a"])[0] == pytest.approx(1)
    with pytest.raises(UsageError, match="Did you mean 'rouge_l'"):
        score("rogue_l", ["a"], ["a"])
    with pytest.raises(UsageError, match="order"):
        score("bleu(ordre=1)", ["a"], ["a"])


def test_unequal_numbers_of_predictions_and_references_are_refused():
    with pytest.raises(UsageError, match="2 predictions and 1 references"):
        scoring.rouge_l(["a", "b"], ["a"])
    with pytest.raises(UsageError, match="empty list of references"):
        scoring.rouge_l(["a"], [[]])
