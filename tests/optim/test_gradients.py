"""Views and projections of gradients."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from holdfast.optim.gradients import flat, shaped, within_cone, without_conflict

vectors = arrays(np.float64, 5, elements=st.floats(-10, 10).map(lambda v: round(v, 3)))


def test_shaped_undoes_flat():
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(7.0), torch.arange(8.0, 10.0)]
    vector = flat(tensors)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    back = shaped(vector, tensors)
    assert all(torch.equal(a, b) for a, b in zip(back, tensors, strict=True))


@settings(deadline=None)
@given(vectors, vectors)
def test_without_conflict_is_the_formula_and_never_points_against_the_reference(g, r):
    found = without_conflict(torch.from_numpy(g), torch.from_numpy(r)).numpy()
    if g @ r >= 0:
        assert np.array_equal(found, g)
        return
    np.testing.assert_allclose(found, g - (g @ r) / (r @ r) * r, atol=1e-9)
    assert abs(found @ r) <= 1e-9 * (1 + np.linalg.norm(g) * np.linalg.norm(r))
    # It is the nearest such vector: what was taken away lies along the reference.
    assert np.linalg.norm(found) <= np.linalg.norm(g) + 1e-9


def test_a_reference_of_zero_leaves_the_gradient_alone():
    g = torch.tensor([1.0, -2.0])
    assert torch.equal(without_conflict(g, torch.zeros(2)), g)


def test_one_constraint_is_the_closed_form():
    g, r = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([-1.0, 1.0, 0.0]).double()
    found = within_cone(g, r[None], ridge=0)
    torch.testing.assert_close(found, without_conflict(g, r), rtol=1e-5, atol=1e-6)
    share = 3 / (2 + 0.1)  # -g.r / (r.r + ridge)
    torch.testing.assert_close(within_cone(g, r[None], ridge=0.1), g + share * r, rtol=1e-5, atol=0)
    torch.testing.assert_close(within_cone(g, r[None], 4.0), g + 4 * r)  # above 3 / 2


def test_a_gradient_that_opposes_no_reference_is_itself_whatever_the_margin():
    g, references = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 5.0], [0.0, 3.0]])
    assert torch.equal(within_cone(g, references, margin=0.5), g)


@settings(deadline=None, max_examples=30)
@given(vectors, arrays(np.float64, (3, 5), elements=st.floats(-10, 10).map(lambda v: round(v, 3))))
def test_within_cone_opposes_no_reference_and_is_nearest(g, references):
    found = within_cone(torch.from_numpy(g), torch.from_numpy(references), ridge=1e-9).numpy()
    room = 1e-4 * (1 + np.linalg.norm(g)) * (1 + np.linalg.norm(references))
    assert (references @ found >= -room).all()
    # By Moreau: what was added is a sum of references, and stands upright on what it led to.
    assert abs(found @ (found - g)) <= room * (1 + np.linalg.norm(g))
