"""Scores of unlearned models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.unlearning.request import request
from holdfast.unlearning.scores import Scores, scores, seen


class Known(nn.Module):
    """Says the class that is written in an example."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * nn.functional.one_hot(x[:, 0].long(), 3).float()


def table(said, right):
    return Table({"x": torch.tensor(said).float()[:, None], "y": torch.tensor(right)})


@pytest.fixture
def learner():
    everything = table([0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 1, 2])
    learner = Learner(Known())
    learner.start(request(everything, torch.tensor([3]), everything, classes=3))
    return learner


def test_accuracies_are_counted_by_hand(learner):
    forget, retain = table([0, 1, 1, 2], [0, 1, 2, 0]), table([0, 1, 2, 2], [0, 1, 2, 2])
    test = table([0, 1, 2, 0], [0, 1, 2, 1])
    found = scores(learner, forget, retain, test, seconds=1.5)
    assert (found.unlearning, found.retain, found.test) == (0.5, 1.0, 0.75)
    assert found.seconds == 1.5
    assert found.membership == found.attacks["confidence"]


def test_gaps_are_distances_to_retraining_and_their_mean():
    ours = Scores(0.1, 1.0, 0.9, {"confidence": 0.2})
    gold = Scores(0.3, 0.9, 0.8, {"confidence": 0.6})
    gaps = ours.gaps(gold)
    assert gaps == pytest.approx(
        {"unlearning": 0.2, "retain": 0.1, "test": 0.1, "membership": 0.4, "average": 0.2}
    )
    assert gold.gaps(gold)["average"] == 0


def test_attacks_are_fitted_on_as_many_members_as_outsiders(learner, monkeypatch):
    sizes = []

    def look(members, outsiders, forgotten):
        sizes.append((len(members.labels), len(outsiders.labels), len(forgotten.labels)))
        return {"confidence": 0.0}

    monkeypatch.setattr("holdfast.unlearning.scores.attack", look)
    few, many = table([0, 1, 2], [0, 1, 2]), table([0, 1] * 20, [0, 1] * 20)
    scores(learner, few, many, table([2] * 9, [2] * 9))
    scores(learner, few, few, many)
    scores(learner, few, many, many, attackers=7)
    assert sizes == [(9, 9, 3), (3, 3, 3), (7, 7, 3)]


def test_an_empty_set_is_refused(learner):
    some = table([0], [0])
    with pytest.raises(UsageError, match="The retain set is empty"):
        scores(learner, some, some.take(slice(0, 0)), some)


def test_a_class_without_an_output_has_no_probability(learner):
    said = seen(learner, table([0], [4]))
    assert said.probabilities.shape == (1, 5)
    assert said.probabilities[0, 4] == 0
    assert said.accuracy == 0
