"""Parts of a stream with which settings are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast import streams
from holdfast.errors import DataError, UsageError
from holdfast.stream import TestSet
from holdfast.streams.validation import held_out, until


def test_held_out_rows_are_training_rows_and_no_test_row_is_left():
    stream = streams.build("split-digits").with_ids()
    parted = held_out(stream, 0.2, seed=0)
    for whole, part in zip(stream, parted, strict=True):
        both = torch.cat([part.train["id"], part.test["id"]])
        assert torch.equal(both.sort().values, whole.train["id"])
        assert len(part.test) == pytest.approx(0.2 * len(whole.train), abs=2)
        assert set(part.test["y"].tolist()) == set(whole.classes)


def test_the_draw_is_by_seed_and_each_experiences_own():
    stream = streams.build("split-digits").with_ids()
    held = held_out(stream, 0.1, 3)
    again, other, first = held_out(stream, 0.1, 3), held_out(stream, 0.1, 4), until(stream, 1)
    assert torch.equal(held[1].test["id"], again[1].test["id"])
    assert not torch.equal(held[1].test["id"], other[1].test["id"])
    assert torch.equal(held_out(first, 0.1, 3)[0].test["id"], held[0].test["id"])


def test_every_class_keeps_an_example_to_learn_from(make_stream):
    stream = make_stream(2, 2, rows=4)  # two of each class
    parted = held_out(stream, 0.9, 0)
    assert [sorted(e.train["y"].tolist()) for e in parted] == [[0, 1], [2, 3]]
    assert [sorted(e.test["y"].tolist()) for e in parted] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="too few"):
        held_out(make_stream(2, 2, rows=2), 0.5, 0)


def test_the_first_experiences_keep_their_classes():
    stream = until(streams.build("split-digits"), 2)
    assert len(stream) == 2
    assert stream.classes == 10
    with pytest.raises(UsageError, match="given: 6"):
        until(streams.build("split-digits"), 6)


def test_evaluations_end_with_the_last_experience_that_is_learned():
    stream = replace(streams.build("split-digits"), evaluations=(1, 4))
    assert until(stream, 3).evaluations == (1, 2)
    assert until(stream, 2).evaluations == (1,)
    until(stream, 3).validated()


def test_streams_that_are_scored_as_a_whole_are_refused(make_stream):
    stream = make_stream()
    whole = replace(stream, tests=(TestSet("all", stream[0].test),))
    for part in (lambda: held_out(whole, 0.1, 0), lambda: until(whole, 1)):
        with pytest.raises(UsageError, match="scored as a whole"):
            part()
    with pytest.raises(UsageError, match="above 0 and below 1"):
        held_out(stream, 1.0, 0)
