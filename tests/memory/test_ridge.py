"""Ridge regression on random features."""

import numpy as np
import pytest
import torch

from holdfast.errors import DataError
from holdfast.memory import ridge as room
from holdfast.memory.ridge import RIDGES, RandomRidge

CLASSES, WIDTH = 4, 6


def examples(rows=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES - 1, (rows,), generator=generator)  # of the last class there is none
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    return centres[y] + 0.5 * torch.randn(rows, WIDTH, generator=generator), y


def prepared(projections, dtype=torch.float64):
    made = RandomRidge(WIDTH, CLASSES)
    made.prepare(projections, torch.Generator().manual_seed(3), dtype)
    return made


def random_features(made, x):
    """As the paper has them, in numpy."""
    if made.projection is None:
        return x.double().numpy()
    return np.maximum(0, (x @ made.projection).double().numpy())


def by_formula(phi, y, ridge):
    answers = np.eye(CLASSES)[y.numpy()]
    gram = phi.T @ phi + ridge * np.eye(phi.shape[1])
    return np.linalg.solve(gram, phi.T @ answers)


@pytest.mark.parametrize("projections", [0, 20])
@pytest.mark.parametrize("portions", [1, 3])
def test_weights_solve_the_ridge_regression_of_all_examples(projections, portions):
    x, y = examples()
    made = prepared(projections)
    for some, labels in zip(x.chunk(portions), y.chunk(portions), strict=True):
        made.add(some, labels)
    assert made.solve(0.3) == 0.3
    expected = by_formula(random_features(made, x), y, 0.3)
    np.testing.assert_allclose(made.weight.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_solving_leaves_the_sums_as_they_are():
    x, y = examples()
    made = prepared(20)
    made.add(x, y)
    before = made.gram.clone()
    made.solve(1e5)
    assert torch.equal(made.gram, before)


@pytest.mark.parametrize("projections", [0, 10, 150])  # 150: more than the examples, the dual form
@pytest.mark.parametrize("seed", range(4))
def test_the_ridge_is_the_best_of_seventeen_on_the_held_out(projections, seed, monkeypatch):
    monkeypatch.setattr(room, "ROWS", 13)
    x, y = examples(seed=seed)
    made = prepared(projections)
    held_out = torch.randperm(80, generator=torch.Generator().manual_seed(seed))[64:]
    chosen = made.add_and_choose(x, y, held_out)
    phi, train = random_features(made, x), np.setdiff1d(np.arange(80), held_out.numpy())
    answers = np.eye(CLASSES)[y.numpy()]
    losses = {}
    for ridge in RIDGES[3:]:  # below, 64 bits are not enough for 150 features of 64 examples
        weights = by_formula(phi[train], y[train], ridge)
        losses[ridge] = ((phi[held_out] @ weights - answers[held_out]) ** 2).mean()
    assert chosen == min(losses, key=losses.get)
    np.testing.assert_allclose(made.gram.numpy(), phi.T @ phi, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(made.moments.numpy(), phi.T @ answers, rtol=1e-6, atol=1e-6)
    assert made.counts.tolist() == y.bincount(minlength=CLASSES).tolist()


def test_the_random_features_are_positive_parts_of_standard_normal_projections():
    made = prepared(5000)
    assert made.projection.shape == (WIDTH, 5000)
    assert made.projection.mean().abs() < 0.02
    assert made.projection.std() == pytest.approx(1, abs=0.02)
    phi = made.project(torch.ones(1, WIDTH))
    expected = (WIDTH / (2 * np.pi)) ** 0.5  # E max(0, g) for g of variance WIDTH
    assert phi.mean() == pytest.approx(expected, rel=0.05)


def test_a_ridge_too_small_for_the_precision_is_raised_until_it_will_do():
    x = torch.rand(4, WIDTH) * 100
    y = torch.tensor([0, 1, 2, 0])
    wide = prepared(40)  # rank 4 of 40: singular but for the ridge
    wide.add(x, y)
    assert wide.solve(1e-3) == 1e-3
    narrow = prepared(40, torch.float32)
    narrow.add(x, y)
    used = narrow.solve(1e-8)
    assert used > 1e-8
    assert any(used == pytest.approx(ridge) for ridge in RIDGES)
    assert narrow.weight.isfinite().all()


def test_32_bits_lose_small_ridges_that_64_bits_keep():
    """Why sums are of 64 bits: features are positive, so that one direction outweighs all."""
    x, y = examples(rows=400)
    x = 10 * x
    exact = None
    errors = {}
    for dtype in (torch.float64, torch.float32):
        made = prepared(100, dtype)
        made.add(x, y)
        used = made.solve(1e-4)
        phi = random_features(made, x)
        exact = by_formula(phi, y, 1e-4) if exact is None else exact
        errors[dtype] = np.abs(made.weight.double().numpy() - exact).max() / np.abs(exact).max()
        assert used == pytest.approx(1e-4) or dtype == torch.float32
    assert errors[torch.float64] < 1e-4
    assert errors[torch.float32] > 100 * errors[torch.float64]


@pytest.mark.parametrize("row", [3, 30])  # held out, and not
@pytest.mark.parametrize("projections", [10, 150])
def test_features_that_are_not_finite_are_told(row, projections):
    made = prepared(projections)
    x, y = examples()
    x[row] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        made.add_and_choose(x, y, torch.arange(5))


def test_logits_are_minus_infinity_before_anything_is_known_and_for_unknown_classes():
    made = RandomRidge(WIDTH, CLASSES)
    x, y = examples()
    assert (made(x) == -torch.inf).all()
    made.prepare(20, torch.Generator())
    made.add(x, y)
    made.solve(1.0)
    assert (made(x)[:, -1] == -torch.inf).all()
    assert made(x)[:, :-1].isfinite().all()


def test_a_state_is_taken_by_one_that_has_drawn_nothing():
    x, y = examples()
    made, other = prepared(20, torch.float32), RandomRidge(WIDTH, CLASSES)
    made.add(x, y)
    made.solve(1.0)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(x), made(x))
    assert other.gram.dtype == torch.float32


def test_half_precision_around_it_changes_nothing():
    x, y = examples()
    made = prepared(20)
    made.add(x, y)
    made.solve(1.0)
    plain = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x), plain)
