"""Experience replay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain, refuse_unfit
from holdfast.methods import ER, MIR
from holdfast.models import build
from holdfast.testing import small_stream


def test_the_first_rows_of_a_batch_are_the_streams_and_the_others_from_memory(
    numbered, learned, watching
):
    stored, replayed = set(), []

    def batch(self, learner, batch):
        rows = learner.stream_rows
        for name, column in learner.incoming.items():
            assert torch.equal(batch[name][:rows], column)
        drawn = batch["id"][rows:].tolist()
        assert len(set(drawn)) == len(drawn), "drawn without replacement"
        assert set(drawn) <= stored, "nothing is replayed before it was stored"
        replayed.append(len(drawn))
        stored.update(learner.incoming["id"].tolist())
        return batch

    learned(numbered(), chain(ER(capacity=30), watching(batch=batch)))
    assert replayed[:3] == [0, 10, 10]
    assert set(replayed[2:]) == {10}


def test_a_step_descends_the_mean_cross_entropy_of_both_together(numbered, learned, watching):
    before, compared = {}, []

    def batch(self, learner, batch):
        before.update({n: p.detach().clone() for n, p in learner.named})
        return batch

    def step(self, learner):
        joint, incoming = seen[-1], learner.incoming
        if len(joint["y"]) == len(incoming["y"]):
            return
        model = learner.model
        after = {n: p.detach().clone() for n, p in learner.named}
        weights = {n: p.clone().requires_grad_() for n, p in before.items()}
        outputs = torch.func.functional_call(model, weights, (joint["x"],))
        total = -outputs.log_softmax(1)[torch.arange(len(joint["y"])), joint["y"]].sum()
        loss = total / len(joint["y"])
        for name, g in zip(weights, torch.autograd.grad(loss, weights.values()), strict=True):
            torch.testing.assert_close(after[name], before[name] - 0.05 * g)
        compared.append(learner.step)

    seen = []

    def keep(self, learner, batch, outputs, loss):
        seen.append(batch)
        return loss

    learned(numbered(), chain(ER(capacity=30), watching(batch=batch, step=step, loss=keep)))
    assert len(compared) == 23


@pytest.mark.parametrize(("insert_epochs", "offers"), [(1, 120), (2, 240), (5, 360)])
def test_each_example_is_offered_in_as_many_epochs_as_asked(
    numbered, learned, insert_epochs, offers
):
    learner = learned(numbered(), ER(capacity=30, insert_epochs=insert_epochs), epochs=3)
    assert learner.method.buffer.seen == offers
    assert len(learner.method.buffer) == 30


def test_batch_size_sets_how_many_are_replayed(numbered, learned, watching):
    sizes = []

    def batch(self, learner, batch):
        sizes.append(len(batch["y"]) - learner.stream_rows)
        return batch

    learned(numbered(), chain(ER(capacity=30, batch_size=3), watching(batch=batch)))
    assert sizes == [0] + [3] * 23


def test_examples_are_stored_as_they_came_and_augmented_when_replayed(numbered, learned, watching):
    def shown(self, learner, batch, outputs, loss):
        assert float(batch["x"].min()) >= 100, "the network sees augmented inputs only"
        return loss

    method = chain(ER(capacity=30), watching(loss=shown))
    learner = learned(numbered(), method, augment=lambda x: x.float() + 100)
    raw = {
        int(i): x for e in learner.stream for i, x in zip(e.train["id"], e.train["x"], strict=True)
    }
    held = next(learner.method.parts()).buffer.columns
    assert all(torch.equal(x, raw[int(i)]) for i, x in zip(held["id"], held["x"], strict=True))


def test_ring_storage_holds_the_most_recent_of_every_class(numbered, learned, watching):
    arrived = {label: [] for label in range(6)}

    def batch(self, learner, batch):
        rows = learner.incoming
        for i, y in zip(rows["id"].tolist(), rows["y"].tolist(), strict=True):
            arrived[y].append(i)
        return batch

    method = chain(ER(capacity=30, storage="ring"), watching(batch=batch))
    learner = learned(numbered(), method, epochs=1)
    held = next(learner.method.parts()).buffer.columns
    for label, ids in arrived.items():
        assert sorted(held["id"][held["y"] == label].tolist()) == sorted(ids[-5:])


def test_herding_storage_is_filled_at_the_end_by_brute_force_herding(numbered, learned, watching):
    expected = {}

    def end(self, learner, experience):
        features = F.normalize(learner.features(experience.train)).double().numpy()
        for label in experience.classes:
            members = (experience.train["y"] == label).numpy().nonzero()[0]
            ids = experience.train["id"][members].tolist()
            expected[label] = [ids[k] for k in _herding(features[members])]

    sizes = []

    def batch(self, learner, batch):
        sizes.append(len(batch["y"]) - learner.stream_rows)
        return batch

    method = chain(ER(capacity=30, storage="herding"), watching(end=end, batch=batch))
    learner = learned(numbered(), method)
    assert sizes[:8] == [0] * 8, "there are no exemplars during the first experience"
    assert set(sizes[8:]) == {10}
    held = next(learner.method.parts()).buffer.columns
    for label, ids in expected.items():
        assert set(held["id"][held["y"] == label].tolist()) == set(ids[:5])


def _herding(features):
    """Algorithm 4 of iCaRL as it is written down: at each place, try every example."""
    mean, chosen = features.mean(0), []
    while len(chosen) < len(features):
        rest = [k for k in range(len(features)) if k not in chosen]
        gaps = [np.linalg.norm(mean - features[[*chosen, k]].mean(0)) for k in rest]
        chosen.append(rest[int(np.argmin(gaps))])
    return chosen


def test_replay_keeps_what_fine_tuning_forgets(numbered, learned):
    kept = learned(numbered(), ER(capacity=60), epochs=8, lr=0.1).record.matrix[-1]
    lost = learned(numbered(), None, epochs=8, lr=0.1).record.matrix[-1]
    assert lost[0] == 0
    assert kept[0] > 0.6


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"storage": "heap"}, {"retrieval": "best"}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        ER(**bad)


def test_herding_is_refused_where_no_experience_ends():
    stream = replace(small_stream("class"), boundaries=False)
    model = build("mlp(width=8, depth=1)", stream)
    for method in (ER(storage="herding"), MIR(storage="herding")):
        with pytest.raises(StreamRefused, match="herds when an experience ends"):
            refuse_unfit(method, stream, model)
    refuse_unfit(ER(), stream, model)
