"""Riemannian walk, against its sums written out."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import RWalk
from holdfast.optim.carry import grown


class Walk:
    """EWC++, scores and their average in doubles, beside the method."""

    def __init__(self, follower, strength, alpha, interval, damping):
        self.alpha, self.interval, self.damping = alpha, interval, damping
        self.fisher, self.scores, self.path, self.descent = {}, {}, {}, {}
        self.start, self.terms, self.negative = {}, None, []
        self.watch = follower(strength, lambda: self.terms, self.moved, self.ended)

    def moved(self, learner, task, before):
        for n, p in learner.named:
            here = p.detach().double()
            if not learner.step:
                self.path[n], self.descent[n] = torch.zeros_like(here), torch.zeros_like(here)
                self.start[n] = before[n]
            old = grown(self.fisher[n], here.shape) if n in self.fisher else task[n] ** 2
            self.fisher[n] = self.alpha * task[n] ** 2 + (1 - self.alpha) * old
            self.descent[n] -= task[n] * (here - before[n])
            if (learner.step + 1) % self.interval == 0:
                self.score(n, here)

    def score(self, n, here):
        divergence = 0.5 * self.fisher[n] * (here - self.start[n]) ** 2
        self.path[n] += self.descent[n] / (divergence + self.damping)
        self.descent[n], self.start[n] = torch.zeros_like(here), here

    def ended(self, learner):
        for n, p in learner.named:
            self.score(n, p.detach().double())
            if learner.index < 2:  # what comes after is not seen in a gradient
                self.negative.append(bool((self.path[n] < 0).any()))
            new = self.path[n].clamp(min=0)
            self.scores[n] = (
                (grown(self.scores[n], new.shape) + new) / 2 if n in self.scores else new
            )
        most = max(float(f.max()) for f in self.fisher.values())
        best = max(float(s.max()) for s in self.scores.values())
        importance = {n: self.fisher[n] / most + self.scores[n] / best for n in self.fisher}
        self.terms = importance, {n: p.detach().double() for n, p in learner.named}


OPTIMIZERS = {
    "plain": partial(torch.optim.SGD, lr=0.1),
    "adam": partial(torch.optim.AdamW, lr=0.01),
}


@pytest.mark.parametrize("head", ["full", "growing"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("alpha", [0.9, 0.2])
def test_every_gradient_has_the_penalty_of_the_walk_so_far(
    numbered, learned, follower, optimizer, alpha, head
):
    """Twelve updates in intervals of five: the last is cut short."""
    arguments = {"strength": 2.0, "alpha": alpha, "interval": 5, "damping": 1e-5}
    walk = Walk(follower, **arguments)
    options = {"optimizer": OPTIMIZERS[optimizer], "head": head, "epochs": 3}
    learned(numbered(), chain(RWalk(**arguments), walk.watch), **options)
    assert {index for index, pulled in walk.watch.compared if pulled} == {1, 2}
    assert any(walk.negative) or (optimizer, head) != ("adam", "full")


def test_both_parts_of_the_importance_reach_one(numbered, learned):
    learner = learned(replace(numbered(), final=False), RWalk())
    method, most = learner.method, []
    for store in (method.fisher, method.scores):
        parts = store.get(learner.named)
        most.append(max(float(part.max()) for part in parts))
        assert all(bool((part >= 0).all()) for part in parts)
    for i, f, s in zip(
        *(each.get(learner.named) for each in (method.importance, method.fisher, method.scores)),
        strict=True,
    ):
        torch.testing.assert_close(i, f / most[0] + s / most[1])


def test_a_walk_on_the_spot_holds_nothing_and_breaks_nothing(numbered, learned):
    learner = learned(numbered(), RWalk(), lr=0.0)
    assert all(bool(s.eq(0).all()) for s in learner.method.scores.get(learner.named))
    assert all(bool(i.isfinite().all()) for i in learner.method.importance.get(learner.named))


def test_memory_is_seven_numbers_a_weight_however_long_the_stream(numbered, learned):
    learner = learned(numbered(), RWalk(interval=3))
    weights = sum(p.numel() for p in learner.parameters)
    held = sum(v.numel() for v in learner.method.state_dict().values() if torch.is_tensor(v))
    assert held == 7 * weights


def test_no_walk_is_followed_for_what_never_comes(numbered, learned, watching):
    method, seen = RWalk(), []

    def step(self, learner):
        if learner.index == 2:
            seen.append([f.clone() for f in method.fisher.get(learner.named)])

    learned(replace(numbered(), final=True), chain(method, watching(step=step)))
    assert len(seen) == 8
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[-1], strict=True))


@pytest.mark.parametrize(
    "arguments",
    [{"strength": -1.0}, {"alpha": 0.0}, {"alpha": 1.5}, {"interval": 0}, {"damping": 0}],
)
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        RWalk(**arguments)
