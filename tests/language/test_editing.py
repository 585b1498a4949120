"""The measures of edits, held against values found by hand and in one pass."""

from __future__ import annotations

from dataclasses import replace
from math import isnan, log2
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.language.editing import Measure, entropy, own_answers, told
from holdfast.language.generate import generate
from holdfast.language.questions import Question
from holdfast.language.requests import Request


def in_one_pass(model: Any, question: Question) -> tuple[float, float]:
    """Share of right tokens and log-probability, from a single teacher-forced pass."""
    ids = torch.tensor([question.given + question.asked])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(question.given) - 1 : -1]
    asked = torch.tensor(question.asked)
    right = (logits.argmax(-1) == asked).float().mean()
    own = logits.log_softmax(-1).gather(1, asked[:, None]).sum()
    return float(right), float(own)


def test_answers_read_after_their_prompts_are_those_of_one_pass(make_llama: Any) -> None:
    model = make_llama()
    questions = [
        Question([1, 5, 9, 12], [7, 8], 0),
        Question([1, 30], [4], 0),
        Question([1, 6, 6], [9, 3, 3], 0),
    ]
    found = told(model, questions)
    for at, question in enumerate(questions):
        right, logprob = in_one_pass(model, question)
        assert found.right[at] == pytest.approx(right)
        assert np.log(found.probability[at]) == pytest.approx(logprob, abs=1e-4)
        assert found.exact[at] == (right == 1)


def test_the_models_own_answers_are_what_it_writes(make_llama: Any, tokenizer: Any) -> None:
    model = make_llama()
    prompts = [[1, 5, 9], [1, 20, 3, 8]]
    questions = own_answers(model, [Question(p, [0], 0) for p in prompts], [4, 2])
    for question, prompt, size in zip(questions, prompts, (4, 2), strict=True):
        assert question is not None
        assert len(question.asked) == size
        text = tokenizer.decode(question.asked, skip_special_tokens=True)
        assert generate(model, tokenizer, [prompt], max_new_tokens=size) == [text]
    assert told(model, [q for q in questions if q]).right.tolist() == [1.0, 1.0]


def test_before_any_edit_locality_is_whole_and_after_a_change_it_is_the_share_left(
    make_llama: Any, tokenizer: Any
) -> None:
    model = make_llama()
    requests = [
        Request("abc", "d", rephrase="cba", locality="xy", locality_answer="zz"),
        Request("bcd", "ee"),
    ]
    measure = Measure(model, tokenizer, requests, further=["qrs"], fluency=False)
    before = measure.after(model)
    assert before.locality == 1.0
    assert isnan(before.fluency)
    assert [len(q.asked) for q in measure.kept if q] == [2]
    assert [len(q.asked) for q in measure.further if q] == [5]
    other = make_llama(seed=1)
    after = measure.of(other, [0, 1])
    own = told(other, [q for q in measure.kept if q]).right
    more = told(other, [q for q in measure.further if q]).right
    assert after.locality == pytest.approx(float(np.mean([own[0], more[0]])))
    assert after.each[1]["locality"] is None
    assert after.each[1]["generalization"] is None


def test_only_the_edits_so_far_are_measured(make_llama: Any, tokenizer: Any) -> None:
    model = make_llama()
    requests = [Request("abc", "d"), Request("bcd", "e"), Request("cde", "f")]
    measure = Measure(model, tokenizer, requests, fluency=False)
    three = measure.after(model)
    two = measure.after(model, 2)
    assert (two.edits, three.edits) == (2, 3)
    shares = [entry["reliability"] for entry in three.each]
    assert two.reliability == pytest.approx(float(np.mean(shares[:2])))


def test_the_score_is_the_mean_of_what_was_measured(make_llama: Any, tokenizer: Any) -> None:
    model = make_llama()
    found = Measure(model, tokenizer, [Request("abc", "d")], fluency=False).after(model)
    whole = replace(found, reliability=0.9, generalization=0.6, locality=0.3)
    assert whole.score == pytest.approx(0.6)
    assert replace(whole, generalization=float("nan")).score == pytest.approx(0.6)


def test_the_entropy_of_a_text_by_hand() -> None:
    # Pairs: ab, ba, ab; triples: aba, bab.
    pairs = -(2 / 3 * log2(2 / 3) + 1 / 3 * log2(1 / 3))
    assert entropy("a b a b") == pytest.approx((2 / 3 * pairs + 4 / 3 * 1.0) / 2)
    assert entropy("a a a a a") == 0.0
    assert entropy("") == 0.0
