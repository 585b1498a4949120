"""Requests to forget: what goes and what stays."""

from __future__ import annotations

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.unlearning.request import request

DATA = Table({"x": torch.arange(6.0).view(6, 1), "y": torch.arange(6) % 2})


def ask(forget, **options):
    return request(DATA, torch.tensor(forget, dtype=torch.long), DATA, classes=2, **options)


def test_what_is_not_forgotten_is_retained():
    stream = ask([4, 1])
    assert len(stream) == 1
    assert stream[0].train["x"].flatten().tolist() == [4, 1]
    assert stream[0].sets["retain"]["x"].flatten().tolist() == [0, 2, 3, 5]
    assert stream[0].classes == (0, 1)


@pytest.mark.parametrize(
    ("forget", "options", "complaint"),
    [
        ([], {}, "The forget set is empty"),
        ([0, 1, 2, 3, 4, 5], {}, "The retain set is empty"),
        ([0, 6], {}, r"rows of the forget set lie in 0..6; accepted: 0..5"),
        ([-1], {}, r"lie in -1..-1; accepted: 0..5"),
        ([2, 2], {}, "names some rows twice"),
        (
            [1, 2, 3],
            {"retain": torch.tensor([0, 2, 3])},
            r"2 examples are both to be forgotten and to be retained \(first row 2\)",
        ),
    ],
)
def test_sets_that_are_empty_or_overlap_are_refused(forget, options, complaint):
    with pytest.raises(DataError, match=complaint):
        ask(forget, **options)
