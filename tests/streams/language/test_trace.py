"""TRACE: read whole or not at all, scored by each task's metric, measured against the start."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.language.fields import Sample
from holdfast.models import zoo
from holdfast.streams.language import trace
from holdfast.streams.language.answers import TaskScorer, Way
from holdfast.streams.language.rationales import CUE, MARKER, reasoned, same_budget
from holdfast.streams.language.trace_metrics import (
    TraceEvaluator,
    backward_transfer,
    general_delta,
    judged,
    mini_suite,
    overall_performance,
)

ROWS = {
    "C-STANCE": ("判断立场。支持这项政策。A.支持 B.反对 C.中立", "A"),
    "FOMC": ("What is the stance of: rates must rise? A dovish, B hawkish, C neutral", "B"),
    "MeetingBank": ("Summarise: The council met and adopted the plan.", "The plan was adopted."),
    "Py150": ("<s> import os <EOL> x =", "os . path . join ( <STR_LIT:a> )"),
    "ScienceQA": ("Which is a mammal? A. cat B. fish", "A Cats give milk."),
    "NumGLUE-cm": ("Two and three apples make how many?", "5"),
    "NumGLUE-ds": ("Ten less four is?", "6"),
    "20Minuten": ("Vereinfache: Die Sitzung wurde vertagt.", "Die Sitzung ist später."),
    "Lima": ("How do I boil an egg?", "Put it in boiling water."),
}
"""A hand-written row for each task; every file below holds three of them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (prompt, answer) in ROWS.items():
        where = tmp_path / f"{name}_500"
        where.mkdir()
        for part in trace.PARTS:
            rows = [{"prompt": f"{prompt} ({part} {i})", "answer": answer} for i in range(3)]
            (where / f"{part}.json").write_text(json.dumps(rows, ensure_ascii=False))
    return tmp_path


def test_all_eight_tasks_come_in_the_papers_order_with_its_epochs_and_metrics(
    folder: Path, tokenizer: Any
) -> None:
    stream = streams.build(f"trace:{folder}?length=256&answer=32", tokenizer=tokenizer)
    assert [e.name for e in stream] == list(ROWS)[:8]
    assert [e.epochs for e in stream] == [5, 3, 7, 5, 3, 5, 5, 7]
    assert [way.metric.split("(")[0] for way in stream.scorer.ways] == [  # type: ignore[union-attr]
        "exact_match", "exact_match", "rouge_l", "edit_similarity",
        "exact_match", "exact_match", "exact_match", "sari",
    ]  # fmt: skip
    assert stream.past is not None
    assert len(stream.past) == 3
    for experience in stream:
        labels = experience.train["labels"][0]
        answer = tokenizer.decode(labels[labels != -100], skip_special_tokens=True).strip()
        assert answer == ROWS[experience.name][1], "no token of the prompt is learned"


def test_the_right_answers_score_one_and_empty_ones_nothing(folder: Path, tokenizer: Any) -> None:
    stream = streams.build(f"trace:{folder}?length=256&answer=32", tokenizer=tokenizer)

    class Answers(TaskScorer):
        given = ""

        def written(self, model: Any, way: Way) -> list[str]:
            return [str(s.answer) if self.given == "right" else "" for s in way.samples]

    torch.manual_seed(0)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=256, vocabulary=400)
    learner: Any = SimpleNamespace(
        model=zoo.untrained(recipe, tokenizer), serving=lambda: torch.no_grad()
    )
    scorer = Answers(stream.scorer.ways, tokenizer, "generate")  # type: ignore[union-attr]
    assert scorer.score(learner).plain == [0.0] * 8
    scorer.given = "right"
    assert scorer.score(learner).plain == pytest.approx([1.0] * 8)


def test_both_sizes_are_told_apart(folder: Path) -> None:
    assert trace.read(folder).size == 500
    with pytest.raises(UsageError, match="size must be 500 or 5000"):
        trace.read(folder, 50)
    with pytest.raises(DataError, match="not the whole of TRACE: no folder C-STANCE_5000"):
        trace.read(folder, 5000)
    (folder / "FOMC_5000").mkdir()
    with pytest.raises(DataError, match="in both sizes; say which"):
        trace.read(folder)


def test_every_fault_is_reported_at_once(folder: Path) -> None:
    (folder / "Py150_500" / "eval.json").unlink()
    (folder / "FOMC_500" / "test.json").write_text("[{]")
    rows = [{"prompt": "p", "answer": None}, {"prompt": "p", "answer": "a"}, {"answer": "a"}]
    (folder / "NumGLUE-cm_500" / "train.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as error:
        trace.read(folder)
    said = str(error.value)
    assert "no file Py150_500/eval.json" in said
    assert "FOMC_500/test.json cannot be read" in said
    assert "NumGLUE-cm_500/train.json has 2 entries without prompt or answer (0, 2)" in said


def test_in_context_learning_shows_training_examples_before_test_prompts(
    folder: Path, tokenizer: Any
) -> None:
    spec = f"trace:{folder}?length=256&answer=8&shots=2"
    bare, shown = (
        streams.build(each, tokenizer=tokenizer) for each in (spec.replace("&shots=2", ""), spec)
    )
    # Only the training prompt is as it was.
    for one, other in zip(bare, shown, strict=True):
        assert torch.equal(one.train["input_ids"], other.train["input_ids"])
    train = [Sample(prompt="1 + 1?", answer="2")] * 3
    task = trace.with_shots(trace.Task("sum", train, [Sample(prompt="2?", answer="3")]), 2)
    assert task.test[0].prompt == "1 + 1? 2\n\n1 + 1? 2\n\n2?"
    with pytest.raises(UsageError, match="shots must be a whole number from 0"):
        streams.build(spec.replace("shots=2", "shots=none"), tokenizer=tokenizer)


def test_padding_on_the_left_or_right_is_the_same_to_a_causal_model(tokenizer: Any) -> None:
    """The official code pads on the left, everything here on the right."""
    torch.manual_seed(0)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=64, vocabulary=400)
    model = zoo.untrained(recipe, tokenizer).eval()
    ids, pad = torch.tensor([[5, 6, 7, 8]]), torch.zeros(1, 3, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        right = model(torch.cat([ids, pad], 1), attention_mask=mask).logits[:, :4]
        places = torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
        left = model(
            torch.cat([pad, ids], 1), attention_mask=mask.flip(1), position_ids=places
        ).logits[:, 3:]
    assert torch.allclose(left, right, atol=1e-5)


def test_the_mini_suite_is_the_objective_of_language_on_held_out_text(tokenizer: Any) -> None:
    torch.manual_seed(0)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=64, vocabulary=400)
    model = zoo.untrained(recipe, tokenizer)
    suite = mini_suite(tokenizer, rows=4, length=32)
    assert list(suite) == ["tokens", "likelihood"]
    # An untrained model is near uniform over the vocabulary.
    assert suite["likelihood"](model, tokenizer) == pytest.approx(1 / 400, rel=0.2)
    assert 0 <= suite["tokens"](model, tokenizer) < 0.1


def test_measures_of_a_sequence_by_hand() -> None:
    matrix = [[0.8, 0.1, 0.0], [0.6, 0.9, 0.2], [0.5, 0.6, 0.7]]
    assert overall_performance(matrix) == pytest.approx(0.6)
    assert overall_performance(matrix, 2) == pytest.approx(0.75)
    assert backward_transfer(matrix) == pytest.approx((-0.3 - 0.3) / 3)
    assert backward_transfer(matrix, divisor="t-1") == pytest.approx(-0.3)
    assert backward_transfer(matrix, 1) == 0.0
    rows = [[0.5, 0.4], [0.4, 0.4], [0.1, 0.2]]
    assert general_delta(rows) == pytest.approx(-0.3), "against the start, not the task before"
    assert general_delta(rows, 1) == pytest.approx(-0.05)
    with pytest.raises(UsageError, match="no state after 4 tasks"):
        overall_performance(matrix, 4)


def test_wins_less_losses() -> None:
    found = judged(lambda p, a, b: np.sign(len(b) - len(a)), ["q"] * 4, list("aaaa"), ["", *"bbb"])
    assert (found.win, found.tie, found.lose, found.delta) == (0.0, 0.75, 0.25, -0.25)
    with pytest.raises(UsageError, match="answers 1, 0 or -1"):
        judged(lambda p, a, b: 0.5, ["q"], ["a"], ["b"])


def test_cells_are_kept_and_the_judge_compares_with_the_start(
    tmp_path: Path, tokenizer: Any
) -> None:
    torch.manual_seed(0)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=64, vocabulary=400)
    way = Way("sum", (Sample(prompt="1 + 1?", answer="2"),), (), "exact_match", 4, 64)
    seen: list[tuple[str, str]] = []
    asked: list[int] = []

    def judge(prompt: str, first: str, tuned: str) -> float:
        seen.append((first, tuned))
        return 0

    def suite(model: Any, words: Any) -> float:
        asked.append(1)
        return 0.25 * len(asked)

    def evaluator() -> TraceEvaluator:
        return TraceEvaluator(
            TaskScorer([way], tokenizer, "generate"), tokenizer, tmp_path,
            suites={"one": suite}, helpful={"few": ["Say a."]}, judge=judge, new_tokens=3,
        )  # fmt: skip

    learner: Any = SimpleNamespace(
        model=zoo.untrained(recipe, tokenizer), serving=lambda: torch.no_grad(), updates=0
    )
    start = evaluator().score(learner)
    assert start.measures["general"] == [0.25]
    first = seen[-1][0]
    with torch.no_grad():
        learner.model.lm_head.weight.neg_()
    learner.updates = 7
    after = evaluator().score(learner)
    assert seen[-1][0] == first
    assert after.measures["general"] == [0.5]
    assert evaluator().score(learner).measures == after.measures
    assert len(asked) == 2, "a cell that is there is not measured again"
    with pytest.raises(UsageError, match="need a judge"):
        TraceEvaluator(TaskScorer([way], tokenizer), tokenizer, tmp_path, harmful={"x": ["y"]})


def test_rationales_come_before_answers_and_must_agree_with_them(tokenizer: Any) -> None:
    bare = [Sample(prompt=f"{i} + 1?", answer=str(i + 1)) for i in range(3)]
    found = reasoned(bare, {0: "Count on from 0.", 1: f"One more.{MARKER}3", 2: f"Count.{MARKER}3"})
    assert [s.prompt for s in found] == [CUE + "0 + 1?", CUE + "2 + 1?"]
    assert [s.answer for s in found] == [f"Count on from 0.{MARKER}1", f"Count.{MARKER}3"]
    control = same_budget(bare, found, tokenizer)
    sizes = [
        sum(len(tokenizer(f"{s.prompt} {s.answer}", add_special_tokens=False)["input_ids"])
            for s in part)
        for part in (control, found)
    ]  # fmt: skip
    assert 0 <= sizes[0] - sizes[1] < 12
    assert control[:3] == bare


def test_rationales_of_a_file_are_learned_and_the_final_answer_is_parsed(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"task": name, "index": 0, "rationale": "Think."} for name in list(ROWS)[:8]]
    file = tmp_path / "rationales.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    stream = streams.build(
        f"trace:{folder}?length=256&answer=32&rationales='{file}'", tokenizer=tokenizer
    )
    assert [len(e.train) for e in stream] == [1] * 8
    ways = stream.scorer.ways  # type: ignore[union-attr]
    assert all(way.marker == MARKER for way in ways)
    assert all(str(way.samples[0].prompt).startswith(CUE) for way in ways)

    class Answers(TaskScorer):
        def written(self, model: Any, way: Way) -> list[str]:
            return [f"Well.{MARKER}{s.answer}" for s in way.samples[:2]] + ["no marker"]

    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=256, vocabulary=400)
    found = Answers(ways, tokenizer, "generate").one(zoo.untrained(recipe, tokenizer), ways[5])
    assert found["written"] == pytest.approx(2 / 3)
    assert found["unparsable"] == pytest.approx(1 / 3)
