"""A search that does not peek, is the same however it was interrupted, and says how it chose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from holdfast import search as searching
from holdfast.compare import Watcher
from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.run import Stopped, run
from holdfast.search import Dimension, Plan, search

pytest.importorskip("optuna")

SPACE = (Dimension.read("lr=log(1e-3, 0.3)"), Dimension.read("er.capacity=range(5, 50)"))


class StopAt(Watcher):
    """Presses Ctrl-C when so many trials have finished."""

    def __init__(self, count):
        self.left = count

    def on_finished(self, config, result):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Trials run here, one after another, in their folders, as workers would do them."""

    def work(crew, jobs):
        try:
            for cell in crew.cells:
                folder = crew._folder(cell)
                resume = (folder / "config.json").exists()
                result = run(cell, folder, resume)
                report = {"kind": "finished", "stream": cell.stream, "result": result.to_dict()}
                crew._take(cell, report)
        except KeyboardInterrupt:
            raise crew._stopped() from None

    monkeypatch.setattr(searching._Trials, "work", work)


@pytest.fixture
def own_data(tmp_path):
    """From a name to a stream of points in that file; the test part can be poisoned."""

    def make(name, poison=False):
        draw = np.random.default_rng(0)
        y = np.arange(240) % 6
        x = draw.normal(size=(240, 4)) + 2 * draw.normal(size=(6, 4))[y]
        x_test, y_test = x[:60] + 0.1, y[:60]
        if poison:
            x_test, y_test = 100 * draw.normal(size=(60, 4)), (5 - y_test)
        np.savez(tmp_path / name, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
        return f"split:{tmp_path / name}.npz?experiences=3"

    return make


def plan_of(stream, **changed):
    base = Config(stream, "er(capacity=10)", model="mlp(width=4)", epochs=1)
    return Plan(**{"base": base, "space": SPACE, "trials": 4, "first": 2, **changed})


@pytest.mark.parametrize("protocol", ["first", "end"])
def test_poisoned_test_sets_change_no_choice(own_data, tmp_path, protocol):
    sound = search(plan_of(own_data("sound"), protocol=protocol), tmp_path / "a")
    poisoned = search(plan_of(own_data("poisoned", poison=True), protocol=protocol), tmp_path / "b")
    assert [(t.values, t.score) for t in sound.trials] == [
        (t.values, t.score) for t in poisoned.trials
    ]
    assert sound.best == poisoned.best
    assert sound.config.method == poisoned.config.method
    confirmed = [run(found.config).metrics["average_accuracy"] for found in (sound, poisoned)]
    assert confirmed[0] != confirmed[1]  # the poison does show where test sets are looked at


def test_first_learns_the_first_experiences_alone_and_end_learns_all(own_data, tmp_path):
    stream = own_data("data")
    for protocol, experiences in (("first", 2), ("end", 3)):
        plan = plan_of(stream, protocol=protocol, trials=1)
        assert len(run(plan.trial({})).record.matrix) == experiences
        out = tmp_path / protocol
        search(plan, out)
        held = json.loads((out / "trials" / "00000" / "result.json").read_text())
        assert len(held["matrix"]) == experiences
        assert held["config"]["validation"] == 0.1
    assert "the first 2 experiences" in plan_of(stream).told
    assert "of all experiences" in plan_of(stream, protocol="end").told


def test_an_interrupted_search_ends_as_an_uninterrupted_one(own_data, tmp_path):
    plan = plan_of(own_data("data"), trials=6)
    whole = search(plan, tmp_path / "whole")
    with pytest.raises(Stopped, match="runs to go"):
        search(plan, tmp_path / "parts", watcher=StopAt(2))
    with pytest.raises(Stopped):
        search(plan, tmp_path / "parts", watcher=StopAt(5))
    parts = search(plan, tmp_path / "parts")
    assert parts == whole
    assert [trial.number for trial in parts.trials] == list(range(6))
    assert len({trial.values["lr"] for trial in parts.trials}) == 6


def test_finished_trials_are_kept_and_more_can_be_asked_for(own_data, tmp_path):
    stream = own_data("data")
    few = search(plan_of(stream, trials=2), tmp_path / "s")
    more = search(plan_of(stream, trials=5), tmp_path / "s")
    assert more.trials[:2] == few.trials
    assert len(more.trials) == 5
    assert more.best.score == max(trial.score for trial in more.trials)


def test_a_folder_of_another_search_is_refused(own_data, tmp_path):
    stream = own_data("data")
    search(plan_of(stream, trials=1), tmp_path / "s")
    with pytest.raises(UsageError, match="another space"):
        search(plan_of(stream, trials=1, space=SPACE[:1]), tmp_path / "s")
    with pytest.raises(UsageError, match="another protocol"):
        search(plan_of(stream, trials=1, protocol="end"), tmp_path / "s")


def test_a_trial_that_diverges_is_a_failed_one(own_data, tmp_path, monkeypatch):
    space = (Dimension.read("lr=choice(0.01, 1e30)"),)
    plan = plan_of(own_data("data"), space=space, trials=4)

    def work(crew, jobs):
        for cell in crew.cells:
            if cell.lr > 1:
                crew._take(cell, {"kind": "failed", "error": "It diverged.", "detail": ""})
            else:
                result = run(cell).to_dict()
                crew._take(cell, {"kind": "finished", "stream": cell.stream, "result": result})

    monkeypatch.setattr(searching._Trials, "work", work)
    found = search(plan, tmp_path / "s")
    failed = [trial for trial in found.trials if trial.score is None]
    assert failed
    assert all(trial.error == "It diverged." for trial in failed)
    assert found.best.values == {"lr": 0.01}


def test_a_dimension_reads_what_it_shows():
    for text in ("lr=log(0.001, 0.1)", "epochs=range(1, 9)", "model=choice(mlp, 'cnn(width=4)')"):
        assert str(Dimension.read(text)) == text
        assert Dimension.read(str(Dimension.read(text))) == Dimension.read(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr", "Cannot read the space 'lr'"),
        ("lr=grid(1, 2)", "accepted: NAME=range"),
        ("lr=range(2, 1)", "the smaller one first"),
        ("lr=log(0, 1)", "must be above 0"),
        ("lr=choice(1)", "two or more"),
    ],
)
def test_what_is_no_dimension_is_refused(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        Dimension.read(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("speed=range(1, 2)", "no setting to search 'speed'"),
        ("seed=range(1, 2)", "no setting to search 'seed'"),
        ("ewc.strength=range(1, 2)", "no method to search 'ewc'"),
        ("er.size=range(1, 2)", "no argument 'size'"),
        ("epochs=range(0.5, 2.0)", "epochs must be an integer"),
        ("lr=range(-1.0, 1.0)", "lr must be above 0"),
    ],
)
def test_a_space_of_what_cannot_be_chosen_is_refused_before_anything_runs(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan_of("split-digits", space=(Dimension.read(text),))


def test_the_values_go_where_they_belong():
    config = plan_of("split-digits").config({"lr": 0.2, "er.capacity": 33})
    assert (config.lr, config.method) == (0.2, "er(capacity=33)")
