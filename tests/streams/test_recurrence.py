"""Recipes of generated streams: what a spec says is what comes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.errors import DataError, UsageError
from holdfast.streams.arrival import blurry, few_shot, gaussian, long_tailed
from holdfast.streams.recurrence import mixed, recurring, rehearsed
from holdfast.streams.source import Source
from holdfast.streams.sources import digits


@pytest.fixture(scope="module")
def source() -> Source:
    return digits()


def test_all_examples_of_the_classes_come_unless_there_is_a_limit(source) -> None:
    sizes = dict(zip(source.class_names, source.train["y"].bincount().tolist(), strict=True))
    stream = recurring(source, "s", 0, experiences=20, classes=3)
    for experience in stream:
        names = [stream.class_names[c] for c in experience.classes]
        assert len(names) == 3
        assert len(experience.train) == sum(sizes[name] for name in names)
    limited = recurring(source, "s", 0, experiences=20, classes=3, limit=60)
    assert [e.classes for e in limited] == [e.classes for e in stream]
    assert all(e.train["y"].bincount()[list(e.classes)].tolist() == [20] * 3 for e in limited)


def test_a_pool_keeps_classes_in_proportion(source) -> None:
    stream = recurring(source, "s", 0, experiences=5, sampler="all", pool=100)
    assert [len(e.train) for e in stream] == [100] * 5
    assert int(stream[0].train["y"].bincount().max()) <= 11


def test_every_class_has_a_test_set_and_a_limit_leaves_each_some(source) -> None:
    stream = recurring(source, "s", 0, experiences=5, test_limit=30)
    assert sum(len(t.table) for t in stream.tests) == 30
    assert len(stream.tests) == 10
    with pytest.raises(UsageError, match="at least 10, one for each class"):
        recurring(source, "s", 0, test_limit=9)


def test_corruptions_change_the_training_images_of_each_experience(source) -> None:
    plain = recurring(source, "s", 0, experiences=4, limit=20)
    bad = recurring(source, "s", 0, experiences=4, limit=20, severity=3)
    for a, b in zip(plain, bad, strict=True):
        assert torch.equal(a.train["y"], b.train["y"])
        assert not torch.equal(a.train["x"].float(), b.train["x"].float())
        assert torch.equal(a.test["x"], b.test["x"])


def test_a_corruptions_severity_can_be_drawn_for_each_experience(source):
    plain, drawn = (
        recurring(source, "s", 0, experiences=60, limit=4, severity=severity)
        for severity in (0, -1)
    )
    same = sum(
        torch.equal(one.train["x"], other.train["x"])
        for one, other in zip(plain, drawn, strict=True)
    )
    # A fifth has none: 12, with a deviation of 3.1; the weakest may leave an image as it is.
    assert 2 <= same <= 30


def test_rehearsed_tasks_are_those_of_the_matrix(source) -> None:
    stream = rehearsed(source, "r", 0, 4, "uniform", 0.6, limit=100)
    assert [len(e.train) for e in stream] == [100, 160, 160, 160]
    size = len(source.train)
    for phase, experience in enumerate(stream):
        task = experience.train.rows // size
        earlier = task.bincount(minlength=4)[:phase]
        assert int((task == phase).sum()) == 100
        assert earlier.max() - earlier.min() <= 1 if phase else True
    assert [t.since for t in stream.tests] == [0, 1, 2, 3]


def test_rehearsal_may_draw_from_a_few_stored_examples_of_each_task(source) -> None:
    make = partial(rehearsed, source, "r", 0, 4, "uniform", 0.6, limit=100)
    stream, fresh = make(stored=15), make()
    size = len(source.train)
    met = {j: set() for j in range(4)}
    for phase, experience in enumerate(stream):
        rows = experience.train.rows
        assert len(rows) == len(fresh[phase].train)
        for task in range(phase + 1):
            own = rows[rows // size == task].tolist()
            if task == phase:
                assert len(set(own)) == 100
                first = set(own)
                met[task] = first
            else:
                assert len(set(own)) <= 15
                assert set(own) <= met[task], "of those that came when the task was new"
                times = torch.tensor(own).unique(return_counts=True)[1]
                assert int(times.max() - times.min()) <= 1, "as often as it takes"
    last = [set(e.train.rows[e.train.rows // size == 0].tolist()) for e in list(stream)[1:]]
    assert len(set.union(*last)) == 15
    with pytest.raises(UsageError, match="at most the 100 examples"):
        make(stored=101)


def test_tasks_may_be_classes_in_turn(source) -> None:
    stream = rehearsed(source, "r", 0, 5, "all", tasks="split", limit=50)
    assert stream.scenario == "class"
    assert [len(e.classes) for e in stream] == [2, 4, 6, 8, 10]
    assert [len(e.train) for e in stream] == [50, 100, 150, 200, 250]


def test_mixed_experiences_have_all_tasks(source) -> None:
    stream = mixed(source, "m", 0, 4, own=0.7, limit=100, tasks="rotated")
    size = len(source.train)
    for place, experience in enumerate(stream):
        found = (experience.train.rows // size).bincount(minlength=4).tolist()
        assert found == [70 if task == place else 10 for task in range(4)]


def test_every_example_of_a_blurred_stream_comes_once(source) -> None:
    for stochastic in (False, True):
        stream = blurry(source, "b", 0, stochastic=stochastic)
        assert stream.online
        rows = torch.cat([e.train.rows for e in stream])
        assert rows.sort().values.tolist() == list(range(len(source.train)))


def test_gradual_streams_have_no_boundaries_and_keep_their_order(source) -> None:
    stream = gaussian(source, "g", 0, experiences=50)
    assert not stream.boundaries
    assert stream.online
    assert all(e.ordered for e in stream)
    assert {len(e.train) for e in stream} == {len(source.train) // 50}
    rows = torch.cat([e.train.rows for e in stream]).bincount(minlength=len(source.train))
    assert rows.max() <= 2  # about once each, as the classes' sizes allow


def test_a_long_tail_is_arranged_as_asked(source) -> None:
    down = long_tailed(source, "l", 0, 10, factor=0.1, arrangement="descending")
    sizes = [len(e.train) for e in down]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] / sizes[0] == pytest.approx(0.1, abs=0.015)
    up = long_tailed(source, "l", 0, 10, factor=0.1, arrangement="ascending")
    assert [len(e.train) for e in up] == sorted(len(e.train) for e in up)


def test_after_the_base_there_are_few_examples_of_each_class(source) -> None:
    stream = few_shot(source, "f", 0, experiences=3, base=6, shots=4)
    assert [len(e.classes) for e in stream] == [6, 2, 2]
    assert [len(e.train) for e in stream][1:] == [8, 8]
    assert len(stream[0].train) > 800


def test_what_cannot_be_is_refused_saying_what_is_accepted(source) -> None:
    for recipe, arguments, message in [
        (recurring, {"sampler": "uniformly"}, "no sampler 'uniformly'. Did you mean 'uniform'"),
        (recurring, {"classes": 11}, "has 10 classes, so at most as many come together"),
        (
            recurring,
            {"decrease": 2.0, "sampler": "cyclic"},
            "decrease must be 0 or more, and is for",
        ),
        (
            recurring,
            {"severity": 6},
            "severity must be a whole number from 0 to 5, or -1, .*; given: 6",
        ),
        (recurring, {"replaced": 1.5}, "replaced must be a share from 0 to 1"),
        (recurring, {"damping": 0.5}, "damping must be at least 1"),
        (recurring, {"evaluations": 0}, "evaluations must be at least 1; given: 0"),
        (recurring, {"labels": 0.0}, "labels must be a share above 0"),
        (recurring, {"draws": "once"}, "draws must be deck or fresh"),
        (rehearsed, {"rehearsal": "linear"}, "rehearsal must be none or uniform"),
        (rehearsed, {"decay": 0.0}, "decay must be above 0"),
        (rehearsed, {"tasks": "coloured"}, "tasks must be permuted or rotated or split"),
        (mixed, {"own": -0.1}, "own must be a share"),
        (blurry, {"experiences": 11}, "takes 1 to 10 experiences; given: 11"),
        (blurry, {"blur": 2}, "blur must be a share"),
        (gaussian, {"width": 0.0}, "width must be above 0"),
        (long_tailed, {"factor": 0.0}, "factor must be above 0"),
        (long_tailed, {"arrangement": "up"}, "arrangement must be seed or descending"),
        (few_shot, {"base": 9, "experiences": 3}, "leave none for some of 2 later ones"),
    ]:
        with pytest.raises(UsageError, match=message):
            recipe(source, "s", 0, **arguments)
    flat = replace(
        source,
        train=source.train.with_columns(x=source.train["x"].flatten(1)),
        test=source.test.with_columns(x=source.test["x"].flatten(1)),
    )
    with pytest.raises(DataError, match="images"):
        recurring(flat, "s", 0, experiences=2, severity=1)[0].train["x"]
