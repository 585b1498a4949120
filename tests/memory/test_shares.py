"""Memory by experience."""

import pytest
import torch

from holdfast.memory.shares import Shares


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def rows(start, count):
    return {"x": torch.arange(start, start + count), "y": torch.arange(start, start + count) % 7}


def test_shares_shrink_together_and_keep_rows_of_their_own_experience(generator):
    shares = Shares()
    for index, share in enumerate((12, 6, 4)):
        before = shares.held.get("x")
        shares.add(rows(100 * index, 30), share, generator)
        x = shares.held["x"]
        assert x.shape == (index + 1, share)
        for k, part in enumerate(x):
            assert len(set(part.tolist())) == share
            assert all(100 * k <= v < 100 * k + 30 for v in part.tolist())
        if before is not None:
            assert torch.equal(x[:-1], before[:, :share])
        assert torch.equal(shares.held["y"], x % 7)
    assert torch.equal(shares.weights, torch.full((3, 4), 0.25))


def test_every_row_is_kept_with_equal_probability_also_after_shrinking(generator):
    kept = torch.zeros(10)
    for _ in range(3000):
        shares = Shares()
        shares.add({"x": torch.arange(10)}, 5, generator)
        shares.add({"x": torch.arange(10)}, 2, generator)
        kept += torch.bincount(shares.held["x"][0], minlength=10)
    # Binomial, 3000 draws at 0.2: deviation 22.
    assert (kept - 600).abs().max() < 100


def test_small_experiences_are_filled_up_with_copies_that_weigh_nothing(generator):
    shares = Shares()
    shares.add(rows(0, 1), 8, generator)
    shares.add(rows(100, 30), 4, generator)
    assert shares.counts == [1, 4]
    assert shares.held["x"][0].tolist() == [0, 0, 0, 0]
    assert shares.weights.tolist() == [[1, 0, 0, 0], [0.25] * 4]
    shares.add(rows(200, 2), 3, generator)
    assert shares.counts == [1, 3, 2]
    assert shares.held["x"].shape == (3, 3)


def test_what_is_stored_is_restored_into_an_empty_one(generator):
    shares, other = Shares(), Shares()
    shares.add(rows(0, 9), 5, generator)
    shares.add(rows(10, 3), 4, generator)
    other.load_state_dict(shares.state_dict())
    assert len(other) == 2
    assert other.counts == shares.counts
    assert torch.equal(other.weights, shares.weights)
    assert all(torch.equal(other.held[name], shares.held[name]) for name in ("x", "y"))


def test_draws_are_of_real_rows_each_once():
    chance = torch.Generator().manual_seed(0)
    shares = Shares()
    shares.add({"x": torch.arange(2.0)}, 4, chance)
    shares.add({"x": torch.arange(10.0, 20.0)}, 4, chance)  # the first part is filled up by copies
    for count, expected in ((3, 3), (6, 6), (9, 6)):
        drawn = shares.sample(count, chance)["x"].tolist()
        assert len(set(drawn)) == len(drawn) == expected
    assert {0.0, 1.0} < set(drawn)
