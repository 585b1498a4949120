"""Maximally interfered retrieval."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import ER, MIR


def watched(method):
    """Keep what the method's memory answers to each draw."""
    draws, sample = [], method.buffer.sample

    def noting(count, generator):
        draws.append(sample(count, generator))
        return draws[-1]

    method.buffer.sample = noting
    return draws


@pytest.mark.parametrize("model", ["mlp(width=16, depth=1)", "cnn(width=4, depth=2)"])
def test_the_candidates_that_a_step_on_the_batch_would_harm_most_are_replayed(
    numbered, learned, watching, model
):
    method, compared = MIR(capacity=40, batch_size=4, candidates=15), []
    draws = watched(method)

    def batch(self, learner, batch):
        (candidates,), draws[:] = list(draws), []
        rows = learner.stream_rows
        replayed = batch["id"][rows:].tolist()
        if not candidates:
            assert replayed == []
            return batch
        new = learner.incoming
        moved = deepcopy(learner.model)
        assert moved.training
        F.cross_entropy(moved(new["x"]), new["y"]).backward()
        stepped = deepcopy(learner.model)
        with torch.no_grad():
            for parameter, source in zip(stepped.parameters(), moved.parameters(), strict=True):
                parameter -= 0.05 * source.grad
        losses = [
            F.cross_entropy(net(candidates["x"]), candidates["y"], reduction="none")
            for net in (stepped.eval(), deepcopy(learner.model).eval())
        ]
        harm = (losses[0] - losses[1]).tolist()
        by_harm = sorted(range(len(harm)), key=lambda k: -harm[k])
        assert set(replayed) == {int(candidates["id"][k]) for k in by_harm[:4]}
        compared.append(len(harm))
        return batch

    learned(numbered(), chain(method, watching(batch=batch)), model=model)
    assert compared == [10] + [15] * 22, "before, there were 10 in the memory"


def test_what_is_left_of_a_small_memory_is_replayed_whole(numbered, learned, watching):
    sizes = []

    def batch(self, learner, batch):
        sizes.append(len(batch["y"]) - learner.stream_rows)
        return batch

    learned(numbered(), chain(MIR(capacity=8), watching(batch=batch)))
    assert sizes == [0] + [8] * 23


def test_with_as_many_candidates_as_replayed_it_is_experience_replay(numbered, learned):
    plain = learned(numbered(), ER(capacity=30))
    chosen = learned(numbered(), MIR(capacity=30, candidates=10))
    for one, other in zip(plain.parameters, chosen.parameters, strict=True):
        assert torch.equal(one, other)


def test_batch_statistics_are_those_of_training_steps_alone(numbered, learned, watching):
    steps = []

    def step(self, learner):
        (norm,) = [m for m in learner.model.modules() if isinstance(m, torch.nn.BatchNorm2d)][:1]
        steps.append(int(norm.num_batches_tracked))

    method = chain(MIR(capacity=30), watching(step=step))
    learned(numbered(), method, model="cnn(width=4, depth=2)", epochs=1)
    assert steps == list(range(1, 13))


def test_fewer_candidates_than_are_replayed_are_refused(numbered, learned):
    with pytest.raises(UsageError, match="the 30 examples"):
        MIR(batch_size=30, candidates=20)
    with pytest.raises(UsageError, match="the 10 examples"):
        learned(numbered(), MIR(candidates=5))


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"candidates": 0}, {"insert_epochs": 0}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        MIR(**bad)
