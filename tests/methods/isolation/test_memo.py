"""MEMO: what is shared is trained once, what is specialised grows."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from holdfast.errors import StreamRefused
from holdfast.learner import Learner, Observer
from holdfast.method import chain
from holdfast.methods import MEMO, ExpandableDER
from holdfast.models import Classifier, build

CNN = "cnn(width=2, depth=3)"


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("train_shared", [False, True])
def test_early_stages_are_trained_first_and_then_only_if_asked(
    numbered, learned, watching, train_shared
):
    shared, newest = [], []

    def note(self, learner, experience):
        shared.append(state(learner.model.backbone.shared))
        newest.append(state(learner.model.backbone.newest))

    method = chain(MEMO(12, train_shared=train_shared), watching(begin=note, end=note))
    learner = learned(numbered(), method, model=CNN, epochs=1)
    trained = [not same(shared[k], shared[k + 1]) for k in (0, 2, 4)]
    assert trained == [True, train_shared, train_shared]
    assert not any(same(newest[k], newest[k + 1]) for k in (0, 2, 4))
    assert same(newest[1], newest[2])  # a new stage begins as the last one ended
    now = [part.state_dict() for part in learner.model.backbone.parts]
    assert same(newest[1], now[0])
    assert same(newest[3], now[1])


def test_the_model_grows_by_a_last_stage_alone(numbered, learned):
    learner = learned(
        numbered(), MEMO(12), model="mlp(width=16, depth=2)", head="growing", epochs=1
    )
    shared, last = (64 + 1) * 16, (16 + 1) * 16
    heads = 6 * (3 * 16 + 1) + 3 * (16 + 1)
    assert learner.record.cost["model_bytes"] == 4 * (shared + 3 * last + heads)


def test_of_one_stage_nothing_is_shared_and_it_is_expandable_der(numbered, learned):
    one = learned(numbered(), MEMO(12, classifier="retune"), epochs=1)
    other = learned(numbered(), ExpandableDER(12), epochs=1)
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_new_rows_are_aligned_unless_something_else_is_asked_for(numbered, learned):
    learner = learned(numbered(), MEMO(12), head="growing", epochs=1)
    norms = learner.model.head.weight.detach().norm(dim=1)
    assert float(norms[4:].mean()) == pytest.approx(float(norms[:4].mean()), rel=1e-5)
    assert [set(note) & {"gamma", "retuned_on"} for note in learner.record.notes] == [{"gamma"}] * 2


@pytest.mark.parametrize("train_shared", [False, True])
def test_it_goes_on_exactly_from_within_an_experience(numbered, train_shared):
    stream = numbered()

    class Keep(Observer):
        def on_step(self, learner):
            if (learner.index, learner.step) == (2, 3):
                self.state = deepcopy(learner.state_dict())

    def made():
        model = build(CNN, stream, head="growing", seed=1)
        method = MEMO(12, train_shared=train_shared)
        return Learner(model, method, batch_size=10, optimizer_state="keep")

    whole, keep = made(), Keep()
    whole.learn(stream, [keep])
    resumed = made()
    resumed.restore(stream, keep.state)
    resumed.learn(stream)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_a_backbone_that_does_not_tell_its_stages_is_refused(numbered, learned):
    class Opaque(nn.Module):
        def forward(self, x):
            return x.flatten(1).float()

    model = Classifier(Opaque(), nn.Linear(64, 6))
    words = r"MEMO shares all stages .* Opaque does not say .* staged\(\)"
    with pytest.raises(StreamRefused, match=words):
        learned(numbered(), MEMO(), model=model)
    with pytest.raises(StreamRefused, match="has no layers"):
        learned(numbered(), MEMO(), model="mlp(depth=0)")
