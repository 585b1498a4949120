"""Cumulative training."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from holdfast.data import Batches, Table
from holdfast.method import chain
from holdfast.methods import Cumulative
from holdfast.models import build

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_every_experience_is_trained_on_all_data_so_far(numbered, learned, watching, scenario):
    shown = {0: [], 1: [], 2: []}

    def batch(self, learner, batch):
        shown[learner.index] += batch["id"].tolist()
        return batch

    stream = numbered(scenario)
    learner = learned(stream, chain(Cumulative(), watching(batch=batch)), epochs=1)
    for index, ids in shown.items():
        so_far = [i for e in stream.experiences[: index + 1] for i in e.train["id"].tolist()]
        assert sorted(ids) == sorted(so_far)
    assert learner.record.cost["steps"] == 4 + 8 + 12


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("head", ["full", "growing"])
def test_from_scratch_every_experience_starts_at_the_same_initial_weights(
    numbered, learned, watching, head, from_scratch
):
    starts = []

    def begin(self, learner, experience):
        starts.append({n: p.detach().clone() for n, p in learner.named})

    method = chain(Cumulative(from_scratch), watching(begin=begin))
    learned(numbered(), method, head=head)
    for earlier, later in pairwise(starts):
        same = [torch.equal(later[name][: len(t)], t) for name, t in earlier.items()]
        assert all(same) if from_scratch else not any(same)


@pytest.mark.parametrize("optimizer_state", ["keep", "reset"])
def test_from_scratch_the_last_experience_is_a_training_that_knows_no_other(
    numbered, learned, watching, optimizer_state
):
    """Nothing of earlier trainings is left in the weights, nor in the optimizer's momentum."""
    stream, state = numbered(), {}

    def begin(self, learner, experience):
        state["generator"] = learner.generator.get_state()

    learner = learned(
        stream,
        chain(Cumulative(from_scratch=True), watching(begin=begin)),
        optimizer=MOMENTUM,
        optimizer_state=optimizer_state,
    )
    model = build("mlp(width=16, depth=1)", stream, seed=1)
    generator = torch.Generator()
    generator.set_state(state["generator"])
    optimizer = MOMENTUM(model.parameters())
    for batch in Batches(Table.concat([e.train for e in stream]), 10, 2, generator):
        optimizer.zero_grad()
        F.cross_entropy(model(batch["x"]), batch["y"]).backward()
        optimizer.step()
    for name, tensor in learner.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_it_keeps_what_fine_tuning_forgets(numbered, learned):
    matrix = learned(numbered(), Cumulative(), epochs=6, lr=0.1).record.matrix
    assert min(matrix[-1]) > 0.7
