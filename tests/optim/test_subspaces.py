"""Bases of what entered a layer."""

import numpy as np
import pytest
import torch

from holdfast.optim.subspaces import Subspaces, extended


def by_numpy(basis, inputs, energy):
    """The paper's equations 5 and 9, one direction after the other."""
    total, held = np.linalg.norm(inputs) ** 2, basis @ basis.T @ inputs
    left, values, _ = np.linalg.svd(inputs - held, full_matrices=False)
    found, count = np.linalg.norm(held) ** 2, 0
    while found < energy * total and count < len(values):
        found += values[count] ** 2
        count += 1
    return np.hstack([basis, left[:, :count]])


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("columns", [6, 40])
def test_a_basis_grows_as_by_the_papers_equations(columns, energy):
    draw = np.random.default_rng(columns)
    scales = 1.5 ** -np.arange(12)[:, None]
    expected, found = np.zeros((12, 0)), None
    for _ in range(3):
        inputs = draw.permutation(scales) * draw.normal(size=(12, columns))
        expected = by_numpy(expected, inputs, energy)
        found = extended(found, torch.from_numpy(inputs), energy)
        assert found.shape == expected.shape
        # Singular vectors have no sign, so the projections on them are compared.
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)
        np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-9)


def test_energy_is_counted_of_all_inputs_not_of_what_is_left_of_them():
    basis = torch.eye(3)[:, :1]
    inputs = torch.diag(torch.tensor([9.0, 3.0, 2.0]))  # energies 81, 9 and 4, of 94
    # 81 are held: 0.86 of all. With 9 it is 0.957, with 4 all. Of the 13 left, 9 are only 0.69.
    for energy, rank in ((0.86, 1), (0.90, 2), (0.957, 2), (0.96, 3), (1.0, 3)):
        assert extended(basis, inputs, energy).shape[1] == rank


def test_what_is_held_already_adds_nothing_also_in_single_precision():
    inputs = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    basis = extended(None, inputs, 1.0)
    assert basis.shape == (30, 8)
    assert basis.dtype == torch.float32
    again = extended(basis, inputs @ torch.randn(8, 50), 1.0)
    assert torch.equal(again, basis)
    assert extended(basis, torch.zeros(30, 4), 1.0).shape == (30, 8)
    assert extended(None, torch.zeros(30, 4), 1.0).shape == (30, 0)


def test_a_basis_holds_no_more_directions_than_there_are():
    draw = torch.Generator().manual_seed(1)
    basis = None
    for _ in range(4):
        basis = extended(basis, torch.randn(5, 3, generator=draw), 1.0)
    assert basis.shape == (5, 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5), atol=1e-5, rtol=0)


def test_bases_are_kept_by_layer_and_restored_into_an_empty_store():
    spaces, other = Subspaces(), Subspaces()
    assert not spaces
    assert spaces.basis("backbone.1") is None
    spaces.extend("backbone.1", torch.eye(4)[:, :2], 1.0)
    spaces.extend("head", torch.eye(3), 0.5)
    assert spaces.ranks == {"backbone.1": (2, 4), "head": (2, 3)}
    other.load_state_dict(spaces.state_dict())
    assert other
    assert other.ranks == spaces.ranks
    assert torch.equal(other.basis("backbone.1"), spaces.basis("backbone.1"))
