"""A shared start: one model for all methods that begin as plain training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast import start
from holdfast.config import Config
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Observer
from holdfast.run import Stopped, run

BASE = Config(
    "split-digits(limit=40, test_limit=20, experiences=3)",
    "finetune",
    model="mlp(width=16)",
    head="growing",
    epochs=2,
    shared_start=True,
)
PLAIN = ["ewc", "er(storage=herding, capacity=12)", "gem(capacity=12)", "lwf",
         "wa(clip_weights=false)", "expandable_der(capacity=12)", "memo(capacity=12)"]  # fmt: skip


def without_costs(result):
    record = result.record.to_dict()
    return {name: value for name, value in record.items() if name != "cost"}


def test_plain_training_goes_on_from_the_shared_start_as_if_it_had_learned_it_itself(tmp_path):
    config = replace(BASE, until=1)
    shared, alone = run(config), run(replace(config, shared_start=False))
    assert shared.record.matrix == alone.record.matrix
    assert shared.record.steps == [0]
    assert shared.record.cost["steps"] == alone.record.cost["steps"] > 0
    assert shared.record.cost["flops"] == alone.record.cost["flops"]


@pytest.mark.parametrize("method", PLAIN)
def test_methods_that_begin_as_plain_training_begin_at_one_point(method, tmp_path):
    first = run(replace(BASE, until=1)).record.matrix[0][0]
    result = run(replace(BASE, method=method), starts=tmp_path)
    assert result.record.matrix[0][0] == first
    assert result.record.steps[0] == 0
    assert min(result.record.steps[1:]) > 0
    if "capacity" in method:
        assert result.record.cost["examples"] == 12


@pytest.mark.parametrize("method", ["er", "icarl", "bic", "wa", "si", "er(storage=herding)+bic"])
def test_others_learn_their_first_experience_themselves(method):
    result = run(replace(BASE, method=method, until=1))
    alone = run(replace(BASE, method=method, until=1, shared_start=False))
    assert result.record.steps[0] > 0
    assert without_costs(result) == without_costs(alone)


def test_a_method_has_kept_of_the_first_experience_what_it_would_have(tmp_path):
    class Look(Observer):
        def on_experience(self, learner):
            if learner.index == 1:
                seen.append(sorted(learner.method.buffer.columns["y"].tolist()))

    seen = []
    config = replace(BASE, method="er(storage=herding, capacity=12)")
    run(config, observers=[Look()])
    run(replace(config, shared_start=False), observers=[Look()])
    assert seen[0] == seen[1] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_the_model_is_made_once_and_found_again(tmp_path, monkeypatch):
    first = run(BASE, starts=tmp_path)
    monkeypatch.setattr(start, "_trained", None)
    again = run(BASE, starts=tmp_path)
    assert without_costs(again) == without_costs(first)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert without_costs(run(replace(BASE, analyse=True), starts=tmp_path))["matrix"]


def test_a_run_stopped_after_its_start_ends_bit_identical(tmp_path):
    class Stop(Observer):
        def on_step(self, learner):
            if learner.index == 1 and learner.step == 1:
                raise Stopped("Stopped.")

    config = replace(BASE, method="expandable_der(capacity=12)", analyse=True)
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", observers=[Stop()], starts=tmp_path / "starts")
    resumed = run(config, tmp_path / "run", resume=True, starts=tmp_path / "starts")
    assert without_costs(resumed) == without_costs(run(config))


def test_who_may_stop_the_work_may_stop_the_start_too(tmp_path):
    class Stop(Observer):
        stops = True

        def on_step(self, learner):
            raise Stopped("Stopped.")

    with pytest.raises(Stopped, match="trained anew"):
        run(BASE, tmp_path / "run", observers=[Stop()], starts=tmp_path / "starts")
    assert not list((tmp_path / "starts").glob("*.safetensors"))
    assert not (tmp_path / "run").exists()


def test_a_refusal_comes_before_anything_is_trained(tmp_path):
    with pytest.raises(StreamRefused):
        run(replace(BASE, stream="permuted-digits", method="memo"), starts=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kept_optimizer_is_refused():
    with pytest.raises(UsageError, match="optimizer_state='reset'"):
        replace(BASE, optimizer_state="keep")
