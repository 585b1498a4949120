"""From one data set to a stream."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.streams.source import (
    Source,
    class_incremental,
    domain_incremental,
    drawn_order,
    scale_of,
)


def source(classes: int, rows: int = 40) -> Source:
    y = torch.arange(rows) % classes
    table = Table({"x": torch.arange(rows).float().unsqueeze(1), "y": y})
    names = tuple(f"class {label}" for label in range(classes))
    return Source("made", table, table.take(slice(0, 2 * classes)), names, ((0.0,), (1.0,)))


@settings(deadline=None)
@given(st.integers(1, 12), st.data(), st.integers(0, 50))
def test_a_split_is_a_partition_of_the_data_and_of_the_classes(classes, data, seed):
    experiences = data.draw(st.integers(1, classes))
    stream = class_incremental(source(classes), experiences, seed)
    rows = torch.cat([experience.train["x"] for experience in stream]).flatten()
    assert rows.sort().values.tolist() == list(range(40))
    arrived = [label for experience in stream for label in experience.classes]
    assert arrived == list(range(classes))
    sizes = [len(experience.classes) for experience in stream]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 50))
def test_an_example_keeps_its_class_by_name_when_labels_are_renumbered(classes, seed):
    stream = class_incremental(source(classes), 1, seed)
    for table in (stream[0].train, stream[0].test):
        for row, label in zip(table["x"].flatten().tolist(), table["y"].tolist(), strict=True):
            assert stream.class_names[label] == f"class {int(row) % classes}"


def test_experiences_are_called_after_their_classes():
    stream = class_incremental(source(4), 2, None)
    assert [experience.name for experience in stream] == ["class 0, class 1", "class 2, class 3"]


def test_without_a_seed_classes_come_in_their_natural_order():
    assert drawn_order(5, None).tolist() == [0, 1, 2, 3, 4]


def test_the_order_of_classes_follows_the_seed():
    assert drawn_order(20, 1).tolist() == drawn_order(20, 1).tolist()
    assert drawn_order(20, 1).tolist() != drawn_order(20, 2).tolist()
    assert sorted(drawn_order(20, 1).tolist()) == list(range(20))


@pytest.mark.parametrize("experiences", [0, 5])
def test_a_split_has_at_least_one_class_an_experience(experiences):
    with pytest.raises(UsageError, match=rf"4 classes, so it splits.*given: {experiences}"):
        class_incremental(source(4), experiences)


def test_domains_hold_all_classes_under_their_names():
    made = source(3)
    stream = domain_incremental(made, [("a", made.train, made.test)] * 2, "both")
    assert stream.scenario == "domain"
    assert [experience.classes for experience in stream] == [(0, 1, 2)] * 2
    assert [experience.name for experience in stream] == ["a", "a"]


def test_the_scale_of_bytes_is_that_of_the_same_numbers_as_floats():
    x = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    mean, deviation = scale_of(x)
    values = x.double().transpose(0, 1).flatten(1)
    assert mean == pytest.approx(values.mean(1).tolist())
    assert deviation == pytest.approx(values.std(1, correction=0).tolist())
    assert scale_of(x.float()) == (pytest.approx(mean), pytest.approx(deviation))


def test_vectors_have_one_scale_or_one_by_feature():
    x = torch.tensor([[0.0, 100.0], [2.0, 300.0]])
    assert scale_of(x) == ((100.5,), (pytest.approx(122.0, abs=0.5),))
    assert scale_of(x, by_feature=True) == ((1.0, 200.0), (1.0, 100.0))


def test_a_constant_can_still_be_divided_by_its_deviation():
    assert scale_of(torch.full((5, 1, 2, 2), 9, dtype=torch.uint8)) == ((9.0,), (1.0,))
