"""How far modules move, by hand."""

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models.groups import by_kind_and_depth
from holdfast.optim.dynamics import Dynamics, sensitive, tensors


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def shifted(net, linear=0.0, norm=0.0, head=0.0, mean=0.0):
    """Every weight of a module by so much."""
    with torch.no_grad():
        for part, by in zip(net, (linear, norm, head), strict=True):
            for weight in part.parameters():
                weight += by
        net[1].running_mean += mean


def test_a_change_is_the_mean_over_a_modules_weights_epoch_by_epoch(net):
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    dynamics.begin(groups)
    with torch.no_grad():
        net[0].weight[0, 0] += 0.9  # one of nine weights
        net[0].weight[1, 0] -= 0.9
    dynamics.measure(groups, task=0)
    shifted(net, linear=-0.5, head=2.0, mean=3.0)
    dynamics.measure(groups, task=0)
    history = dynamics.history()
    assert [task for task, _ in history["head"]] == [0, 0]
    assert [d for _, d in history["linear-1"]] == pytest.approx([0.2, 0.5])
    assert [d for _, d in history["norm-1"]] == [0, 0]
    assert [d for _, d in history["head"]] == pytest.approx([0, 2.0])
    # The mean of three means and three variances, apart from the scales and shifts.
    assert [d for _, d in history["statistics norm-1"]] == pytest.approx([0, 1.5])


def test_a_leap_is_the_first_epoch_of_a_task_over_the_last_of_the_one_before(net):
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    epochs = [(0, 8.0, 1.0), (0, 2.0, 1.0), (1, 4.0, 3.0), (1, 1.0, 1.0), (2, 4.0, 5.0)]
    for task, linear, head in epochs:
        dynamics.begin(groups)
        assert bool(dynamics.scores()) == (task > 0 and len(dynamics.tasks) > 2)
        shifted(net, linear=linear, head=head)
        dynamics.measure(groups, task)
    found = dynamics.scores("leap")
    assert found == pytest.approx(
        {"linear-1": (4 / 2 + 4 / 1) / 2, "norm-1": 0, "head": (3 + 5) / 2}
    )


def test_a_change_of_tasks_is_from_end_to_end(net):
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    for linear, head in ((9.0, 9.0), (1.0, -2.0), (3.0, 4.0)):
        dynamics.begin(groups)
        shifted(net, linear=linear, head=head)
        dynamics.end(groups)
    dynamics.names = ["linear-1", "norm-1", "head", "statistics norm-1"]
    found = dynamics.scores("change")
    assert found == pytest.approx({"linear-1": 2.0, "norm-1": 0.0, "head": 3.0})


def test_what_is_passed_over_is_not_measured(net):
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    dynamics.begin(groups)
    shifted(net, linear=1.0)
    was = [tensor.clone() for tensor in tensors(groups)]
    shifted(net, linear=7.0, head=7.0)
    dynamics.pass_over(groups, was)
    shifted(net, linear=0.5)
    dynamics.measure(groups, 0)
    history = dynamics.history()
    assert history["linear-1"][0][1] == pytest.approx(1.5)
    assert history["head"][0][1] == pytest.approx(0.0, abs=1e-6)


def test_nor_between_the_ends_of_tasks(net):
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    dynamics.begin(groups)
    dynamics.end(groups)
    shifted(net, linear=1.0)
    was = [tensor.clone() for tensor in tensors(groups)]
    shifted(net, linear=7.0, head=7.0)
    dynamics.pass_over(groups, was)
    shifted(net, linear=0.5)
    dynamics.measure(groups, 1)
    dynamics.end(groups)
    assert dynamics.scores("change")["linear-1"] == pytest.approx(1.5)
    assert dynamics.scores("change")["head"] == pytest.approx(0.0, abs=1e-6)


def test_frozen_weights_are_not_counted(net):
    net[0].weight.requires_grad_(False)
    dynamics, groups = Dynamics(), by_kind_and_depth(net)
    dynamics.begin(groups)
    shifted(net, linear=2.0)
    dynamics.measure(groups, 0)
    assert dynamics.history()["linear-1"][0][1] == pytest.approx(2.0)
    net.requires_grad_(False)
    still, groups = Dynamics(), by_kind_and_depth(net)
    still.begin(groups)
    still.measure(groups, 0)
    assert list(still.history()) == ["statistics norm-1"], "no weight is trained"


def test_the_sensitive_are_above_the_geometric_mean_or_as_many_as_asked():
    scores = {"a": 1.0, "b": 8.0, "c": 4.0, "d": 1.0, "frozen": 0.0}  # mean of logs: 32^(1/4) < 4
    assert sensitive(scores) == ["b", "c"]
    assert sensitive({name: 100 * score for name, score in scores.items()}) == ["b", "c"]
    assert sensitive(scores, top=1) == ["b"]
    assert sensitive({"a": 0.0, "b": 0.0}) == ["a", "b"]
    with pytest.raises(UsageError, match="the 5 modules"):
        sensitive(scores, top=6)


def test_a_score_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="'leap' or 'change'"):
        Dynamics().scores("size")
