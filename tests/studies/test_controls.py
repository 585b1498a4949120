"""Arms are compared where they have made as many updates, or learned as much."""

import math

import pytest

from holdfast.learner import Learner
from holdfast.studies import controls
from holdfast.studies.study import Results
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama

FAST = [
    {"update": 0.0, "new": 4.0, "old": 1.0},
    {"update": 10.0, "new": 2.0, "old": 3.0},
    {"update": 20.0, "new": 1.0, "old": 5.0},
]
SLOW = [
    {"update": 0.0, "new": 4.0, "old": 1.0},
    {"update": 10.0, "new": 3.0, "old": 1.5},
    {"update": 20.0, "new": 2.0, "old": 2.0},
]


def test_the_old_loss_is_read_where_the_new_one_comes_down_to_the_target():
    assert controls.reached(FAST, 3.0) == 2.0
    assert controls.reached(FAST, 1.5) == 4.0
    assert controls.reached(SLOW, 4.0) == 1.0
    assert math.isnan(controls.reached(SLOW, 1.9))


def test_equal_new_loss_is_the_best_that_both_reach():
    assert controls.rises_at_equal_new_loss(SLOW, FAST) == (1.0, 2.0)


def test_equal_updates_are_those_of_the_shorter_run():
    assert controls.rises_at_equal_updates(SLOW[:2], FAST) == (0.5, 2.0)


def test_the_cut_is_the_share_of_forgetting_that_is_avoided():
    results = Results({"slow": [{"way": SLOW}], "plain": [{"way": FAST}]})
    assert controls.cut_at_equal_new_loss(results, "slow", "plain") == [0.5]
    assert controls.cut_at_equal_updates(results, "slow", "plain") == [0.75]
    assert controls.cut_at_equal_updates(results, "plain", "plain") == [0.0]


def test_watching_changes_nothing_and_its_losses_are_those_of_the_record():
    def learned(observers):
        stream = small_stream("text")
        learner = Learner(small_llama(), batch_size=8, pretrained=True, seed=1)
        watch = controls.Watch({"old": stream[0].test, "new": stream[2].test}, every=3)
        learner.start(stream)
        watch.look(learner)
        record = learner.learn(stream, [watch] if observers else [])
        return record, watch.way

    (seen, way), (unseen, _) = learned(True), learned(False)
    assert seen.matrix == unseen.matrix
    # Rows differ in length, so that the mean over examples and that over tokens differ a little.
    assert way[0]["old"] == pytest.approx(seen.measures["loss"][0][0], rel=1e-2)
    assert way[-1]["new"] == pytest.approx(seen.measures["loss"][-1][2], rel=1e-2)
    assert way[-1]["update"] == 15
