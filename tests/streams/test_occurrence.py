"""Matrices of counts, against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.streams import occurrence
from holdfast.streams.occurrence import apportioned, blurry, gaussian, long_tailed, mixed, rehearsal


def test_seats_go_to_the_largest_remainders_and_sum_to_the_total() -> None:
    # Quotas of 10 seats: 4.7, 3.2, 2.1; the one seat left goes to the remainder 0.7.
    assert apportioned(10, torch.tensor([4.7, 3.2, 2.1])).tolist() == [5, 3, 2]
    assert apportioned(0, torch.tensor([1.0, 2.0])).tolist() == [0, 0]


def test_what_rounding_keeps_from_a_group_it_gets_later() -> None:
    owed = torch.zeros(3, dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 1.0])
    rows = torch.stack([apportioned(1, weights, owed) for _ in range(30)])
    assert rows.sum(1).tolist() == [1] * 30
    assert rows.sum(0).tolist() == [10, 10, 10]
    assert rows.cumsum(0).diff(dim=0).max() == 1


def test_owed_groups_never_get_less_than_nothing() -> None:
    owed = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    assert apportioned(2, torch.tensor([1.0, 1.0]), owed).tolist() == [0, 2]
    assert owed.tolist() == [-2.0, 2.0]


@pytest.mark.parametrize("family", ["uniform", "exponential", "power-law", "power-function"])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_all_families_of_rehearsal_show_as_many_examples_in_all(family, share) -> None:
    counts = rehearsal(8, 2000, family, share)
    assert counts.diagonal().tolist() == [2000] * 8
    assert counts.triu(1).sum() == 0
    assert (counts.sum(1) - 2000).tolist() == [0] + [int(2000 * share)] * 7


def test_uniform_rehearsal_shares_alike() -> None:
    assert rehearsal(4, 90, "uniform", 2 / 3)[3].tolist() == [20, 20, 20, 90]


def test_exponential_rehearsal_falls_by_e_from_lag_to_lag() -> None:
    counts = rehearsal(4, 100_000, "exponential", decay=1.0)[3].double()
    assert float(counts[2] / counts[1]) == pytest.approx(math.e, rel=1e-3)
    assert float(counts[1] / counts[0]) == pytest.approx(math.e, rel=1e-3)
    slower = rehearsal(4, 100_000, "exponential", decay=2.0)[3].double()
    assert float(slower[2] / slower[1]) == pytest.approx(math.exp(0.5), rel=1e-3)


def test_a_power_law_of_the_lag_is_a_line_in_logarithms_with_the_exponent_as_its_slope() -> None:
    counts = rehearsal(9, 10_000_000, "power-law", exponent=3.0, scale=2.0)[8, :8].double()
    lag = torch.arange(8, 0, -1, dtype=torch.float64)
    slope = np.polyfit((1 + lag / 2).log(), counts.log(), 1)[0]
    assert slope == pytest.approx(-3.0, abs=1e-3)


def test_the_published_power_function_gives_task_j_the_fourth_power_of_its_place() -> None:
    # alpha = 5: weights (0.10)^4, (0.11)^4, (0.12)^4.
    counts = rehearsal(4, 100_000, "power-function", share=1.0, alpha=5.0)[3, :3]
    weights = [0.10**4, 0.11**4, 0.12**4]
    expected = [100_000 * w / sum(weights) for w in weights]
    assert counts.tolist() == pytest.approx(expected, abs=1)


def test_the_natural_curve_is_the_published_one() -> None:
    published = [57927, 33969, 20867, 13329, 8802, 5981, 4167, 2968, 2155, 1592]
    counts = rehearsal(10, 57927, "natural")[9].flip(0)
    assert counts.tolist() == pytest.approx(published, rel=2e-3)


def test_the_oldest_tasks_get_more_by_a_power_law_than_exponentially() -> None:
    law, falling = (rehearsal(8, 2000, f)[7] for f in ("power-law", "exponential"))
    assert (law[:5] > falling[:5]).all()
    assert law[6] < falling[6]
    assert falling[0] < 5 < 30 < law[0]


def test_no_rehearsal_is_the_diagonal_and_all_is_the_lower_triangle() -> None:
    assert rehearsal(3, 7, "none").tolist() == (7 * torch.eye(3, dtype=torch.long)).tolist()
    assert rehearsal(3, 7, "all").tolist() == [[7, 0, 0], [7, 7, 0], [7, 7, 7]]


def test_mixed_tasks_have_their_own_share_and_the_rest_alike() -> None:
    assert mixed(5, 100, 0.6).tolist() == [
        [60 if i == j else 10 for j in range(5)] for i in range(5)
    ]
    assert mixed(1, 9, 0.5).tolist() == [[9]]


def test_separate_classes_come_once_and_blurred_ones_mostly_at_home(generator) -> None:
    sizes = torch.full((10,), 100)
    counts = blurry(sizes, 5, 0.4, 0.2, False, generator)
    assert counts.sum(0).tolist() == [100] * 10  # every example once
    homes = (counts == 100).any(0)
    assert int(homes.sum()) == 4
    assert ((counts[:, homes] > 0).sum(0) == 1).all()
    blurred = counts[:, ~homes]
    # 80 at home, 20 spread over the four others.
    assert blurred.sort(0, descending=True).values.T.tolist() == [[80, 5, 5, 5, 5]] * 6


def test_remainders_of_blurred_classes_go_round_the_experiences(generator) -> None:
    counts = blurry(torch.full((20,), 10), 5, 0.0, 0.1, False, generator)
    # One example of each class comes elsewhere: twenty in all, and no experience gets them all.
    elsewhere = torch.where(counts == 9, 0, counts).sum(1)
    assert elsewhere.sum() == 20
    assert elsewhere.max() <= 8


def test_without_blur_the_classes_are_split(generator) -> None:
    counts = blurry(torch.full((10,), 7), 5, 0.5, 0.0, False, generator)
    assert ((counts > 0).sum(0) == 1).all()
    assert ((counts > 0).sum(1) == 2).all()


def test_stochastic_experiences_get_back_as_many_as_they_gave_up() -> None:
    sizes = torch.full((10,), 100)
    plain = blurry(sizes, 5, 0.4, 0.0, True, torch.Generator().manual_seed(3))
    mixed_up = blurry(sizes, 5, 0.4, 0.3, True, torch.Generator().manual_seed(3))
    assert (plain > 0).any(1).all()
    assert plain.sum(1).tolist() == mixed_up.sum(1).tolist()
    assert mixed_up.sum(0).tolist() == [100] * 10
    assert not torch.equal(plain, mixed_up)
    assert int((mixed_up == 100).any(0).sum()) >= 4  # separate ones stay whole


def test_gaussian_classes_come_in_turn_by_their_densities() -> None:
    counts = gaussian(1000, 5, 100, width=0.5)
    assert counts.sum(1).tolist() == [100] * 1000
    weights = [math.exp(-((499.5 / 200 - (c + 0.5)) ** 2) / (2 * 0.25)) for c in range(5)]
    expected = [100 * w / sum(weights) for w in weights]
    near = counts[480:519].double().mean(0).tolist()
    assert near == pytest.approx(expected, abs=1.5)
    times = (counts.double() * torch.arange(1000)[:, None]).sum(0) / counts.sum(0)
    assert times.diff().min() > 0  # each has its time, in order
    assert float(times[2]) == pytest.approx(499.5, abs=2)  # the middle one's, by symmetry
    # By symmetry the first and the last class come as often.
    assert counts.sum(0).tolist() == pytest.approx(counts.sum(0).flip(0).tolist(), abs=2)


def test_a_long_stream_of_small_experiences_gives_every_class_its_due() -> None:
    counts = gaussian(1000, 100, 8, width=1.0)
    assert counts.sum(1).tolist() == [8] * 1000
    # The inner classes have equal densities, and so 80 examples each.
    inner = counts.sum(0)[5:-5]
    assert inner.tolist() == pytest.approx([80] * 90, abs=3)


def test_a_long_tail_falls_from_all_to_the_factor(generator) -> None:
    order = torch.tensor([3, 1, 0, 2])
    kept = long_tailed(torch.full((4,), 1000), 0.001, order)
    assert kept[order].tolist() == [1000, 100, 10, 1]
    assert long_tailed(torch.tensor([5]), 0.5, torch.tensor([0])).tolist() == [5]


def test_parts_of_the_classes_come_one_after_another() -> None:
    parts = [torch.tensor([1]), torch.tensor([2, 0])]
    assert occurrence.in_parts(torch.tensor([4, 5, 6]), parts).tolist() == [[0, 5, 0], [4, 0, 6]]
