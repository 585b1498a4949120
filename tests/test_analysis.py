"""A closer look at a run: accuracy over all classes, nearest means, confusions, norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.run import run

BASE = Config(
    "split-digits(base=4, experiences=4, limit=80)",
    "er(storage=herding, capacity=40)",
    model="mlp(width=16)",
    head="growing",
    epochs=2,
    analyse=True,
)


@pytest.fixture(scope="module")
def result():
    return run(BASE)


def test_all_classes_weigh_alike_where_experiences_bring_unlike_numbers(result):
    from holdfast import streams

    stream = streams.build(BASE.stream, seed=0)
    sizes = [len(e.test) for e in stream]
    assert len(set(sizes)) > 1
    notes = [note for note in result.record.notes if "seen_accuracy" in note]
    assert [note["experience"] for note in notes] == [0, 1, 2, 3]
    for index, note in enumerate(notes):
        pairs = list(zip(result.record.matrix[index], sizes, strict=True))[: index + 1]
        hits = sum(score * size for score, size in pairs)
        expected = hits / sum(sizes[: index + 1])
        assert note["seen_accuracy"] == pytest.approx(expected)


def test_confusions_add_up_to_the_test_examples_and_to_the_accuracy(result):
    last = result.record.notes[-1]
    confusion = torch.tensor(last["confusion"])
    assert confusion.shape == (10, 10)
    assert float(confusion.diag().sum() / confusion.sum()) == pytest.approx(last["seen_accuracy"])
    assert len(last["row_norms"]) == 10


def test_the_nearest_mean_of_icarls_exemplars_is_icarls_own_prediction():
    notes = run(replace(BASE, method="icarl(capacity=40)")).record.notes
    for note in notes:
        assert note["nearest_mean_accuracy"] == note["seen_accuracy"]


def test_without_exemplars_there_is_no_nearest_mean():
    notes = run(replace(BASE, method="ewc", until=2)).record.notes
    assert all("nearest_mean_accuracy" not in note for note in notes)


def test_a_look_changes_nothing(result):
    assert run(replace(BASE, analyse=False)).record.matrix == result.record.matrix


def test_other_streams_are_refused():
    with pytest.raises(UsageError, match="no such stream"):
        run(replace(BASE, stream="permuted-digits"))
