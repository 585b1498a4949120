"""Known sequences of tasks: their files, orders, prompts and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.language.fields import Sample
from holdfast.streams.language import cl15, glue
from holdfast.streams.language.templates import Template, demonstrations, rendered

TEMPLATE = Template("sentiment", "Positive or negative?", ("positive", "negative"))


def some(count: int) -> list[Sample]:
    return [Sample(prompt=f"text {i}", answer=TEMPLATE.labels[i % 2]) for i in range(count)]


def test_every_level_says_more_than_the_one_before() -> None:
    said = [TEMPLATE.prompt("A text.", level, some(4)) for level in range(5)]
    assert said[0] == "A text.\nAnswer:"
    assert said[1] == "Positive or negative?\n" + said[0]
    assert "one of: positive, negative" in said[2]
    assert said[3] == "Task: sentiment\n" + said[2]
    assert said[4].count("Answer: ") == 4
    assert said[4].endswith(said[0])
    with pytest.raises(UsageError, match="a level from 0 to 4; given: 5"):
        TEMPLATE.prompt("A text.", 5)


def test_demonstrations_take_turns_and_never_show_the_example_itself() -> None:
    train = some(12)
    assert [s.answer for s in demonstrations(train, TEMPLATE.labels)][:4] == [
        "positive", "negative", "positive", "negative",
    ]  # fmt: skip
    for i, sample in enumerate(rendered(train, TEMPLATE, 4, train)):
        shown = str(sample.prompt)
        assert shown.count("Answer: ") == 4
        assert shown.count(f"text {i}\n") == 1


def test_the_orders_are_permutations_of_the_fifteen_tasks() -> None:
    assert {len(cl15.ORDERS[n]) for n in (1, 2, 3)} == {4}
    fifteen = {*cl15.INSTRUCTIONS, cl15.ABSENT}
    for n in (4, 5, 6):
        assert len(cl15.ORDERS[n]) == 15
        assert set(cl15.ORDERS[n]) == fifteen


@pytest.mark.data
@pytest.mark.parametrize(("order", "count"), [(1, 3), (3, 3), (4, 14), (6, 14)])
def test_the_tasks_at_hand_come_in_the_official_orders(
    tokenizer: Any, order: int, count: int
) -> None:
    stream = streams.build(
        f"cl15(order={order}, limit=6, test_limit=4, length=128)", tokenizer=tokenizer
    )
    assert [e.name for e in stream] == [t for t in cl15.ORDERS[order] if t != "yahoo"]
    assert len(stream) == count


@pytest.mark.data
def test_glue_from_the_data_folder_has_its_own_metrics(tokenizer: Any) -> None:
    stream = streams.build("glue(limit=6, test_limit=4, length=200)", tokenizer=tokenizer)
    ways = {way.name: way for way in stream.scorer.ways}  # type: ignore[union-attr]
    assert list(ways) == ["sst2", "mrpc", "cola", "mnli"]
    assert [way.metric for way in ways.values()] == ["accuracy", "f1", "matthews", "accuracy"]
    assert ways["mrpc"].labels == ("yes", "no")
    short = streams.build("glue(tasks='cola-qqp-rte', limit=4, test_limit=4)", tokenizer=tokenizer)
    assert [e.name for e in short] == ["cola", "qqp", "rte"]


def official(folder: Path) -> None:
    """The four tasks in GLUE's own files, a few lines each, with stray quotation marks."""
    rows = {
        "SST-2": ("sentence\tlabel", ['a "good film\t1', "bad\t0", "good again\t1", "worse\t0"]),
        "MRPC": (
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            ["1\t1\t2\tone a\tone b", "0\t3\t4\ttwo\tthree"] * 2,
        ),
        "CoLA": (None, ["gj04\t1\t\tIt is.", "gj04\t0\t*\tIs it it."] * 2),
        "MNLI": (
            "index\tsentence1\tsentence2\tgold_label",
            ["0\tp\th\tneutral", "1\tp\th\t-", "2\tp\th\tentailment", "3\tp\th\tcontradiction"],
        ),
    }
    for task in glue.ORDER.split("-"):
        where, *files = glue.TASKS[task].official
        (folder / where).mkdir()
        heading, lines = rows[where]
        for file in files:
            text = "\n".join([*([heading] if heading else []), *lines]) + "\n"
            (folder / where / file).write_text(text)


def test_glue_is_read_from_its_own_files(tmp_path: Path, tokenizer: Any) -> None:
    official(tmp_path)
    stream = streams.build(f"glue:{tmp_path}?prompt=0&length=64", tokenizer=tokenizer)
    ways = {way.name: way.samples for way in stream.scorer.ways}  # type: ignore[union-attr]
    assert ways["sst2"][0].prompt == 'a "good film\nAnswer:'
    assert [s.answer for s in ways["sst2"]] == ["positive", "negative", "positive", "negative"]
    assert ways["mrpc"][0].prompt == "first: one a\nsecond: one b\nAnswer:"
    assert [s.answer for s in ways["cola"]][:2] == ["acceptable", "unacceptable"]
    assert [s.answer for s in ways["mnli"]] == ["neutral", "entailment", "contradiction"]


def test_training_and_testing_may_use_different_prompts(tmp_path: Path, tokenizer: Any) -> None:
    official(tmp_path)
    stream = streams.build(
        f"glue:{tmp_path}?tasks='sst2'&prompt=0&test_prompt=1&length=128", tokenizer=tokenizer
    )
    trained = tokenizer.decode(stream[0].train["input_ids"][0], skip_special_tokens=True)
    asked = str(stream.scorer.ways[0].samples[0].prompt)  # type: ignore[union-attr]
    assert "Is the sentiment" not in trained
    assert asked.startswith("Is the sentiment")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("tasks='sst2-mrpcc'", "no task 'mrpcc' of GLUE. Did you mean 'mrpc'"),
        ("tasks='sst2-sst2'", "names one task twice"),
        ("prompt=7", "level from 0 to 4"),
    ],
)
def test_arguments_of_glue_are_checked(
    tmp_path: Path, tokenizer: Any, spec: str, sentence: str
) -> None:
    official(tmp_path)
    with pytest.raises(UsageError, match=sentence):
        streams.build(f"glue:{tmp_path}?{spec}", tokenizer=tokenizer)


def test_faults_of_glues_files_are_named(tmp_path: Path, tokenizer: Any) -> None:
    official(tmp_path)
    file = tmp_path / "SST-2" / "dev.tsv"
    file.write_text("sentence\tlabel\nwell\t2\n")
    with pytest.raises(DataError, match=r"dev\.tsv:2: '2' is no label of sst2"):
        streams.build(f"glue:{tmp_path}", tokenizer=tokenizer)
    file.write_text("text\tlabel\nwell\t1\n")
    with pytest.raises(DataError, match="has no column 'sentence'; it has: text, label"):
        streams.build(f"glue:{tmp_path}", tokenizer=tokenizer)
    file.unlink()
    with pytest.raises(DataError, match="There is no file"):
        streams.build(f"glue:{tmp_path}", tokenizer=tokenizer)
