"""The buffer keeps, draws and restores its rows as its documentation says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from holdfast import checkpoint
from holdfast.errors import UsageError
from holdfast.memory.buffer import Buffer


def rows(numbers: range, labels: int = 3) -> dict[str, Tensor]:
    x = torch.tensor(list(numbers))
    return {"x": x.float()[:, None].expand(-1, 2).clone(), "y": x % labels}


def stored(buffer: Buffer) -> list[int]:
    return sorted(buffer.columns["x"][:, 0].long().tolist())


def test_everything_is_kept_while_there_is_room(generator: torch.Generator) -> None:
    buffer = Buffer(10)
    buffer.add(rows(range(4)), generator)
    buffer.add(rows(range(4, 10)), generator)
    assert stored(buffer) == list(range(10))


def test_columns_of_a_row_stay_together(generator: torch.Generator) -> None:
    for storage in ("reservoir", "class_balanced", "ring"):
        buffer = Buffer(8, storage=storage)
        for start in range(0, 100, 7):
            buffer.add(rows(range(start, start + 7)), generator)
        x, y = buffer.columns["x"], buffer.columns["y"]
        assert len(buffer) == 8
        assert torch.equal(x[:, 0], x[:, 1])
        assert torch.equal(x[:, 0].long() % 3, y)
        drawn = buffer.sample(5, generator)
        assert torch.equal(drawn["x"][:, 0].long() % 3, drawn["y"])


def test_ring_keeps_the_most_recent_of_every_class(generator: torch.Generator) -> None:
    buffer = Buffer(6, storage="ring")
    for start in range(0, 50, 5):
        buffer.add(rows(range(start, start + 5), labels=2), generator)
    assert stored(buffer) == [44, 45, 46, 47, 48, 49]


def test_ring_keeps_a_class_that_is_not_seen_again(generator: torch.Generator) -> None:
    buffer = Buffer(4, storage="ring")
    buffer.add({"x": torch.arange(5.0), "y": torch.zeros(5).long()}, generator)
    buffer.add({"x": torch.arange(5.0, 25.0), "y": torch.ones(20).long()}, generator)
    assert sorted(buffer.columns["x"].tolist()) == [3, 4, 23, 24]


def test_task_balanced_counts_tasks_not_classes(generator: torch.Generator) -> None:
    buffer = Buffer(6, storage="task_balanced")
    for task in range(3):
        batch = {**rows(range(20)), "task": torch.full((20,), task)}
        buffer.add(batch, generator)
    assert torch.bincount(buffer.columns["task"]).tolist() == [2, 2, 2]


def test_herding_keeps_those_of_smallest_key(generator: torch.Generator) -> None:
    buffer = Buffer(4, storage="herding")
    batch = {"x": torch.arange(6.0), "y": torch.tensor([0, 0, 0, 1, 1, 1])}
    buffer.add(batch, generator, key=torch.tensor([2.0, 0.0, 1.0, 0.0, torch.inf, 1.0]))
    assert sorted(buffer.columns["x"].tolist()) == [1, 2, 3, 5]


def test_slots_that_are_given_are_those_written_to(generator: torch.Generator) -> None:
    buffer = Buffer(4)
    state = generator.get_state()
    buffer.add(rows(range(3)), generator, slots=torch.tensor([0, 1, 2]))
    assert stored(buffer) == [0, 1, 2]
    buffer.add(rows(range(3, 6)), generator, slots=torch.tensor([3, 4, 1]))
    assert stored(buffer) == [0, 2, 3, 5], "slot 4 is past the end"
    assert torch.equal(generator.get_state(), state), "the storage policy was not asked"


def test_uniform_draws_have_no_repeats_and_favour_no_row(generator: torch.Generator) -> None:
    buffer = Buffer(10)
    buffer.add(rows(range(10)), generator)
    counts = torch.zeros(10)
    for _ in range(2000):
        drawn = buffer.sample(3, generator)["x"][:, 0].long()
        assert len(drawn.unique()) == 3
        counts[drawn] += 1
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_class_balanced_draws_find_every_class_equally_often(generator: torch.Generator) -> None:
    buffer = Buffer(100, retrieval="class_balanced")
    y = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    buffer.add({"y": y}, generator)
    first = torch.cat([buffer.sample(1, generator)["y"] for _ in range(3000)])
    assert chisquare(torch.bincount(first).numpy()).pvalue > 0.001


def test_a_draw_of_more_than_is_stored_is_all(generator: torch.Generator) -> None:
    buffer = Buffer(10)
    assert buffer.sample(3, generator) == {}
    assert buffer.table() is None
    buffer.add(rows(range(4)), generator)
    for retrieval in ("uniform", "class_balanced"):
        buffer.retrieval = retrieval
        assert sorted(buffer.sample(99, generator)["x"][:, 0].tolist()) == [0, 1, 2, 3]


def test_nothing_offered_changes_nothing(generator: torch.Generator) -> None:
    buffer = Buffer(3)
    state = generator.get_state()
    buffer.add({"x": torch.empty(0, 2)}, generator)
    assert len(buffer) == 0
    assert torch.equal(generator.get_state(), state)


def test_a_column_that_widens_is_padded_with_nan(generator: torch.Generator) -> None:
    buffer = Buffer(4)
    buffer.add({"logits": torch.ones(2, 2)}, generator)
    buffer.add({"logits": torch.full((1, 4), 2.0)}, generator)
    buffer.add({"logits": torch.full((1, 3), 3.0)}, generator)
    nan = torch.nan
    expected = torch.tensor([[1, 1, nan, nan], [1, 1, nan, nan], [2, 2, 2, 2], [3, 3, 3, nan]])
    torch.testing.assert_close(buffer.columns["logits"], expected, equal_nan=True)


def test_stored_columns_hold_no_gradients(generator: torch.Generator) -> None:
    buffer = Buffer(4)
    weight = torch.ones(2, requires_grad=True)
    for _ in range(2):
        buffer.add({"logits": torch.ones(2, 2) * weight}, generator)
    assert not buffer.columns["logits"].requires_grad


@pytest.mark.parametrize("storage", ["reservoir", "class_balanced", "task_balanced", "ring"])
def test_a_restored_buffer_goes_on_as_the_original(
    tmp_path: Path, storage: str, generator: torch.Generator
) -> None:
    def batch(start: int, width: int) -> dict[str, Tensor]:
        base = rows(range(start, start + 6))
        return {**base, "task": base["y"] // 2, "logits": base["x"][:, :1].expand(6, width)}

    original = Buffer(10, storage=storage)
    original.add(batch(0, 2), generator)
    original.add(batch(6, 4), generator)  # wider than before
    checkpoint.save(tmp_path / "b", original.state_dict())
    restored = Buffer(10, storage=storage)
    restored.load_state_dict(checkpoint.load(tmp_path / "b"))
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    for buffer, source in ((original, generator), (restored, twin)):
        buffer.add(batch(12, 4), source)
    for name, column in original.columns.items():
        torch.testing.assert_close(restored.columns[name], column, rtol=0, atol=0, equal_nan=True)
    drawn = [b.sample(4, g)["x"] for b, g in ((original, generator), (restored, twin))]
    assert torch.equal(*drawn)


def test_loading_an_empty_state_forgets_what_was_held(generator: torch.Generator) -> None:
    buffer = Buffer(3)
    buffer.add(rows(range(3)), generator)
    buffer.load_state_dict(Buffer(3).state_dict())
    assert len(buffer) == 0
    assert buffer.sample(2, generator) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"capacity": 0}, "capacity must be at least 1; given: 0"),
        ({"capacity": 5, "storage": "stack"}, "storage must be one of reservoir.*'stack'"),
        ({"capacity": 5, "retrieval": "best"}, "retrieval must be one of uniform.*'best'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Buffer(**arguments)


def test_balanced_storage_without_its_column_says_which(generator: torch.Generator) -> None:
    with pytest.raises(UsageError, match="'task_balanced' storage needs a column 'task'"):
        Buffer(5, storage="task_balanced").add(rows(range(3)), generator)
    with pytest.raises(UsageError, match="needs the herding order as `key`"):
        Buffer(5, storage="herding").add(rows(range(3)), generator)
