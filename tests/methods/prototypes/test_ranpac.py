"""RanPAC."""

import numpy as np
import pytest
import torch

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.memory.ridge import RIDGES
from holdfast.methods import ER, RanPAC
from holdfast.models import build


def pooled(learner, part):
    tables = [getattr(e, part) for e in learner.stream]
    features = learner.features(Table({"x": torch.cat([t["x"] for t in tables])}))
    return features, torch.cat([t["y"] for t in tables]).numpy()


@pytest.mark.parametrize("projections", [0, 64])
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_predictions_are_those_of_one_ridge_regression_on_all_data(
    numbered, learned, projections, scenario
):
    learner = learned(numbered(scenario), RanPAC(projections, ridge=10.0))
    classes = learner.stream.classes
    drawn = learner.method.classifier.projection

    def phi(features):
        if drawn is None:
            return features.double().numpy()
        return np.maximum(0, (features @ drawn).double().numpy())

    x, y = pooled(learner, "train")
    gram = phi(x).T @ phi(x) + 10 * np.eye(projections or 16)
    weights = np.linalg.solve(gram, phi(x).T @ np.eye(classes)[y])
    test, labels = pooled(learner, "test")
    expected = phi(test) @ weights
    batch = {"x": torch.cat([e.test["x"] for e in learner.stream])}
    with torch.no_grad():
        logits = learner.predict(batch)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-6)
    if scenario == "class":
        right = (expected.argmax(1) == labels).mean()
        assert np.mean(learner.record.matrix[-1]) == pytest.approx(right)


def test_the_ridge_is_chosen_in_every_experience_and_noted(numbered, learned):
    learner = learned(numbered(), RanPAC(projections=64))
    notes = learner.record.notes
    assert [note["experience"] for note in notes] == [0, 1, 2]
    assert all(note["ridge"] in RIDGES and note["used"] >= note["ridge"] for note in notes)


def test_a_ridge_given_is_used_throughout(numbered, learned):
    notes = learned(numbered(), RanPAC(projections=64, ridge=7.0)).record.notes
    assert [(note["ridge"], note["used"]) for note in notes] == [(7.0, 7.0)] * 3


def test_the_projection_is_drawn_once_by_the_learners_seed(numbered, learned):
    drawn = [
        learned(numbered(), RanPAC(projections=32, ridge=1.0), seed=seed).method.classifier
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0].projection, drawn[1].projection)
    assert not torch.equal(drawn[0].projection, drawn[2].projection)


def test_precision_is_that_of_all_sums(numbered, learned):
    for precision, size in (("float64", 8), ("float32", 4)):
        method = learned(numbered(), RanPAC(32, ridge=1.0, precision=precision)).method
        assert method.classifier.gram.element_size() == size
        assert method.classifier.weight.element_size() == size


def test_a_ridge_head_is_filled_and_then_predicts_by_itself(numbered):
    stream = numbered()
    headed = Learner(build("mlp(width=16)", stream, head="ridge", seed=0), RanPAC(32))
    headed.learn(stream)
    x = stream[0].test["x"]
    with torch.no_grad():
        assert torch.equal(headed.model(x), headed.predict({"x": x}))
    fresh = build("mlp(width=16)", stream, head="ridge", seed=0)
    fresh.load_state_dict(headed.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), headed.model(x))


def test_a_ridge_head_is_refused_by_others(numbered):
    learner = Learner(build("mlp(width=16)", numbered(), head="ridge"), ER(capacity=10))
    with pytest.raises(StreamRefused, match=r"sums of random features .* the method ranpac"):
        learner.learn(numbered())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"projections": -1}, "projections must be at least 0"),
        ({"ridge": 0.0}, "ridge must be above 0"),
        ({"precision": "float16"}, "no precision 'float16'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, told):
    with pytest.raises(UsageError, match=told):
        RanPAC(**arguments)
