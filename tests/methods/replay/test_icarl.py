"""iCaRL."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import ER, EWC, ICaRL
from holdfast.stream import Experience


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def unit_features(learner, x):
    return unit(learner.features(Table({"x": x})).double().numpy())


@pytest.mark.parametrize("head", ["full", "growing"])
def test_the_loss_is_binary_cross_entropy_with_old_outputs_as_targets(
    numbered, learned, watching, head
):
    teachers, compared = [None], []

    def loss(self, learner, batch, outputs, loss):
        if learner.step % 3:
            return loss
        outputs = learner.model(batch["x"]).tolist()
        old = teachers[-1](batch["x"]).tolist() if teachers[-1] else None
        total = 0.0
        for i, y in enumerate(batch["y"].tolist()):
            for c in range(2 * learner.index + 2):
                g = 1 / (1 + math.exp(-outputs[i][c]))
                is_old = c < 2 * learner.index
                q = 1 / (1 + math.exp(-old[i][c])) if is_old else float(y == c)
                total -= q * math.log(g) + (1 - q) * math.log(1 - g)
        assert float(loss.detach()) == pytest.approx(total / len(batch["y"]), rel=1e-4)
        compared.append(learner.index)
        return loss

    def end(self, learner, experience):
        teachers.append(deepcopy(learner.model))

    learned(numbered(), chain(ICaRL(capacity=24), watching(loss=loss, end=end)), head=head)
    assert set(compared) == {0, 1, 2}


def test_training_runs_over_new_data_and_exemplars(numbered, learned, watching):
    shown = {0: set(), 1: set(), 2: set()}

    def loss(self, learner, batch, outputs, loss):
        shown[learner.index].update(batch["id"].tolist())
        return loss

    learned(numbered(), chain(ICaRL(capacity=24), watching(loss=loss)))
    assert [len(ids) for ids in shown.values()] == [40, 40 + 24, 40 + 24]


def test_exemplars_are_prefixes_of_brute_force_herding_and_shrink_from_the_tail(
    numbered, learned, watching
):
    order, held = {}, []

    def end(self, learner, experience):
        features = unit_features(learner, experience.train["x"])
        for label in experience.classes:
            members = (experience.train["y"] == label).numpy().nonzero()[0]
            ids = experience.train["id"][members].tolist()
            order[label] = [ids[k] for k in _herding(features[members])]
        columns = next(learner.method.parts()).buffer.columns
        held.append({label: set(columns["id"][columns["y"] == label].tolist()) for label in order})

    learned(numbered(), chain(ICaRL(capacity=24), watching(end=end)))
    for stage, quota in enumerate((12, 6, 4)):
        assert len(held[stage]) == 2 * stage + 2
        for label, ids in held[stage].items():
            assert ids == set(order[label][:quota])


def _herding(features):
    """Algorithm 4 as it is written down: at each place, try every example."""
    mean, chosen = features.mean(0), []
    while len(chosen) < len(features):
        rest = [k for k in range(len(features)) if k not in chosen]
        gaps = [np.linalg.norm(mean - features[[*chosen, k]].mean(0)) for k in rest]
        chosen.append(rest[int(np.argmin(gaps))])
    return chosen


def test_prediction_is_scikit_learns_nearest_centroid_of_unit_exemplar_means(numbered, learned):
    learner = learned(numbered(), ICaRL(capacity=24))
    columns = learner.method.buffer.columns
    y = columns["y"].numpy()
    exemplars = unit_features(learner, columns["x"])
    means = unit(np.stack([exemplars[y == label].mean(0) for label in range(6)]))
    noise = np.random.default_rng(0).normal(0, 0.01, means.shape)
    nearest = NearestCentroid().fit(np.concatenate([means - noise, means + noise]), [*range(6)] * 2)
    test = torch.cat([e.test["x"] for e in learner.stream])
    with torch.no_grad():
        predicted = learner.predict({"x": test})
    assert predicted.argmax(1).tolist() == nearest.predict(unit_features(learner, test)).tolist()


@pytest.mark.parametrize("mirror", [True, False])
def test_mirrored_features_are_averaged_when_asked(numbered, learned, mirror):
    learner = learned(numbered(), ICaRL(capacity=24, mirror=mirror))

    def described(x):
        features = unit_features(learner, x)
        return unit(features + unit_features(learner, x.flip(-1))) if mirror else features

    columns = learner.method.buffer.columns
    y, exemplars = columns["y"].numpy(), described(columns["x"])
    means = unit(np.stack([exemplars[y == label].mean(0) for label in range(6)]))
    test = learner.stream[0].test["x"]
    gaps = ((described(test)[:, None] - means[None]) ** 2).sum(2)
    with torch.no_grad():
        predicted = learner.predict({"x": test})
    np.testing.assert_allclose(-predicted.numpy(), gaps, atol=1e-5)


def test_features_are_mirrored_by_default_only_if_training_mirrors(numbered, learned):
    class Mirroring:
        mirrors = True

        def __call__(self, x):
            return x.flip(-1)

    test = numbered()[0].test["x"]

    def predicted(mirror, augment):
        learner = learned(numbered(), ICaRL(capacity=24, mirror=mirror), augment=augment)
        return learner.predict({"x": test})

    assert torch.equal(predicted(None, Mirroring()), predicted(True, Mirroring()))
    assert torch.equal(predicted(None, None), predicted(False, None))


def test_within_an_experience_the_network_itself_predicts(numbered, learned, watching):
    compared = []

    def step(self, learner):
        x = learner.incoming["x"]
        assert torch.equal(learner.predict({"x": x}), learner.model(x))
        compared.append(learner.step)

    learned(numbered(), chain(ICaRL(capacity=24), watching(step=step)))
    assert compared


def test_a_class_that_returns_is_learned_from_its_labels(numbered, learned, watching):
    """The old network knows nothing of it that should be kept against the labels."""
    stream = numbered()
    wrong = stream[0].train.with_columns(y=1 - stream[0].train["y"])
    back = Experience(1, wrong, stream[0].test.with_columns(y=1 - stream[0].test["y"]), (0, 1))
    stream = replace(stream, experiences=[stream[0], back])
    learner = learned(stream, ICaRL(capacity=2), epochs=40, lr=0.2)
    with torch.no_grad():
        outputs = learner.model(wrong["x"])[:, :2]
    assert float((outputs.argmax(1) == wrong["y"]).float().mean()) > 0.9


def test_it_does_not_silently_drop_what_an_earlier_method_adds_to_the_loss(numbered, learned):
    with pytest.raises(UsageError, match="chain ICaRL before EWC"):
        learned(numbered(), chain(EWC(), ICaRL(capacity=24)))
    learned(numbered(), chain(ER(capacity=24), ICaRL(capacity=24), EWC()), epochs=1)
