"""Gradient-based sample selection, greedily."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import GSS
from holdfast.models.classifier import Standardise


def watched(method):
    """Keep what the method's memory answers to each draw."""
    draws, sample = [], method.buffer.sample

    def noting(count, generator):
        draws.append(sample(count, generator))
        return draws[-1]

    method.buffer.sample = noting
    return draws


def cosine(one, other):
    return float(torch.dot(one, other) / (one.norm() * other.norm()))


def scores(learner, drawn, size, batches, weights):
    """Largest cosine with a remembered batch, plus 1: one backward pass for each."""
    model = learner.model.eval()
    over = list((model.head if weights == "last" else model).parameters())

    def gradient(rows):
        loss = F.cross_entropy(model(rows["x"]), rows["y"])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, over)])

    def rows(columns, start, count):
        return {k: columns[k][start : start + count] for k in ("x", "y")}

    old = [gradient(rows(drawn, k * size, size)) for k in range(batches)]
    new = [gradient(rows(learner.incoming, k, 1)) for k in range(learner.stream_rows)]
    model.train()
    return [max(cosine(g, o) for o in old) + 1 for g in new]


@pytest.mark.parametrize("weights", ["all", "last"])
@pytest.mark.parametrize("model", ["mlp(width=16, depth=1)", "cnn(width=4, depth=2)"])
def test_examples_are_stored_with_their_scores_and_replaced_if_they_point_away(
    numbered, learned, watching, weights, model
):
    method = GSS(capacity=35, batches=3, weights=weights)
    draws, before, full, entered = watched(method), {}, [], []

    def batch(self, learner, batch):
        replayed, drawn = draws
        draws.clear()
        assert "score" not in batch
        rows = learner.stream_rows
        if replayed:
            assert torch.equal(batch["id"][rows:], replayed["id"])
        held = method.buffer.columns
        after = dict(zip(held["id"].tolist(), held["score"].tolist(), strict=True))
        ids = learner.incoming["id"].tolist()
        if drawn:
            assert len(drawn["y"]) == min(30, len(before))
            batches = len(drawn["y"]) // 10
            expected = scores(learner, drawn, 10, batches, weights)
        else:
            expected = [1.1] * 10
        was_full = len(before) == 35
        room = 35 - len(before)
        for place, (name, score) in enumerate(zip(ids, expected, strict=True)):
            if place < room:
                assert name in after
            if name in after:
                assert after[name] == pytest.approx(score, abs=1e-4)
                assert place < room or score < 1
                entered.append(was_full)
        for name, score in before.items():
            assert after.get(name, score) == score, "what stays keeps its score"
        assert len(after) == min(35, len(before) + len(ids))
        full.append(was_full)
        before.clear()
        before.update(after)
        return batch

    learned(numbered(), chain(method, watching(batch=batch)), model=model, epochs=1)
    assert sum(full) == 8
    assert sum(entered) > 0


@pytest.mark.parametrize(("insert_epochs", "offers"), [(1, 120), (2, 240)])
def test_each_example_is_offered_in_as_many_epochs_as_asked(
    numbered, learned, insert_epochs, offers
):
    learner = learned(numbered(), GSS(capacity=30, insert_epochs=insert_epochs), epochs=3)
    assert learner.method.buffer.seen == offers
    assert len(learner.method.buffer) == 30


def test_a_memory_smaller_than_a_batch_is_one_batch(numbered, learned):
    learner = learned(numbered(), GSS(capacity=4), batch_size=10)
    assert len(learner.method.buffer) == 4
    assert learner.method.buffer.columns["score"].isfinite().all()


def test_batch_size_sets_how_many_are_replayed(numbered, learned, watching):
    sizes = []

    def batch(self, learner, batch):
        sizes.append(len(batch["y"]) - learner.stream_rows)
        return batch

    learned(numbered(), chain(GSS(capacity=30, batch_size=3), watching(batch=batch)))
    assert sizes == [0] + [3] * 23


def test_choosing_changes_neither_running_statistics_nor_chance_of_the_model(
    numbered, learned, watching
):
    steps = []

    def step(self, learner):
        (norm,) = [m for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d)][:1]
        steps.append(int(norm.num_batches_tracked))
        assert learner.model.training

    method = chain(GSS(capacity=30), watching(step=step))
    learned(numbered(), method, model="cnn(width=4, depth=2)", epochs=1)
    assert steps == list(range(1, 13))


def test_the_last_layer_of_a_model_that_is_not_split_is_refused(numbered, learned):
    whole = nn.Sequential(Standardise((0.0,), (16.0,)), nn.Flatten(), nn.Linear(64, 6))
    with pytest.raises(StreamRefused, match="weights='last' needs a model split"):
        learned(numbered(), GSS(weights="last"), model=whole)
    learned(numbered(), GSS(), model=whole, epochs=1)


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"batches": 0}, {"weights": "first"}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        GSS(**bad)
