"""Tasks of prompts and answers: labels learned alone, answers chosen and written told apart."""

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
from holdfast.learner import Learner
from holdfast.models import zoo
from holdfast.streams.language.answers import TaskScorer, Way, error, majority, of_labels, parse
from holdfast.streams.language.tasks import Task, labels_of, text_tasks

YES_NO = ("yes", "no")


def samples(count: int, labels: tuple[str, ...] = YES_NO) -> list[Sample]:
    return [
        Sample(prompt=f"Is {i} even?", answer=labels[i % len(labels)], where=f"made:{i}")
        for i in range(count)
    ]


def task(name: str = "even", **changed: Any) -> Task:
    given = {"train": samples(8), "test": samples(4), "labels": YES_NO, **changed}
    return Task(name, **given)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    recipe = zoo.Recipe(width=32, depth=2, heads=2, context=64, vocabulary=400)
    return zoo.untrained(recipe, tokenizer)


def test_only_the_answer_and_its_end_are_learned(tokenizer: Any) -> None:
    stream = text_tasks([task()], tokenizer, length=64)
    row = stream[0].train.take(slice(0, 1))
    labels = row["labels"][0]
    asked = labels[labels != -100]
    assert tokenizer.decode(asked[:-1]).strip() == "yes"
    assert asked[-1] == tokenizer.eos_token_id
    given = row["input_ids"][0][: int((labels != -100).int().argmax())]
    assert tokenizer.decode(given, skip_special_tokens=True) == "Is 0 even?"


def test_what_is_learned_is_chosen_and_written(tokenizer: Any, model: Any) -> None:
    stream = text_tasks([task()], tokenizer, scoring="both", length=64)
    learner = Learner(
        model,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2),
        epochs=30,
        batch_size=8,
        pretrained=True,
    )
    record = learner.learn(stream)
    assert record.initial == [0.0], "an untrained model writes no label"
    assert record.measures["unparsable"] == [[1.0], [0.0]]
    assert record.measures["majority"] == [[0.5], [0.5]]
    assert record.matrix == record.measures["written"][1:]
    assert record.matrix[0][0] >= 0.75
    assert record.measures["chosen"][1][0] >= 0.75
    assert record.measures["loss"][1][0] < record.measures["loss"][0][0]


def test_choosing_agrees_with_log_probabilities_summed_by_hand(tokenizer: Any, model: Any) -> None:
    test = samples(6)
    way = Way("even", tuple(test), YES_NO, "accuracy", 4, 64)
    found = TaskScorer([way], tokenizer, "choice").one(model.eval(), way)

    def log_probability(prompt: str, label: str) -> float:
        before = tokenizer(prompt)["input_ids"]
        after = tokenizer(":" + " " + label, add_special_tokens=False)["input_ids"][1:]
        ids = torch.tensor([[*before, *after]])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0].log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(after) - 1)
        return float(sum(logs[p, ids[0, p + 1]] for p in places))

    chosen = [max(YES_NO, key=lambda label: log_probability(str(s.prompt), label)) for s in test]
    right = sum(c == s.answer for c, s in zip(chosen, test, strict=True)) / len(test)
    assert found["chosen"] == pytest.approx(right)


def test_scoring_happens_as_the_methods_serve_the_model(tokenizer: Any, model: Any) -> None:
    served = []

    class Serving:
        def __enter__(self) -> None:
            served.append("in")

        def __exit__(self, *_: object) -> None:
            served.append("out")

    stream = text_tasks([task()], tokenizer, length=64)
    assert stream.scorer is not None
    learner: Any = SimpleNamespace(model=model, serving=Serving)
    scores = stream.scorer.score(learner)
    assert served == ["in", "out"]
    assert len(scores.plain) == 1
    fewer: Any = stream.scorer.subset(2, seed=0)
    assert [len(way.samples) for way in fewer.ways] == [2]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes.", "yes"),
        ("  NO \n because", "no"),
        ("yesterday", None),
        ("", None),
        ("very  negative!", "very negative"),
        ("negative", "negative"),
    ],
)
def test_written_answers_are_parsed_by_their_beginning(text: str, label: str | None) -> None:
    assert parse(text, ["yes", "no", "negative", "very negative"]) == label


def test_metrics_of_labels_are_the_tasks_own() -> None:
    right = ["yes", "yes", "yes", "no"]
    given = ["yes", "no", "", "no"]
    assert of_labels(given, right) == 0.5
    # True positives 1, false negatives 2, false positives 0: 2 * 1 / (2 * 1 + 2).
    assert of_labels(given, right, "f1", YES_NO) == pytest.approx(0.5)
    two = ["yes", "no", "yes", "no"]
    # (1 * 2 - 1 * 0 ...) by hand: TP 2, TN 1, FP 0, FN 1: (2 * 1 - 0) / sqrt(2 * 3 * 1 * 2).
    assert of_labels(two, right, "matthews") == pytest.approx(2 / 12**0.5)
    assert majority(right, YES_NO, "accuracy") == 0.75
    assert majority(right, YES_NO, "matthews") == 0.0


def test_standard_errors_are_those_of_drawing_the_examples_anew() -> None:
    right = ["yes"] * 60 + ["no"] * 40
    given = ["yes"] * 45 + ["no"] * 45 + [""] * 10
    share = of_labels(given, right)
    assert error(given, right, "accuracy", YES_NO) == pytest.approx(
        (share * (1 - share) / 100) ** 0.5
    )
    # 200 draws know a deviation to 5 %, and the 500 here to 3 %.
    rng = np.random.default_rng(1)
    for metric in ("f1", "matthews"):
        places = rng.integers(100, size=(500, 100))
        drawn = [
            of_labels([given[i] for i in place], [right[i] for i in place], metric, YES_NO)
            for place in places
        ]
        assert error(given, right, metric, YES_NO) == pytest.approx(np.std(drawn), rel=0.2)
    assert error(["yes"] * 5, ["yes"] * 5, "f1", YES_NO) == 0.0


def test_long_prompts_lose_their_beginning_alike_in_training_and_test(tokenizer: Any) -> None:
    long = [Sample(prompt="word " * 200 + "END?", answer=a) for a in ("yes", "no")]
    stream = text_tasks([task(train=long, test=long)], tokenizer, length=40)
    table: Any = stream[0].train
    assert int(table["length"].max()) <= 40
    prompt = str(stream.scorer.ways[0].samples[0].prompt)  # type: ignore[union-attr]
    assert prompt.endswith("END?")
    assert "word" in prompt
    trained = tokenizer.decode(table["input_ids"][0], skip_special_tokens=True)
    assert trained.startswith(prompt)


def test_limits_are_drawn_by_seed(tokenizer: Any) -> None:
    many = task(train=samples(50), test=samples(30))
    build = [
        text_tasks([many], tokenizer, seed=seed, length=64, limit=10, test_limit=5)
        for seed in (0, 0, 1)
    ]
    assert [len(s[0].train) for s in build] == [10] * 3
    asked = [[w.prompt for w in s.scorer.ways[0].samples] for s in build]  # type: ignore[union-attr]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize(
    ("changed", "arguments", "error", "sentence"),
    [
        ({"test": []}, {}, DataError, "even has no test examples"),
        ({"labels": ("yes",)}, {}, DataError, r"made:1: the answer 'no' is none of the labels"),
        ({}, {"scoring": "guess"}, UsageError, "scoring must be choice or generate or both"),
        ({"metric": "bleu"}, {}, UsageError, "has labels, so its metric"),
        ({"labels": ()}, {}, UsageError, "has no labels to count by 'accuracy'"),
        ({}, {"length": 8}, UsageError, "no room for a prompt"),
    ],
)
def test_what_cannot_be_a_task_is_refused(
    tokenizer: Any,
    changed: dict[str, Any],
    arguments: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        text_tasks([task(**changed)], tokenizer, **arguments)


def test_tasks_of_ones_own_are_folders_with_train_and_test(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("b-free", "a-few"):
        (tmp_path / name).mkdir()
        for part in ("train", "test"):
            rows = [
                {"prompt": f"{i}?", "answer": YES_NO[i % 2] if name == "a-few" else f"it is {i}"}
                for i in range(6)
            ]
            file = tmp_path / name / f"{part}.jsonl"
            file.write_text("\n".join(map(json.dumps, rows)))
    stream = streams.build(f"tasks:{tmp_path}?length=64", tokenizer=tokenizer)
    assert [e.name for e in stream] == ["a-few", "b-free"]
    few, free = stream.scorer.ways  # type: ignore[union-attr]
    assert (few.labels, few.metric) == (("no", "yes"), "accuracy")
    assert (free.labels, free.metric) == ((), "exact_match")
    (tmp_path / "a-few" / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"a-few needs one file test\.jsonl .*; it has 0"):
        streams.build(f"tasks:{tmp_path}", tokenizer=tokenizer)


def test_labels_are_listed_choices_or_few_answers_that_return() -> None:
    assert labels_of(samples(6)) == ("no", "yes")
    assert labels_of(samples(6, ("a", "b", "c", "d", "e", "f"))) == ()
    listed = [Sample(prompt="?", answer="B", choices=("B", "A")) for _ in range(2)]
    assert labels_of(listed) == ("B", "A")
