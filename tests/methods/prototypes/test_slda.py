"""Deep SLDA."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, NCM, SLDA
from holdfast.models import build


def features(learner, experiences, part="train"):
    tables = [getattr(e, part) for e in experiences]
    x = learner.features(Table({"x": torch.cat([t["x"] for t in tables])}))
    return x.double().numpy(), torch.cat([t["y"] for t in tables]).numpy()


def test_predictions_are_those_of_the_papers_recursion_over_the_whole_stream(numbered, learned):
    learner = learned(numbered(), SLDA(shrinkage=0.01))
    width, sigma, t = 16, np.zeros((16, 16)), 0
    mu, counts = np.zeros((6, width)), np.zeros(6)
    for z, k in zip(*features(learner, learner.stream), strict=True):
        delta = t / (t + 1) * np.outer(z - mu[k], z - mu[k])
        sigma = (t * sigma + delta) / (t + 1)
        mu[k] = (counts[k] * mu[k] + z) / (counts[k] + 1)
        counts[k], t = counts[k] + 1, t + 1
    precision = np.linalg.inv(0.99 * sigma + 0.01 * np.eye(width))
    test, _ = features(learner, learner.stream, "test")
    expected = test @ precision @ mu.T - 0.5 * np.diag(mu @ precision @ mu.T)
    with torch.no_grad():
        x = torch.cat([e.test["x"] for e in learner.stream])
        logits = learner.predict({"x": x})
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-3)
    assert learner.record.matrix[2][0] == pytest.approx(
        (expected[:30].argmax(1) == features(learner, [learner.stream[0]], "test")[1]).mean()
    )


def test_a_frozen_covariance_is_that_of_the_first_experience(numbered, learned):
    learner = learned(numbered(), SLDA(plastic=False, base=True))
    x, y = features(learner, [learner.stream[0]])
    centred = x - np.stack([x[y == k].mean(0) for k in range(2)])[y]
    empirical = centred.T @ centred / len(x)
    found = learner.method.classifier.covariance.numpy()
    off = ~np.eye(16, dtype=bool) & (np.abs(empirical) > 1e-6)  # some units are always silent
    share = found[off] / empirical[off]  # OAS draws every covariance towards 0 by one factor
    assert np.ptp(share) < 1e-3
    assert 0.5 < share.mean() < 1
    assert learner.method.classifier.taken == 40
    assert learner.method.classifier.counts.sum() == 120


def test_it_is_better_than_class_means_where_features_have_unequal_scales(numbered, learned):
    def scaled(table):
        rows = table["x"].float()
        torch.manual_seed(0)
        noise = 300 * torch.randn(len(rows), 1, 1, 1)  # a direction that tells nothing
        return table.with_columns(x=rows + noise)

    stream = numbered()
    stream = replace(
        stream,
        experiences=[replace(e, train=scaled(e.train), test=scaled(e.test)) for e in stream],
    )
    means = learned(stream, NCM()).record.matrix[-1]
    lda = learned(stream, SLDA()).record.matrix[-1]
    assert sum(lda) / 3 > sum(means) / 3 + 0.2


def test_a_discriminant_head_is_filled_and_then_predicts_by_itself(numbered):
    stream = numbered()
    headed = Learner(build("mlp(width=16)", stream, head="discriminant", seed=0), SLDA())
    headed.learn(stream)
    x = stream[0].test["x"]
    with torch.no_grad():
        torch.testing.assert_close(headed.model(x), headed.predict({"x": x}))
    plain = Learner(build("mlp(width=16)", stream, seed=0), SLDA())
    assert headed.record.matrix == plain.learn(stream).matrix
    fresh = build("mlp(width=16)", stream, head="discriminant", seed=1)
    fresh.load_state_dict(headed.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), headed.model(x))


@pytest.mark.parametrize("method", [ER(capacity=10), NCM()])
def test_a_discriminant_head_is_refused_by_others(numbered, method):
    learner = Learner(build("mlp(width=16)", numbered(), head="discriminant"), method)
    with pytest.raises(StreamRefused, match=r"class means and a covariance .* the method slda"):
        learner.learn(numbered())


@pytest.mark.parametrize("shrinkage", [0.0, -1.0, 1.5, float("nan")])
def test_a_shrinkage_out_of_range_is_refused(shrinkage):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        SLDA(shrinkage=shrinkage)


def test_a_covariance_that_nothing_gives_is_refused():
    with pytest.raises(UsageError, match="say base=true too"):
        SLDA(plastic=False)


def test_methods_that_act_on_training_steps_are_not_chained_with_it():
    with pytest.raises(UsageError, match="ER acts during training steps, and SLDA makes none"):
        chain(ER(), SLDA())
