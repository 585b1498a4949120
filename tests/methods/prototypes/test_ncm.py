"""Nearest class mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, NCM
from holdfast.models import build


def pooled(learner, part):
    tables = [getattr(e, part) for e in learner.stream]
    features = learner.features(Table({"x": torch.cat([t["x"] for t in tables])}))
    return features.double().numpy(), torch.cat([t["y"] for t in tables]).numpy()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_predictions_are_those_of_nearest_centroid_on_all_data_in_any_order(
    numbered, learned, normalise, order
):
    stream = numbered()
    experiences = [replace(stream[k], index=i) for i, k in enumerate(order)]
    learner = learned(replace(stream, experiences=experiences), NCM(normalise))
    x, y = pooled(learner, "train")
    test, _ = pooled(learner, "test")
    means = np.stack([x[y == label].mean(0) for label in range(6)])
    if normalise:
        x, test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, test))
        means = np.stack([x[y == label].mean(0) for label in range(6)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        noise = np.random.default_rng(0).normal(0, 0.01, means.shape)
        x, y = np.concatenate([means - noise, means + noise]), [*range(6)] * 2
    nearest = NearestCentroid().fit(x, y)
    with torch.no_grad():
        logits = learner.predict({"x": torch.cat([e.test["x"] for e in learner.stream])})
    assert logits.argmax(1).tolist() == nearest.predict(test).tolist()
    gaps = ((test[:, None] - means[None]) ** 2).sum(2)
    np.testing.assert_allclose(-logits.numpy(), gaps, rtol=1e-3, atol=1e-4)


def test_classes_over_many_experiences_are_averaged_as_one(numbered, learned):
    learner = learned(numbered("domain"), NCM())
    x, y = pooled(learner, "train")
    for label in range(10):
        mean = learner.method.means.means[label].numpy()
        np.testing.assert_allclose(mean, x[y == label].mean(0), rtol=1e-3, atol=1e-5)


def test_nothing_is_trained_and_nothing_is_forgotten_but_to_new_rivals(numbered, learned):
    stream = numbered("task")
    model = build("mlp(width=16)", stream, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner = learned(stream, NCM(), model=model)
    assert all(torch.equal(t, before[n]) for n, t in learner.model.state_dict().items())
    matrix = learner.record.matrix
    assert all(matrix[i][j] == matrix[j][j] for j in range(3) for i in range(j, 3))
    assert matrix[2][0] > 0.9


def test_classes_without_an_example_are_never_predicted(numbered, learned, watching):
    learner = learned(numbered(), NCM())
    assert learner.record.matrix[0][1:] == [0.0, 0.0]


def test_a_prototype_head_is_filled_and_then_predicts_by_itself(numbered):
    stream = numbered()
    headed = Learner(build("mlp(width=16)", stream, head="prototype", seed=0), NCM())
    headed.learn(stream)
    x = stream[0].test["x"]
    with torch.no_grad():
        torch.testing.assert_close(headed.model(x), headed.predict({"x": x}))
    assert headed.record.matrix[-1] == pytest.approx(
        Learner(build("mlp(width=16)", stream, seed=0), NCM()).learn(stream).matrix[-1]
    )


def test_a_prototype_head_is_refused_by_methods_that_train(numbered):
    stream = numbered()
    learner = Learner(build("mlp(width=16)", stream, head="prototype"), ER(capacity=10))
    with pytest.raises(StreamRefused, match="is not trained: use the method ncm"):
        learner.learn(stream)


def test_methods_that_act_on_training_steps_are_not_chained_with_it():
    with pytest.raises(UsageError, match="ER acts during training steps, and NCM makes none"):
        chain(ER(), NCM())
