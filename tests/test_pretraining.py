"""Annealing on a branch leaves no trace, and a stage's losses are told apart."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.method import Method, chain
from holdfast.methods import ER, EWC, Replay
from holdfast.optim.stages import Infinite, warmup_cosine
from holdfast.pretraining import adaptation_forgetting, anneal_branch
from holdfast.testing import small_stream
from holdfast.testing.comparison import equal, require_same
from holdfast.testing.trials import small_llama

INFINITE = Infinite(warmup=2, cooldown=4, level=0.5, floor=0.05)


def learner_for(method: Method | None = None, **options: Any) -> Learner:
    options = {"schedule": INFINITE, "optimizer_state": "keep", **options}
    return Learner(
        small_llama(),
        method,
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        batch_size=8,
        pretrained=True,
        seed=1,
        **options,
    )


class Branch:
    """Anneals a branch after every experience."""

    def __init__(self, updates: int = 4) -> None:
        self.updates, self.losses, self.rates = updates, [], []  # type: ignore[var-annotated]

    def on_step(self, learner: Learner) -> None: ...

    def on_experience(self, learner: Learner) -> None:
        before = learner.test_sets.score(learner).measures["loss"]
        with anneal_branch(learner, self.updates) as model:
            assert model is learner.model
            self.losses.append((before, learner.test_sets.score(learner).measures["loss"]))
            self.rates.append(learner.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: Replay(0.3, source="past+buffer", order="random"),
        lambda: chain(ER(capacity=10), EWC(examples=4)),
    ],
)
def test_a_life_with_branches_is_the_life_without_them(make: Any) -> None:
    stream = small_stream("text")
    plain, branched, branch = learner_for(make()), learner_for(make()), Branch()
    plain.learn(stream)
    branched.learn(stream, [branch])  # type: ignore[list-item]
    require_same(plain, branched, "Lives with and without annealed branches")
    for key, value in plain.optimizer.state_dict()["state"].items():
        other = branched.optimizer.state_dict()["state"][key]
        assert all(equal(value[name], other[name]) for name in value)
    assert plain.updates == branched.updates
    assert torch.equal(plain.generator.get_state(), branched.generator.get_state())


def test_a_branch_is_trained_on_from_the_constant_rate_down_to_the_floor() -> None:
    branch = Branch(updates=4)
    learner_for().learn(small_stream("text"), [branch])  # type: ignore[list-item]
    last = 0.01 * 0.5 * (0.05 / 0.5) ** (3 / 4)  # of the fourth update
    assert branch.rates == pytest.approx([last] * 3)
    for index, (before, after) in enumerate(branch.losses):
        assert after[index] < before[index]


def test_a_branch_may_take_more_updates_than_its_data_have_batches() -> None:
    learner = learner_for()
    learner.learn(small_stream("text"))
    made, steps = learner.updates, learner.record.steps
    with anneal_branch(learner, updates=13):
        assert learner.updates == made + 13
    assert learner.updates == made
    assert learner.record.steps == steps


def test_a_branch_that_fails_leaves_no_trace_either() -> None:
    learner = learner_for()
    learner.learn(small_stream("text"))
    before = {name: weight.clone() for name, weight in learner.model.state_dict().items()}
    with pytest.raises(RuntimeError, match="mine"), anneal_branch(learner, 2):
        raise RuntimeError("mine")
    assert all(torch.equal(w, before[n]) for n, w in learner.model.state_dict().items())
    assert learner.schedule is INFINITE


def test_what_cannot_be_annealed_is_refused() -> None:
    with pytest.raises(UsageError, match="learned none"), anneal_branch(learner_for(), 2):
        pass
    other = learner_for(schedule=warmup_cosine())
    other.learn(small_stream("text"))
    with pytest.raises(UsageError, match=r"Infinite\(\.\.\.\)"), anneal_branch(other, 2):
        pass
    with pytest.raises(UsageError, match="updates must be at least 1"), anneal_branch(other, 0):
        pass


def test_forgetting_adaptation_and_the_transient_are_told_from_a_way() -> None:
    way = [{"a": 1.0, "b": 5.0}, {"a": 2.5, "b": 3.0}, {"a": 1.25, "b": 2.0}]
    told = adaptation_forgetting(way, old="a", new="b")
    assert (told.forgetting, told.adaptation, told.transient) == (0.25, 3.0, 1.5)
    assert (told.old_after, told.new_after) == (1.25, 2.0)


def test_ways_that_tell_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="1 looks were given"):
        adaptation_forgetting([{"old": 1.0, "new": 1.0}])
    with pytest.raises(UsageError, match="no loss named 'new'"):
        adaptation_forgetting([{"old": 1.0}, {"old": 1.0}])
