"""Projection onto weights between 0 and 1 of a fixed sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from holdfast.errors import UsageError
from holdfast.unlearning.simplex import binary, largest, project


def by_quadratic_programming(values, total):
    """The nearest feasible point as a general solver finds it."""
    found = minimize(
        lambda w: ((w - values) ** 2).sum(),
        np.full(len(values), total / len(values)),
        jac=lambda w: 2 * (w - values),
        bounds=[(0, 1)] * len(values),
        constraints={"type": "eq", "fun": lambda w: w.sum() - total},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(4))
def test_the_projection_is_what_a_quadratic_program_finds(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=12) * 10 ** generator.uniform(-1, 1)
    total = float(generator.integers(1, 12))
    expected = by_quadratic_programming(values, total)
    found = project(torch.from_numpy(values), total)
    assert np.allclose(found.numpy(), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40), st.data())
def test_the_sum_is_right_and_every_weight_between_0_and_1(values, data):
    total = data.draw(st.integers(0, len(values)))
    weights = project(torch.tensor(values, dtype=torch.float64), total)
    assert float(weights.sum()) == pytest.approx(total, abs=1e-6)
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= 1


def test_a_point_of_the_set_stays_where_it_is():
    weights = torch.tensor([1.0, 0.0, 0.25, 0.75], dtype=torch.float64)
    assert torch.allclose(project(weights, 2), weights, atol=1e-9)


def test_it_is_neither_rescaling_nor_the_largest_entries():
    """By hand: mu = 0.2 makes clip([1.6, 0.9, 0.5, 0.1] - mu) sum to 1 + 0.7 + 0.3."""
    weights = project(torch.tensor([1.6, 0.9, 0.5, 0.1], dtype=torch.float64), 2)
    assert weights.tolist() == pytest.approx([1.0, 0.7, 0.3, 0.0], abs=1e-9)


def test_the_largest_weights_become_one():
    weights = torch.tensor([0.1, 0.9, 0.3, 0.7])
    assert largest(weights, 2).tolist() == [1, 3]
    assert binary(weights, 2).tolist() == [0, 1, 0, 1]


def test_a_sum_that_cannot_be_reached_is_refused():
    with pytest.raises(UsageError, match="total must lie between 0 and 3; given: 4"):
        project(torch.zeros(3), 4)
