"""The ways to make a stream of a source."""

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.streams.recipes import permuted, rotated, split
from holdfast.streams.source import Source
from holdfast.streams.sources import digits


@pytest.fixture(scope="module")
def source():
    return digits()


def test_a_split_by_task_tells_the_task_and_by_class_does_not(source):
    by_task = split(source, "s", 0, scenario="task")
    assert by_task.scenario == "task"
    assert [set(e.test["task"].tolist()) for e in by_task] == [{0}, {1}, {2}, {3}, {4}]
    assert "task" not in split(source, "s", 0)[0].train


def test_limits_hold_in_every_experience_with_all_its_classes(source):
    stream = split(source, "s", 0, limit=40, test_limit=10)
    assert [len(e.train) for e in stream] == [40] * 5
    assert [len(e.test) for e in stream] == [10] * 5
    for experience in stream:
        assert experience.test["y"].unique().tolist() == list(experience.classes)


def test_limited_experiences_do_not_depend_on_how_many_come_after(source):
    few, many = (permuted(source, "p", 3, experiences=n, limit=50) for n in (2, 4))
    for short, long in zip(few, many, strict=False):
        assert torch.equal(short.train["x"], long.train["x"])


@pytest.mark.parametrize("recipe", [split, permuted, rotated])
def test_online_is_a_matter_of_the_stream(source, recipe):
    assert recipe(source, "s", 0, online=True).online
    assert not recipe(source, "s", 0).online


def test_the_first_permutation_is_the_identity_unless_asked_otherwise(source):
    stream = permuted(source, "p", 0, experiences=3)
    assert torch.equal(stream[0].train["x"], source.train["x"])
    assert not torch.equal(stream[1].train["x"], source.train["x"])
    other = permuted(source, "p", 0, experiences=3, first="permuted")
    assert not torch.equal(other[0].train["x"], source.train["x"])
    # The same draws, one place later.
    assert torch.equal(other[0].train["x"], stream[1].train["x"])


def test_training_and_test_share_their_permutation_and_experiences_do_not():
    # Every pixel says where it came from.
    places = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(6, -1, -1, -1)
    table = Table({"x": places, "y": torch.arange(6) % 2})
    made = Source("made", table, table.take(slice(0, 2)), ("a", "b"), ((0.0,), (1.0,)))
    orders = set()
    for experience in permuted(made, "p", 1, experiences=4):
        (order,) = experience.train["x"].flatten(1).unique(dim=0).tolist()
        assert sorted(order) == list(range(16))
        assert experience.test["x"].flatten(1).tolist() == [order, order]
        orders.add(tuple(order))
    assert len(orders) == 4


def test_permutations_follow_the_seed(source):
    first, again, other = (permuted(source, "p", seed)[1].train["x"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_angles_spread_evenly_over_the_half_circle_or_go_by_steps(source):
    assert [e.name for e in rotated(source, "r", 0, 4)] == [
        "0 degrees",
        "45 degrees",
        "90 degrees",
        "135 degrees",
    ]
    stream = rotated(source, "r", 0, 3, step=90)
    for quarter, experience in enumerate(stream):
        assert torch.equal(experience.train["x"], source.train["x"].rot90(quarter, (2, 3)))
        assert torch.equal(experience.train["y"], source.train["y"])


def test_angles_may_be_drawn_from_the_half_circle(source):
    few = {"angles": "drawn", "limit": 10, "test_limit": 10}
    degrees = [float(e.name.split()[0]) for e in rotated(source, "r", 3, 60, **few)]
    assert 0 <= min(degrees) < 15 < 75 < sum(degrees) / 60 < 105 < 165 < max(degrees) <= 180
    assert degrees != sorted(degrees)
    again = rotated(source, "r", 3, 2, **few)
    assert [float(e.name.split()[0]) for e in again] == degrees[:2]


@pytest.mark.parametrize("recipe", [permuted, rotated])
def test_domains_keep_bytes_and_all_classes(source, recipe):
    stream = recipe(source, "s", 0)
    assert stream.scenario == "domain"
    assert len(stream) == 5
    for experience in stream:
        assert experience.train["x"].dtype == torch.uint8
        assert experience.classes == tuple(range(10))


def test_features_in_units_of_their_own_are_made_alike_before_they_change_places():
    x = torch.tensor([[0.0, 100.0], [2.0, 300.0]])
    table = Table({"x": x, "y": torch.tensor([0, 1])})
    made = Source("made", table, table, ("a", "b"), ((1.0, 200.0), (1.0, 100.0)))
    stream = permuted(made, "p", 0, experiences=2)
    assert stream.scale == ((0.0,), (1.0,))
    assert stream[0].train["x"].tolist() == [[-1.0, -1.0], [1.0, 1.0]]


def test_a_single_class_cannot_be_split(source):
    one = Source("made", source.train, source.test, ("only",), source.scale)
    with pytest.raises(DataError, match=r"'made' has a single class \(only\)"):
        split(one, "s", 0, experiences=1)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (split, {"experiences": 11}, "10 classes, so it splits into 1 to 10"),
        (split, {"scenario": "domain"}, "scenario must be class or task; given: 'domain'"),
        (split, {"order": "random"}, "order must be seed or natural; given: 'random'"),
        (split, {"limit": 0}, "limit must be a whole number from 1 or none; given: 0"),
        (
            split,
            {"test_limit": 2.5},
            "test_limit must be a whole number from 1 or none; given: 2.5",
        ),
        (rotated, {"angles": "any"}, "angles must be even or drawn; given: 'any'"),
        (rotated, {"angles": "drawn", "step": 9.0}, "step is for angles='even'; given: step=9"),
        (permuted, {"experiences": 0}, "experiences must be a whole number from 1; given: 0"),
        (permuted, {"first": "second"}, "first must be identity or permuted"),
        (rotated, {"step": "far"}, "step must be a number of degrees or none; given: 'far'"),
        (rotated, {"step": float("inf")}, "step must be a number of degrees"),
        (rotated, {"limit": True}, "limit must be a whole number from 1 or none; given: True"),
    ],
)
def test_arguments_out_of_range_are_refused_saying_what_is_accepted(
    source, recipe, arguments, message
):
    with pytest.raises(UsageError, match=message):
        recipe(source, "s", 0, **arguments)


@pytest.mark.parametrize("recipe", [permuted, rotated])
def test_domains_are_scored_as_often_as_asked(source, recipe):
    assert recipe(source, "domains", 0, 4).evaluations == ()
    assert recipe(source, "domains", 0, 4, evaluations=2).evaluations == (1, 3)
    with pytest.raises(UsageError, match="evaluations"):
        recipe(source, "domains", 0, 4, evaluations=0)


def test_the_order_of_the_classes_can_be_given(source):
    order = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
    stream = split(source, "s", 3, class_order=order)
    assert [e.name for e in stream] == ["4, 1", "7, 5", "3, 9", "0, 8", "6, 2"]
    assert torch.equal(
        stream[0].test["x"][stream[0].test["y"] == 0], source.test["x"][source.test["y"] == 4]
    )
    with pytest.raises(UsageError, match=r"each class of 'digits' once, 0 to 9; given: \[0, 1\]"):
        split(source, "s", 0, class_order=[0, 1])


def test_the_first_experience_can_bring_more_classes_than_the_others(source):
    stream = split(source, "s", 3, 4, order="natural", base=4)
    assert [e.classes for e in stream] == [(0, 1, 2, 3), (4, 5), (6, 7), (8, 9)]
    assert sum(len(e.train) for e in stream) == len(source.train)
    assert [len(e.classes) for e in split(source, "s", 3, 3, base=2)] == [2, 4, 4]
    assert [len(e.classes) for e in split(source, "s", 3, 1, base=10)] == [10]


@pytest.mark.parametrize(("experiences", "base"), [(4, 8), (4, 0), (1, 4), (2, True)])
def test_a_first_experience_that_leaves_too_few_classes_is_refused(source, experiences, base):
    with pytest.raises(UsageError, match=f"given: base={base}"):
        split(source, "s", 0, experiences, base=base)
