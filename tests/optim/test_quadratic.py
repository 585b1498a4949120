"""Small quadratic programmes with a bound."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from holdfast.optim import quadratic
from holdfast.optim.quadratic import least_above


def programme(seed, variables, values, scale=1.0, shared=2.0):
    draw = np.random.default_rng(seed)
    rows = scale * (draw.normal(size=(variables, values)) + shared * draw.normal(size=values))
    matrix = rows @ rows.T
    matrix += (1e-3 + 1e-6 * matrix.max()) * np.eye(variables)
    return matrix, rows @ (scale * draw.normal(size=values))


def solved(matrix, vector, lower=0.0):
    return least_above(torch.from_numpy(matrix), torch.from_numpy(vector), lower).numpy()


def by_enumeration(matrix, vector, lower):
    """The best of all choices of variables that lie on the bound."""
    best, least = None, np.inf
    for free in product([False, True], repeat=len(vector)):
        free = np.array(free)
        v = np.full(len(vector), lower)
        if free.any():
            right = -vector[free] - matrix[np.ix_(free, ~free)] @ v[~free]
            v[free] = np.linalg.solve(matrix[np.ix_(free, free)], right)
        value = v @ matrix @ v / 2 + vector @ v
        if (v >= lower - 1e-12).all() and value < least:
            best, least = v, value
    return best


@pytest.mark.parametrize("lower", [0.0, 0.5])
@pytest.mark.parametrize("variables", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_the_solution_is_the_best_over_all_active_sets(seed, variables, lower):
    matrix, vector = programme(seed, variables, 8)
    expected = by_enumeration(matrix, vector, lower)
    np.testing.assert_allclose(solved(matrix, vector, lower), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_variables_are_solved_as_by_nonnegative_least_squares(seed):
    matrix, vector = programme(seed, 100, 300, shared=0.2)
    root = np.linalg.cholesky(matrix)
    expected, _ = nnls(root.T, np.linalg.solve(root, -vector), maxiter=10_000)
    assert 0 < (expected > 0).sum() < 100
    np.testing.assert_allclose(solved(matrix, vector), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("values", [1, 3, 40])
def test_conditions_of_optimality_hold_where_rows_repeat_and_at_every_scale(values, scale):
    matrix, vector = programme(values, 60, values, scale)
    v = solved(matrix, vector, 0.5)
    slope = matrix @ v + vector
    unit = np.abs(vector).max() + np.abs(matrix.sum(1)).max()
    assert (v >= 0.5).all()
    assert (slope >= -1e-9 * unit).all()
    assert (np.abs((v - 0.5) * slope) <= 1e-9 * unit * (1 + v.max())).all()


def test_rounds_after_the_last_change_nothing(monkeypatch):
    """As on a device that is not waited for."""
    matrix, vector = programme(0, 20, 50)
    expected = solved(matrix, vector)
    monkeypatch.setattr(quadratic, "AT_HAND", ())
    tensors = torch.from_numpy(matrix), torch.from_numpy(vector)
    for rounds in (32, 100):
        np.testing.assert_array_equal(least_above(*tensors, rounds=rounds).numpy(), expected)


def test_nothing_moves_where_the_bound_is_best():
    found = least_above(torch.eye(3), torch.tensor([1.0, 2.0, 0.5]), 0.25)
    assert found.tolist() == [0.25] * 3
    assert least_above(torch.eye(2), torch.zeros(2)).abs().max() < 1e-9
