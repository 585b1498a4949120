"""Tasks of text in the published orders, each with classes of its own or shared ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.models.sentences import embedded
from holdfast.streams.language.cl15 import INSTRUCTIONS
from holdfast.streams.text_sequence import ALIKE, SEQUENCES, Tasks, sequence

LABELS = {"yelp": ("bad", "good"), "amazon": ("bad", "good"), "agnews": ("world", "sport"),
          "dbpedia": ("plant", "film", "place")}  # fmt: skip


@pytest.fixture
def tasks() -> Tasks:
    def made(task: str, count: int) -> tuple[list[str], list[str]]:
        labels = list(LABELS[task]) * count
        return [f"{task} {label} {i}" for i, label in enumerate(labels)], labels

    return Tasks("four", {t: (made(t, 4), made(t, 2), LABELS[t]) for t in LABELS})


def test_every_order_has_each_task_once_and_yahoo_among_them() -> None:
    for name, order in SEQUENCES.items():
        assert len(set(order)) == len(order) == {"f": 5, "s": 4, "l": 15}[name[0]]
        assert set(order) <= {*INSTRUCTIONS, "yahoo"}
        assert "yahoo" in order
    assert len({frozenset(SEQUENCES[f"five{i}"]) for i in (1, 2, 3, 4)}) == 1
    for one, other in ALIKE.items():
        assert INSTRUCTIONS[one][0].split()[0] == INSTRUCTIONS[other][0].split()[0]


def test_tasks_have_classes_of_their_own(tasks: Tasks) -> None:
    stream = sequence(tasks, "four", 0, sequence="five1", encoder="hashed")
    assert [e.name for e in stream] == ["yelp", "agnews", "dbpedia", "amazon"]
    assert [e.classes for e in stream] == [(0, 1), (2, 3), (4, 5, 6), (7, 8)]
    assert stream.class_names[4:8] == (
        "dbpedia: plant", "dbpedia: film", "dbpedia: place", "amazon: bad"
    )  # fmt: skip
    assert stream.scenario == "task"
    assert torch.equal(stream[2].train["x"][:2], embedded(["dbpedia plant 0", "dbpedia film 1"],
                                                         "hashed"))  # fmt: skip
    assert stream[2].train["y"].tolist() == [4, 5, 6] * 4


def test_tasks_that_ask_the_same_may_share_their_classes(tasks: Tasks) -> None:
    stream = sequence(tasks, "four", 0, sequence="five2", shared=True, scenario="class",
                      encoder="hashed")  # fmt: skip
    assert [e.name for e in stream] == ["dbpedia", "agnews", "amazon", "yelp"]
    assert stream[2].classes == stream[3].classes == (5, 6)
    assert stream.classes == 7
    assert stream.scenario == "class"


def test_what_is_drawn_alone_is_kept(tasks: Tasks) -> None:
    stream = sequence(tasks, "four", 0, 2, "five1", encoder="hashed", limit=4, test_limit=2)
    assert [(len(e.train), len(e.test)) for e in stream] == [(4, 2)] * 2
    assert stream[0].train["y"].bincount().tolist() == [2, 2]


def test_what_cannot_be_is_refused(tasks: Tasks) -> None:
    with pytest.raises(UsageError, match=r"no sequence 'five5'\. Did you mean 'five"):
        sequence(tasks, "four", 0, sequence="five5")
    with pytest.raises(UsageError, match="experiences must be a whole number from 1 or none"):
        sequence(tasks, "four", 0, 0)
    train = (["a"], ["neither"])
    odd = Tasks("odd", {**tasks.parts, "yelp": (train, train, ("bad", "good"))})
    with pytest.raises(DataError, match="label 'neither' of yelp is not among bad, good"):
        sequence(odd, "odd", 0, sequence="five1")


@pytest.mark.data
def test_the_long_sequence_has_fourteen_tasks(data_folder: Path) -> None:
    stream = streams.build("cl15-classes(encoder=hashed, limit=40, test_limit=20)")
    assert len(stream) == 14
    assert stream.classes == 50
    assert [len(e.classes) for e in stream] == [3, 3, 2, 2, 2, 2, 2, 2, 5, 5, 2, 14, 4, 2]
