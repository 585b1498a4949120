"""Task-free continual learning: what is held, when, and for which examples."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import UsageError
from holdfast.memory.storage import greatest_slots
from holdfast.method import chain
from holdfast.methods import TaskFree


@pytest.mark.parametrize(
    ("stored", "rows", "capacity"), [(0, 4, 6), (4, 4, 6), (6, 4, 6), (3, 9, 5)]
)
def test_slots_keep_the_rows_of_greatest_score(stored, rows, capacity):
    generator = torch.Generator().manual_seed(stored)
    held, offered = (torch.rand(n, generator=generator) for n in (stored, rows))
    place = torch.full((capacity + 1,), -1.0)
    place[:stored] = held
    place[greatest_slots(held, capacity, offered)] = offered
    expected = torch.cat([held, offered]).sort(descending=True).values[:capacity]
    kept = place[:capacity][place[:capacity] >= 0].sort(descending=True).values
    assert torch.equal(kept, expected)


def unbounded(stream):
    return replace(stream, boundaries=False)


def importance(learner, rows):
    """Mean over rows of |d sum_c f_c(x)^2 / d theta|, one after another."""
    model = learner.model.eval()
    total = [torch.zeros_like(p) for p in learner.parameters]
    for x in rows["x"]:
        norm = model(x[None]).square().sum()
        for t, g in zip(total, torch.autograd.grad(norm, learner.parameters), strict=True):
            t += g.abs() / len(rows["x"])
    model.train()
    return total


def test_it_holds_at_every_plateau_the_running_mean_of_importance_on_the_hard_buffer(
    numbered, learned, watching
):
    """Everything lies below such bounds: a plateau as soon as the window is full."""
    held, compared = {"n": 0, "omega": None, "theta": None}, []

    def loss(self, learner, batch, outputs, loss):
        expected = F.cross_entropy(outputs, batch["y"])
        if held["n"]:
            terms = zip(held["omega"], learner.parameters, held["theta"], strict=True)
            gap = 0.05 * sum((o * (p - t) ** 2).sum() for o, p, t in terms)
            compared.append(float(gap.detach()))
            expected = expected + gap
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        return loss

    def step(self, learner):
        if method.plateaus_held == held["n"]:
            return
        new = importance(learner, method.buffer.columns)
        old = held["omega"] or [torch.zeros_like(p) for p in new]
        n = held["n"]
        held["omega"] = [(n * o + w) / (n + 1) for o, w in zip(old, new, strict=True)]
        held["theta"] = [p.detach().clone() for p in learner.parameters]
        held["n"] += 1

    method = TaskFree(strength=0.05, capacity=6, window=2, mean=2.0, deviation=0.5, steps=2)
    learned(unbounded(numbered("class", 60)), chain(method, watching(loss=loss, step=step)))
    assert held["n"] >= 2
    assert max(compared) > 1e-4


def test_plateaus_are_those_of_the_losses_before_the_first_step_on_each_batch(
    numbered, learned, watching
):
    from holdfast.optim.plateaus import Plateaus

    losses, first = [], {}

    def loss(self, learner, batch, outputs, loss):
        rows = learner.stream_rows
        key = (learner.index, learner.step)
        if key not in first:
            first[key] = True
            losses.append(float(F.cross_entropy(outputs[:rows], batch["y"][:rows]).detach()))
        return loss

    method = TaskFree(window=3, mean=1.5, deviation=0.5)
    learner = learned(unbounded(numbered("class", 80)), chain(method, watching(loss=loss)))
    by_hand = Plateaus(3, 1.5, 0.5)
    found = [by_hand.see(one) for one in losses]
    # Each is looked at when the next batch comes; the last one never.
    noted = [(n["experience"], n["step"], n["event"]) for n in learner.record.notes]
    keys = list(first)
    expected = [(*keys[place + 1], e) for place, e in enumerate(found[:-1]) if e is not None]
    assert noted == expected
    assert {e for *_, e in noted} == {"plateau", "peak"}


def test_the_hard_buffer_has_the_greatest_losses_of_its_own_and_the_batch(
    numbered, learned, watching
):
    latest, ends = {}, []

    def loss(self, learner, batch, outputs, loss):
        each = F.cross_entropy(outputs.detach(), batch["y"], reduction="none")
        latest.update(ids=batch["id"].tolist(), losses=each.tolist())
        return loss

    def batch(self, learner, batch):
        if latest:
            ranked = sorted(zip(latest["losses"], latest["ids"], strict=True), reverse=True)
            expected = sorted(identity for _, identity in ranked[:7])
            assert sorted(method.buffer.columns["id"].tolist()) == expected
            assert batch["id"][learner.stream_rows :].tolist() == (
                method.buffer.columns["id"].tolist()
            )
            ends.append(expected)
        return batch

    method = TaskFree(capacity=7, steps=1)
    learned(unbounded(numbered()), chain(method, watching(loss=loss, batch=batch)), epochs=1)
    assert len(ends) == 3 * 4 - 1


def test_several_steps_are_made_on_each_batch(numbered, learned, watching):
    seen, moved = [], []

    def batch(self, learner, batch):
        seen.append(tuple(learner.incoming["id"].tolist()))
        return batch

    def step(self, learner):
        moved.append(learner.model.head.weight.detach().clone())

    stream = unbounded(numbered())
    learner = learned(stream, chain(TaskFree(steps=3), watching(batch=batch, step=step)), epochs=1)
    assert len(seen) == 3 * 12
    assert all(len(set(seen[k : k + 3])) == 1 for k in range(0, 36, 3))
    assert len({tuple(w.flatten().tolist()) for w in moved}) == 3 * 12
    assert learner.record.steps == [4, 4, 4]  # batches of the stream


@pytest.mark.parametrize("head", ["full", "growing"])
def test_nothing_is_done_where_an_experience_ends(numbered, learned, monkeypatch, head):
    stream = numbered()
    told = learned(stream, TaskFree(window=2, mean=2.0, deviation=1.0), head=head)
    untold = learned(unbounded(stream), TaskFree(window=2, mean=2.0, deviation=1.0), head=head)
    for a, b in zip(told.parameters, untold.parameters, strict=True):
        assert torch.equal(a, b)
    assert not TaskFree().overrides("end")
    assert not TaskFree().overrides("begin")


@pytest.mark.parametrize(
    "arguments",
    [{"strength": -1.0}, {"capacity": 0}, {"window": 0}, {"steps": 0}, {"mean": 0.0},
     {"deviation": -1.0}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        TaskFree(**arguments)
