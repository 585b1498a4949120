"""Streaming linear discriminant analysis: sums that batches may be added to."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from holdfast.memory import discriminant
from holdfast.memory.discriminant import Discriminant

CLASSES, WIDTH = 5, 4


def examples(rows=60, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    centres = 3 * torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    return centres[y] + spread * noise, y


def one_by_one(x, y, sigma=None, mu=None, counts=None, t=0, plastic=True):
    """The paper's recursion as it is printed, an example at a time, in 64 bits."""
    x, sigma = x.double().numpy(), np.zeros((WIDTH, WIDTH)) if sigma is None else sigma
    mu = np.zeros((CLASSES, WIDTH)) if mu is None else mu
    counts = np.zeros(CLASSES) if counts is None else counts
    for z, k in zip(x, y.tolist(), strict=True):
        if plastic:
            delta = t / (t + 1) * np.outer(z - mu[k], z - mu[k])
            sigma = (t * sigma + delta) / (t + 1)
        mu[k] = (counts[k] * mu[k] + z) / (counts[k] + 1)
        counts[k] += 1
        t += 1
    return sigma, mu, counts


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.lists(st.integers(0, 60), max_size=5))
def test_batches_of_any_size_give_what_the_recursion_gives_one_by_one(seed, cuts):
    x, y = examples(seed=seed)
    lda = Discriminant(WIDTH, CLASSES)
    for start, stop in pairwise([0, *sorted(cuts), 60]):
        lda.add(x[start:stop], y[start:stop])
    sigma, mu, counts = one_by_one(x, y)
    np.testing.assert_allclose(lda.covariance.numpy(), sigma, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(lda.means.numpy(), mu, rtol=1e-11, atol=1e-12)
    assert lda.counts.tolist() == counts.tolist()


def test_long_batches_are_taken_in_by_pieces(monkeypatch):
    x, y = examples()
    whole, pieces = Discriminant(WIDTH, CLASSES), Discriminant(WIDTH, CLASSES)
    whole.add(x, y)
    monkeypatch.setattr(discriminant, "ROWS", 7)
    pieces.add(x, y)
    torch.testing.assert_close(pieces.scatter, whole.scatter, rtol=1e-12, atol=1e-12)


def test_order_matters_as_in_the_recursion():
    x, y = examples()
    forth, back = Discriminant(WIDTH, CLASSES), Discriminant(WIDTH, CLASSES)
    forth.add(x, y)
    back.add(x.flip(0), y.flip(0))
    torch.testing.assert_close(forth.means, back.means)
    assert not torch.allclose(forth.scatter, back.scatter, rtol=1e-3)
    np.testing.assert_allclose(back.covariance.numpy(), one_by_one(x.flip(0), y.flip(0))[0])


def test_a_frozen_covariance_stays_and_means_go_on():
    x, y = examples()
    lda = Discriminant(WIDTH, CLASSES)
    lda.add(x[:30], y[:30])
    before = lda.covariance.clone()
    lda.add(x[30:], y[30:], plastic=False)
    assert torch.equal(lda.covariance, before)
    np.testing.assert_allclose(lda.means.numpy(), one_by_one(x, y)[1])


def test_a_base_gives_the_covariance_of_oracle_approximating_shrinkage_and_is_gone_on_from():
    x, y = examples()
    lda = Discriminant(WIDTH, CLASSES)
    lda.start(x[:40], y[:40])
    means = np.stack([x[:40][y[:40] == k].mean(0) for k in range(CLASSES)])
    sigma = OAS(assume_centered=True).fit(x[:40].numpy() - means[y[:40]]).covariance_
    np.testing.assert_allclose(lda.covariance.numpy(), sigma, rtol=1e-10)
    lda.add(x[40:], y[40:])
    counts = y[:40].bincount(minlength=CLASSES).double().numpy()
    sigma, mu, _ = one_by_one(x[40:], y[40:], sigma, means, counts, t=40)
    np.testing.assert_allclose(lda.covariance.numpy(), sigma, rtol=1e-10)
    np.testing.assert_allclose(lda.means.numpy(), mu, rtol=1e-10)


@pytest.mark.parametrize("shrinkage", [1e-4, 0.5, 1.0])
def test_logits_are_the_discriminants_of_the_shrunk_covariance(shrinkage):
    x, y = examples()
    query = examples(seed=1)[0].numpy()
    lda = Discriminant(WIDTH, CLASSES, shrinkage)
    lda.add(x, y)
    lda.solve()
    sigma, mu, _ = one_by_one(x, y)
    precision = np.linalg.inv((1 - shrinkage) * sigma + shrinkage * np.eye(WIDTH))
    expected = query @ precision @ mu.T - 0.5 * np.diag(mu @ precision @ mu.T)
    np.testing.assert_allclose(lda(torch.from_numpy(query)).numpy(), expected, rtol=1e-9)


def test_on_many_examples_it_agrees_with_discriminant_analysis_of_them_all():
    x, y = examples(rows=4000, spread=2.0)
    lda = Discriminant(WIDTH, CLASSES)
    lda.add(x, y)
    lda.solve()
    equal = np.full(CLASSES, 1 / CLASSES)
    whole = LinearDiscriminantAnalysis("lsqr", priors=equal).fit(x.numpy(), y.numpy())
    same = lda(x).argmax(1).numpy() == whole.predict(x.numpy())
    assert same.mean() > 0.99


def test_classes_without_an_example_are_never_predicted_nor_is_anything_at_first():
    lda = Discriminant(WIDTH, CLASSES)
    assert (lda(torch.ones(2, WIDTH)) == -torch.inf).all()
    lda.add(torch.tensor([[-1.0] * WIDTH]), torch.tensor([2]))
    lda.solve()
    logits = lda(torch.ones(2, WIDTH))
    assert (logits.argmax(1) == 2).all()
    assert logits[:, 2].isfinite().all()


def test_features_far_from_zero_lose_nothing_to_rounding():
    """The same data 10,000 deviations away; in 32 bits the covariance would be noise."""
    x, y = examples(rows=500)
    near, far = Discriminant(WIDTH, CLASSES), Discriminant(WIDTH, CLASSES)
    mean = x.mean(0)
    for k in range(CLASSES):  # no first examples, whose distance from zero counts
        near.add((x - mean)[y == k].mean(0, keepdim=True), torch.tensor([k]), plastic=False)
        far.add(x[y == k].mean(0, keepdim=True) + 1e4, torch.tensor([k]), plastic=False)
    near.add(x - mean, y)
    far.add(x + 1e4, y)
    torch.testing.assert_close(far.covariance, near.covariance, rtol=1e-6, atol=1e-6)
