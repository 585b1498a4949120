"""Tables and batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.data import Batches, Table, View, concat, size
from holdfast.errors import DataError


def numbered(rows: int) -> Table:
    return Table({"x": torch.arange(rows * 2.0).view(rows, 2), "y": torch.arange(rows)})


def batches(rows: int, batch_size: int, epochs: int, seed: int = 0) -> Batches:
    return Batches(numbered(rows), batch_size, epochs, torch.Generator().manual_seed(seed))


def test_rows_are_drawn_by_number_and_in_the_order_asked_for():
    batch = numbered(5)[torch.tensor([3, 0, 3])]
    assert batch["y"].tolist() == [3, 0, 3]
    assert batch["x"].tolist() == [[6, 7], [0, 1], [6, 7]]


def test_a_slice_and_a_name_index_a_table():
    table = numbered(5)
    assert table[1:3]["y"].tolist() == [1, 2]
    assert table["y"].tolist() == [0, 1, 2, 3, 4]
    assert "y" in table
    assert "task" not in table


def test_where_keeps_the_rows_that_a_mask_holds_for():
    table = numbered(6)
    assert table.where(table["y"] % 2 == 1)["y"].tolist() == [1, 3, 5]


def test_with_columns_leaves_the_table_it_came_from_alone():
    table = numbered(2)
    wider = table.with_columns(task=torch.tensor([7, 7]), y=torch.tensor([9, 9]))
    assert wider["task"].tolist() == [7, 7]
    assert wider["y"].tolist() == [9, 9]
    assert table["y"].tolist() == [0, 1]
    assert "task" not in table


def test_bytes_are_counted_over_all_columns():
    table = Table({"x": torch.zeros(10, 3, dtype=torch.uint8), "y": torch.zeros(10).long()})
    assert table.nbytes == 10 * 3 + 10 * 8


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40))
def test_chunks_are_the_table_in_order(rows, width):
    chunks = list(numbered(rows).chunks(width))
    assert torch.cat([chunk["y"] for chunk in chunks]).tolist() == list(range(rows))
    assert all(size(chunk) == width for chunk in chunks[:-1])


def test_columns_of_different_length_are_refused_with_their_lengths():
    with pytest.raises(DataError, match=r"equal length.*'x': 3.*'y': 2"):
        Table({"x": torch.zeros(3), "y": torch.zeros(2)})


def test_a_table_without_columns_is_refused():
    with pytest.raises(DataError, match="at least one column"):
        Table({})


def test_concat_appends_rows_after_those_of_the_first_batch():
    first = {"x": torch.tensor([1, 2]), "y": torch.tensor([0, 0])}
    other = {"x": torch.tensor([3]), "y": torch.tensor([1]), "logits": torch.zeros(1, 4)}
    joined = concat(first, None, {}, other)
    assert joined["x"].tolist() == [1, 2, 3]
    assert joined["y"].tolist() == [0, 0, 1]
    assert set(joined) == {"x", "y"}


def test_concat_with_nothing_is_the_batch_itself():
    batch = {"x": torch.zeros(2)}
    assert concat(batch, None, {}) is batch


def test_joining_tables_drops_columns_that_are_not_in_all():
    joined = Table.concat([numbered(2).with_columns(task=torch.zeros(2)), numbered(3)])
    assert set(joined.columns) == {"x", "y"}
    assert joined["y"].tolist() == [0, 1, 0, 1, 2]


def test_a_torch_dataset_of_pairs_becomes_columns_x_and_y():
    dataset = torch.utils.data.TensorDataset(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
    table = Table.from_dataset(dataset)
    assert torch.equal(table["x"], dataset.tensors[0])
    assert table["y"].tolist() == [0, 1, 0, 1]


def test_a_dataset_of_dictionaries_keeps_its_columns():
    table = Table.from_dataset([{"x": torch.ones(2), "y": k, "drawer": 5 - k} for k in range(3)])
    assert table["drawer"].tolist() == [5, 4, 3]


def test_an_iterable_without_a_length_is_read_to_its_end():
    table = Table.from_dataset((torch.tensor([float(k)]), k) for k in range(4))
    assert table["x"].flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "empty"),
        ([torch.zeros(2)], "Item 0 of the dataset is a Tensor"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], "do not stack"),
        ([{"x": 1, "y": 2}, {"x": 1}], "do not stack"),
        ([("words", 0)], "do not stack"),
    ],
)
def test_datasets_that_are_no_tensors_are_refused(dataset, message):
    with pytest.raises(DataError, match=message):
        Table.from_dataset(dataset)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_every_epoch_visits_every_row_once(rows, batch_size, epochs):
    drawn = batches(rows, batch_size, epochs)
    seen = [batch["y"] for batch in drawn]
    assert len(seen) == epochs * -(-rows // batch_size)
    per_epoch = len(seen) // epochs
    for epoch in range(epochs):
        visited = torch.cat(seen[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert visited.sort().values.tolist() == list(range(rows))


def test_epochs_come_in_different_orders_and_the_same_by_seed():
    first, second = (torch.cat([b["y"] for b in batches(50, 10, 2, seed=3)]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[:50], first[50:])
    assert not torch.equal(first, torch.cat([b["y"] for b in batches(50, 10, 2, seed=4)]))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 7), st.integers(1, 3), st.data())
def test_going_on_from_any_position_gives_the_batches_that_were_left(
    rows, batch_size, epochs, data
):
    whole = [batch["y"].tolist() for batch in batches(rows, batch_size, epochs)]
    stop = data.draw(st.integers(0, len(whole)))
    source = batches(rows, batch_size, epochs)
    walk = iter(source)
    for _ in range(stop):
        next(walk)
    state, random = source.state_dict(), source.generator.get_state()
    later = batches(rows, batch_size, epochs, seed=99)
    later.load_state_dict(state)
    later.generator.set_state(random)
    assert [batch["y"].tolist() for batch in later] == whole[stop:]


def test_the_number_of_batches_is_known_before_the_first():
    assert len(batches(10, 4, 3)) == 9
    assert batches(10, 4, 3).per_epoch == 3


def by_epoch(rows: int, batch_size: int, epochs: int, chosen: dict[int, list[int]]) -> Batches:
    def which(epoch: int) -> torch.Tensor | None:
        return torch.tensor(chosen[epoch]) if epoch in chosen else None

    generator = torch.Generator().manual_seed(0)
    return Batches(numbered(rows), batch_size, epochs, generator, which)


def test_an_epoch_goes_through_the_rows_chosen_for_it_in_a_new_order():
    chosen = {0: [1, 3, 5], 2: [0, 2, 4, 6, 8]}
    drawn, seen = by_epoch(9, 2, 3, chosen), {}
    for batch in drawn:
        seen.setdefault(drawn.epoch, []).append(batch["y"])
    assert [len(seen[epoch]) for epoch in range(3)] == [2, 5, 3]
    rows = [torch.cat(seen[epoch]).sort().values.tolist() for epoch in range(3)]
    assert rows == [[1, 3, 5], list(range(9)), [0, 2, 4, 6, 8]]
    assert len(drawn) == drawn.updates() == 10
    assert drawn.updates(accumulate=2) == 1 + 3 + 2


def test_an_epoch_without_rows_makes_no_batch_and_what_remains_is_counted_by_epoch():
    drawn = by_epoch(4, 2, 3, {0: [], 1: [3, 0, 2]})
    left = [drawn.remaining() for _ in drawn]
    assert left == [1, 0, 1, 0]


def test_chosen_rows_go_on_exactly_where_they_were():
    chosen = {0: [1, 3, 5, 7], 1: [0, 2, 4]}
    whole = [batch["y"].tolist() for batch in by_epoch(8, 2, 2, chosen)]
    first = by_epoch(8, 2, 2, chosen)
    begun = [next(iter(first))["y"].tolist()]
    state, chance = first.state_dict(), first.generator.get_state()
    again = by_epoch(8, 2, 2, chosen)
    again.load_state_dict(state)
    again.generator.set_state(chance)
    assert begun + [batch["y"].tolist() for batch in again] == whole


def tens(rows: int = 10) -> Table:
    return Table({"x": torch.arange(rows) * 10, "y": torch.arange(rows) % 3})


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.data())
def test_a_view_answers_like_a_table_of_the_same_rows(chosen, data):
    rows = torch.tensor(chosen)
    marks = torch.arange(len(rows))
    view = View(tens(), rows).with_columns(mark=marks)
    copy = Table(tens()[rows]).with_columns(mark=marks)
    key = torch.tensor(data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=5)), dtype=int)
    assert len(view) == len(copy)
    for part, other in [
        (view.columns, copy.columns),
        (view[key], copy[key]),
        (view[1:4], copy[1:4]),
        (view.take(key).columns, copy.take(key).columns),
        (view.where(view["y"] == 0).columns, copy.where(copy["y"] == 0).columns),
        (Table.concat([view, copy]).columns, Table.concat([copy, copy]).columns),
    ]:
        assert list(part) == list(other)
        assert all(torch.equal(part[name], other[name]) for name in other)
    assert view.nbytes == copy.nbytes
    assert ("mark" in view, "z" in view) == (True, False)


def test_views_of_one_table_are_joined_without_a_copy():
    table = tens()
    joined = Table.concat([View(table, torch.tensor([1, 2])), View(table, torch.tensor([2, 9]))])
    assert isinstance(joined, View)
    assert joined.whole is table
    assert joined["x"].tolist() == [10, 20, 20, 90]
    apart = Table.concat([View(table, torch.tensor([1])), View(tens(), torch.tensor([3]))])
    assert apart["x"].tolist() == [10, 30]


def test_rows_of_a_view_are_found_when_they_are_looked_at_and_once():
    asked = []

    def find():
        asked.append(1)
        return torch.tensor([4, 5])

    view = View(tens(), find, 2)
    assert (len(view), view.to("cpu") is view, asked) == (2, True, [])
    assert view["x"].tolist() == view[torch.tensor([0, 1])]["x"].tolist() == [40, 50]
    assert asked == [1]


def test_a_view_refuses_a_column_of_another_length():
    with pytest.raises(DataError, match="2 rows was given the column 'z' with 3 entries"):
        View(tens(), torch.tensor([1, 2])).with_columns(z=torch.zeros(3))


def test_batches_in_order_go_through_the_rows_as_they_stand_in_every_epoch():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    batches = Batches(tens(5), 2, 2, generator, ordered=True)
    assert [b["x"].tolist() for b in batches] == 2 * [[0, 10], [20, 30], [40]]
    assert torch.equal(generator.get_state(), before)
    chosen = Batches(tens(5), 2, 1, generator, lambda epoch: torch.tensor([3, 0, 2]), True)
    assert [b["x"].tolist() for b in chosen] == [[0, 20], [30]]
