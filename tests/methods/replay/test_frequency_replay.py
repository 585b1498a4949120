"""Replay by frequency."""

from itertools import pairwise

import pytest
import torch

from holdfast import models, streams
from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.methods import FrequencyReplay


class Watch(Observer):
    """The classes that are replayed in each experience, and what is held of each."""

    def __init__(self):
        self.replayed, self.held = [], []

    def on_experience(self, learner):
        (method,) = learner.method.parts()
        names = learner.stream.class_names
        self.replayed.append([names[c] for c in method.replayed])
        self.held.append({c: kept(method, c).clone() for c in range(len(names))})


def kept(method, label):
    """What is kept of a class."""
    return method.memory.held["x"][method.rows(label)]


def tens(classes, rows=40):
    """One feature; the class is its tens."""
    y = torch.arange(classes).repeat_interleave(rows)
    return (10.0 * y[:, None] + torch.rand(len(y), 1), y)


def run(counts, method, rows=40):
    """Learn a stream of these counts; what was seen."""
    counts = torch.tensor(counts)
    classes = counts.shape[1]
    stream = streams.occurring(counts, tens(classes, rows), tens(classes))
    watch = Watch()
    Learner(models.build("mlp(width=4)", stream, seed=0), method).learn(stream, [watch])
    return stream, watch


def test_replayed_are_classes_in_the_band_that_came_often_enough():
    # Class 2 comes in experiences 0 to 2 and then never; the others come every time.
    method = FrequencyReplay(capacity=24, low=0.1, high=0.4, trigger=3)
    stream, watch = run([[5, 5, 5]] * 3 + [[5, 5, 0]] * 9, method)
    # Before experience k it was in 3 of k, replays counted: 3/8 is the first share below 0.4.
    # Replayed then, it was in 4 of 9 (too often), in 4 of 10, and so on.
    assert watch.replayed == [[]] * 8 + [["2"], [], ["2"], []]
    gone = stream.class_names.index("2")
    assert method.visits[str(gone)] == 5
    assert kept(method, gone).shape == (8, 1)


def test_a_class_below_the_band_is_left_alone():
    method = FrequencyReplay(capacity=24, low=0.4, high=0.45, trigger=3)
    _, watch = run([[5, 5, 5]] * 3 + [[5, 5, 0]] * 9, method)
    # 3/7 and 4/9 are in the band, 4/8 and 5/10 are above it, and so is 5/11.
    assert watch.replayed == [[]] * 7 + [["2"], [], ["2"], [], []]
    narrow = FrequencyReplay(capacity=24, low=0.3, high=0.32, trigger=3)
    _, watch = run([[5, 5, 5]] * 3 + [[5, 5, 0]] * 9, narrow)
    assert watch.replayed == [[]] * 12, "3/9 is above and 3/10 not above the lower end"


@pytest.mark.parametrize(("trigger", "expected"), [(2, ["2"]), (3, [])])
def test_a_class_that_came_less_often_than_the_trigger_is_left_alone(trigger, expected):
    method = FrequencyReplay(capacity=24, low=0.0, high=0.5, trigger=trigger)
    _, watch = run([[5, 5, 5]] * 2 + [[5, 5, 0]] * 3, method)
    assert watch.replayed[4] == expected


def test_the_least_frequent_come_first_and_as_many_as_the_experience_has():
    # Of six experiences "2" came in five, "3" in three, "4" in four, and "5" in three.
    counts = [
        [5, 5, 5, 5, 5, 5],
        [5, 5, 5, 5, 5, 5],
        [5, 5, 5, 5, 5, 5],
        [5, 5, 5, 0, 5, 0],
        [5, 5, 5, 0, 0, 0],
        [5, 5, 0, 0, 0, 0],
        [5, 5, 0, 0, 0, 0],
    ]
    method = FrequencyReplay(capacity=60, low=0.0, high=0.999, trigger=3)
    _, watch = run(counts, method)
    assert watch.replayed[3] == [], "so far all came in all, which is above the band"
    assert sorted(watch.replayed[4]) == ["3", "5"]
    # Before the sixth: "2" 5/5, "4" 4/5, "3" and "5" 4/5 with the replay.
    assert len(watch.replayed[5]) == 2
    assert "2" not in watch.replayed[5]


@pytest.mark.parametrize(("share", "changed"), [(20, [10, 6, 5]), (400, [200, 133, 100])])
def test_a_visit_renews_its_share_of_what_is_kept_and_nothing_of_other_classes(share, changed):
    method = FrequencyReplay(capacity=3 * share)
    _, watch = run([[share, share, 0]] * 4, method, rows=4 * share)
    counts = [int((before[0] != after[0]).any(1).sum()) for before, after in pairwise(watch.held)]
    assert counts == changed
    assert (watch.held[-1][1] // 10).unique().numel() == 1  # of one class alone
    assert len(watch.held[-1][2]) == 0


def test_a_twentieth_is_renewed_however_often_a_class_came():
    method = FrequencyReplay(capacity=60)
    _, watch = run([[20, 20]] * 32, method, rows=640)
    pairs = pairwise(watch.held[1:])
    counts = [int((before[0] != after[0]).any(1).sum()) for before, after in pairs]
    # Of thirty each; the first visit had twenty.
    assert counts == [max(30 // (visits + 1), 1) for visits in range(2, 32)]


def test_replayed_examples_are_trained_on_beside_the_new_ones():
    method = FrequencyReplay(capacity=18)
    stream, _ = run([[4, 4, 0]] * 2, method)
    learner = Learner(models.build("mlp(width=4)", stream, seed=0), method)
    method.replayed = [0]
    table = method.select(learner, stream[1].train)
    assert isinstance(table, Table)
    assert len(table) == 8 + 6
    assert table["y"][8:].tolist() == [0] * 6


@pytest.mark.parametrize(("chance", "expected"), [(0.0, [0] * 5), (1.0, [0, 2, 2, 2, 2])])
def test_in_place_of_the_band_classes_can_be_drawn(chance, expected):
    counts = [[5, 5, 0, 0], [0, 0, 5, 5], [5, 5, 0, 0], [0, 0, 5, 5], [5, 5, 0, 0]]
    _, watch = run(counts, FrequencyReplay(capacity=40, random=chance))
    assert [len(classes) for classes in watch.replayed] == expected


def test_visits_can_count_as_the_accuracy_on_what_is_kept(monkeypatch):
    known = {0: 1.0, 1: 0.5, 2: 0.25}
    monkeypatch.setattr(FrequencyReplay, "known", lambda self, label, learner: known[label])
    method = FrequencyReplay(capacity=24, low=0.0, high=0.3, trigger=3, count="accuracy")
    stream, watch = run([[5, 5, 5]] * 3 + [[5, 5, 0]] * 2, method)
    assert stream.class_names[2] == "2"
    assert method.counts == {"0": 5.0, "1": 2.5, "2": 1.25}, "replayed twice"
    assert method.visits == {"0": 5, "1": 5, "2": 5}
    assert watch.replayed[3:] == [["2"], ["2"]]  # 0.75 of 3 is in the band; three visits are not


def test_accuracy_is_the_models_on_what_is_kept_of_the_class():
    method = FrequencyReplay(capacity=24)
    stream = streams.occurring(torch.tensor([[5, 5, 5]] * 2), tens(3), tens(3))
    learner = Learner(models.build("mlp(width=4)", stream, seed=0), method)
    learner.learn(stream)
    for part in (learner.model.head.weight, learner.model.head.bias):
        torch.nn.init.zeros_(part)
    with torch.no_grad():
        learner.model.head.bias[1] = 1.0
    assert [method.known(label, learner) for label in range(3)] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"capacity": 0}, "capacity"),
        ({"trigger": 0}, "trigger"),
        ({"low": 0.2}, "low < high"),
        ({"high": 1.5}, "low < high"),
        ({"count": "often"}, "'visits' or 'accuracy'"),
        ({"random": 2.0}, "random must be from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(bad, words):
    with pytest.raises(UsageError, match=words):
        FrequencyReplay(**bad)


def test_less_room_than_classes_is_refused():
    with pytest.raises(StreamRefused, match="3 classes"):
        run([[5, 5, 5]] * 2, FrequencyReplay(capacity=2))
