"""Linear readouts, compared with scikit-learn's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from holdfast.errors import UsageError
from holdfast.models.readout import logistic_regression


def data(examples=60, width=5, classes=3):
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(examples) % classes
    centres = torch.randn(classes, width, generator=draw)
    return centres[y] + torch.randn(examples, width, generator=draw), y


@pytest.mark.parametrize("ridge", [1.0, 1e-3])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_scikit_learns_logistic_regression(ridge, bias):
    x, y = data()
    weight, shift = logistic_regression(x, y, 3, ridge, bias)
    rows = torch.cat([x, torch.ones(60, 1)], 1) if bias else x
    theirs = LogisticRegression(
        C=1 / (60 * ridge), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(rows.double().numpy(), y.numpy())
    found = torch.cat([weight, shift[:, None]], 1) if bias else weight
    np.testing.assert_allclose(found.numpy(), theirs.coef_, atol=1e-5)
    assert bias == (shift is not None)


def test_no_gradient_is_left_at_the_minimum_and_none_is_taken_to_the_features():
    x, y = data()
    x.requires_grad_()
    with torch.no_grad():  # as at the end of an experience
        weight, shift = logistic_regression(10 * x, y, 3, 0.01)
    at = torch.cat([weight, shift[:, None]], 1).double().requires_grad_()
    logits = 10 * x.detach().double() @ at[:, :-1].T + at[:, -1]
    (F.cross_entropy(logits, y) + 0.005 * at.square().sum()).backward()
    assert float(at.grad.abs().max()) < 1e-5
    assert x.grad is None


def test_a_class_without_examples_has_a_row_that_never_wins():
    x, y = data()
    weight, shift = logistic_regression(x, y, 5, 0.01)
    assert weight.shape == (5, 5)
    assert int((x @ weight.T + shift).argmax(1).max()) == 2
    torch.testing.assert_close(weight[3], weight[4])


def test_a_ridge_of_nothing_is_refused():
    with pytest.raises(UsageError, match="ridge must be above 0; given: 0"):
        logistic_regression(*data(), 3, 0.0)
