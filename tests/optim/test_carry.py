"""Optimizer state follows its parameters when they grow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.optim.carry import carry_state, grown


def test_a_grown_tensor_keeps_its_corner_and_is_zero_elsewhere() -> None:
    larger = grown(torch.ones(2, 3), torch.Size((4, 3)))
    assert larger.tolist() == [[1, 1, 1]] * 2 + [[0, 0, 0]] * 2
    same = torch.ones(2)
    assert grown(same, same.shape) is same


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (6,), (2, 3, 1)])
def test_a_tensor_does_not_shrink_or_change_rank(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not fit in"):
        grown(torch.ones(2, 3), torch.Size(shape))


def named(rows: int, tensors: dict[str, torch.Tensor] | None = None) -> list:
    weight = torch.ones(rows, 2)
    if tensors:
        weight[: len(tensors["weight"])] = tensors["weight"]
    return [("weight", nn.Parameter(weight)), ("other", nn.Parameter(torch.zeros(3)))]


def test_momentum_of_old_rows_goes_on_and_new_rows_start_at_rest() -> None:
    """Two steps with growth between equal two steps of a layer that had all its rows at first."""
    before = named(2)
    old = torch.optim.SGD([p for _, p in before], lr=0.1, momentum=0.9)
    whole = named(4)
    reference = torch.optim.SGD([p for _, p in whole], lr=0.1, momentum=0.9)

    def step(optimizer: torch.optim.Optimizer, parameters: list, rows: int) -> None:
        optimizer.zero_grad()
        (parameters[0][1][:rows].square().sum() + parameters[1][1].sum()).backward()
        optimizer.step()

    step(old, before, 2)
    step(reference, whole, 2)
    after = named(4, {"weight": before[0][1].detach()})
    after[1][1].data.copy_(before[1][1])
    new = torch.optim.SGD([p for _, p in after], lr=0.1, momentum=0.9)
    carry_state(old, before, new, after)
    step(new, after, 4)
    step(reference, whole, 4)
    for (_, ours), (_, expected) in zip(after, whole, strict=True):
        assert torch.equal(ours, expected)


def test_adams_moments_and_step_count_are_carried() -> None:
    before, after = named(2), named(3)
    old = torch.optim.Adam([p for _, p in before])
    sum(p.sum() for _, p in before).backward()
    old.step()
    new = torch.optim.Adam([p for _, p in after])
    carry_state(old, before, new, after)
    state = new.state[after[0][1]]
    assert float(state["step"]) == 1
    assert state["exp_avg"].shape == (3, 2)
    assert torch.equal(state["exp_avg"][:2], old.state[before[0][1]]["exp_avg"])
    assert state["exp_avg_sq"][2].tolist() == [0, 0]


def test_parameters_without_state_or_of_new_names_start_fresh() -> None:
    before = named(2)
    old = torch.optim.SGD([p for _, p in before], lr=0.1, momentum=0.9)
    after = [*named(2), ("fresh", nn.Parameter(torch.ones(1)))]
    new = torch.optim.SGD([p for _, p in after], lr=0.1, momentum=0.9)
    carry_state(old, before, new, after)
    assert not new.state
