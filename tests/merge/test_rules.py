"""Rules of merging agree with references of a few lines, and with numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.merge import rules


@pytest.fixture
def three():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 7, generator=generator) for _ in range(3)]


WEIGHTS = [0.5, 1.0, -0.3]


def test_linear_is_the_weighted_sum(three):
    wanted = sum(w * d.double() for w, d in zip(WEIGHTS, three, strict=True))
    torch.testing.assert_close(rules.linear(three, WEIGHTS).double(), wanted, rtol=0, atol=1e-6)


def test_ties_on_two_by_three_entries_made_by_hand():
    # Half of six entries stay, marked *:  |  weighted sum, elected sign, who agrees, mean
    #   a:  5* -4*  1     3*  0    -2
    #   b: -1   2   6*   -4* -5*    0.5
    #   5 + 0 -> + a: 5;   -4 + 0 -> - a: -4;   0 + 6 -> + b: 6
    #   3 - 4 -> - b: -4;  0 - 5 -> - b: -5;    0 + 0 -> + none: 0
    a = torch.tensor([[5.0, -4.0, 1.0], [3.0, 0.0, -2.0]])
    b = torch.tensor([[-1.0, 2.0, 6.0], [-4.0, -5.0, 0.5]])
    wanted = [[5.0, -4.0, 6.0], [-4.0, -5.0, 0.0]]
    assert rules.ties([a, b], [1, 1], 0.5).tolist() == wanted
    # A weight of 2 turns the election of the fourth entry: 2 * 3 - 4 > 0.
    assert rules.ties([a, b], [2, 1], 0.5)[1, 0] == 3.0


def test_ties_divides_by_the_weights_of_those_that_agree_and_counts_zero_as_plus():
    a, b, c = torch.tensor([[2.0, 1.0], [4.0, 4.0], [-1.0, -5.0]])
    # First entry: 1*2 + 3*4 - 2*1 = 12, + : (2 + 12) / (1 + 3). Second: 1 + 12 - 10 = 3, + : 13/4.
    assert rules.ties([a, b, c], [1, 3, 2], 1.0).tolist() == [3.5, 3.25]
    assert rules.ties([torch.tensor([2.0]), torch.tensor([-2.0])], [1, 1], 1.0).tolist() == [2.0]


def ties_in_ten_lines(deltas, weights, density):
    flat = np.stack([d.numpy().ravel().astype(np.float64) for d in deltas])
    count = round(density * flat.shape[1])
    for row in flat:
        row[np.argsort(-np.abs(row))[count:]] = 0
    weighted = flat * np.array(weights)[:, None]
    sign = np.where(weighted.sum(0) >= 0, 1, -1)
    agrees = np.sign(weighted) == sign
    divisor = (agrees * np.array(weights)[:, None]).sum(0)
    return (weighted * agrees).sum(0) / np.where(divisor == 0, 1, divisor)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_its_reference(three, density):
    found = rules.ties(three, [0.5, 1.0, 0.7], density).flatten().double().numpy()
    np.testing.assert_allclose(found, ties_in_ten_lines(three, [0.5, 1.0, 0.7], density), atol=1e-6)


def test_dare_drops_by_its_generator_and_rescales_what_stays(three):
    found = rules.dare(three, WEIGHTS, 0.6, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    kept = [d * (torch.rand(5, 7, generator=generator) >= 0.6) / 0.4 for d in three]
    wanted = sum(w * d for w, d in zip(WEIGHTS, kept, strict=True))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_dare_keeps_the_expectation_or_the_sum_of_magnitudes(three):
    mean = torch.zeros(5, 7)
    for seed in range(2000):
        mean += rules.dare(three[:1], [1.0], 0.5, torch.Generator().manual_seed(seed)) / 2000
    torch.testing.assert_close(mean, three[0], rtol=0, atol=0.3)
    exact = rules.dare(three[:1], [1.0], 0.5, torch.Generator().manual_seed(0), rescale="l1")
    assert math.isclose(exact.abs().sum(), three[0].abs().sum(), rel_tol=1e-6)


def test_dare_ties_elects_among_what_was_not_dropped(three):
    weights = [0.5, 1.0, 0.7]
    found = rules.dare_ties(three, weights, 0.3, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    kept = [d * (torch.rand(5, 7, generator=generator) >= 0.3) / 0.7 for d in three]
    wanted = ties_in_ten_lines(kept, weights, 1.0)
    np.testing.assert_allclose(found.flatten().numpy(), wanted, atol=1e-5)


def test_magnitude_keeps_the_largest_entries_and_their_sum_if_asked():
    delta = torch.tensor([3.0, -4.0, 1.0, 0.0])
    assert rules.magnitude([delta], [2.0], 0.5).tolist() == [6.0, -8.0, 0.0, 0.0]
    grown = rules.magnitude([delta], [1.0], 0.5, "l1")
    torch.testing.assert_close(grown, torch.tensor([3.0, -4.0, 0, 0]) * 8 / 7)
    assert rules.magnitude([delta], [1.0], 0.5, "expected").tolist() == [6.0, -8.0, 0.0, 0.0]


def test_breadcrumbs_takes_both_tails_away(three):
    found = rules.breadcrumbs([three[0]], [1.0], 0.4, 0.2).flatten()
    order = three[0].flatten().abs().argsort(descending=True)
    middle = order[7:21]  # of 35 entries the largest 7 go, the next 14 stay
    assert set(found.nonzero().flatten().tolist()) == set(middle.tolist())
    torch.testing.assert_close(found[middle], three[0].flatten()[middle])


def test_slerp_goes_along_the_arc_with_the_tensors_own_norms():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    third = rules.slerp(a, b, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([[2 * math.cos(math.pi / 6), 3 * 0.5]]))
    assert rules.slerp(a, b, 0.0).tolist() == a.tolist()
    torch.testing.assert_close(rules.slerp(a, b, 1.0), b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [[2.0, 0.02], [-4.0, 0.0], [0.0, 0.0]])
def test_slerp_takes_the_chord_where_there_is_no_arc(other):
    a, b = torch.tensor([2.0, 0.0]), torch.tensor(other)
    assert rules.slerp(a, b, 0.25).tolist() == (0.75 * a + 0.25 * b).tolist()


def test_half_precision_is_reckoned_in_single_and_left_alone(three):
    halves = [delta.bfloat16() for delta in three]
    before = [half.clone() for half in halves]
    found = rules.ties(halves, [1, 1, 1], 0.5)
    assert found.dtype == torch.float32
    assert torch.equal(found, rules.ties([half.float() for half in halves], [1, 1, 1], 0.5))
    assert all(torch.equal(one, other) for one, other in zip(halves, before, strict=True))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    st.floats(0.05, 1.0),
    st.integers(1, 10),
)
def test_as_many_entries_stay_as_asked_whatever_the_pieces(values, density, step):
    delta = torch.tensor(values, dtype=torch.float32)
    largest = rules.Largest.of(delta, density)
    whole = rules.Largest.of(delta, density).mask(delta)
    assert torch.cat([largest.mask(piece) for piece in delta.split(step)]).equal(whole)
    assert whole.sum() == max(1, round(density * len(values)))
    if not whole.all():
        assert delta[whole].abs().min() >= delta[~whole].abs().max()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: rules.linear([], []), "no change was given"),
        (lambda d: rules.linear([d, d], [1]), "2 changes need as many weights; given: 1"),
        (lambda d: rules.linear([d, d.T], [1, 1]), r"\(2, 3\) and \(3, 2\)"),
        (lambda d: rules.linear([d], [math.inf]), "weights must be finite"),
        (lambda d: rules.ties([d], [1], 1.2), "density must be between 0 and 1; given: 1.2"),
        (lambda d: rules.dare([d], [1], 1.0, torch.Generator()), "below 1; given: 1.0"),
        (lambda d: rules.dare([d], [1], 0.5, torch.Generator(), "l2"), "none, expected, l1"),
        (lambda d: rules.breadcrumbs([d], [1], 0.9, 0.2), "within 1 together"),
        (lambda d: rules.slerp(d, d, 1.5), "t must be between 0 and 1; given: 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(UsageError, match=said):
        call(torch.ones(2, 3))
