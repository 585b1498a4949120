"""Schedules are functions of the epoch with the values of their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.optim.schedules import build


def test_constant_does_nothing() -> None:
    assert [build("constant")(e, 3) for e in range(3)] == [1, 1, 1]


def test_cosine_falls_from_one_through_a_half_towards_zero() -> None:
    schedule = build("cosine")
    assert schedule(0, 10) == 1
    assert schedule(5, 10) == pytest.approx(0.5)
    assert schedule(9, 10) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)


def test_steps_multiply_at_fractions_of_the_epochs() -> None:
    schedule = build("steps(0.5, 0.8, factor=0.2)")
    assert [round(schedule(e, 10), 6) for e in range(10)] == [1] * 5 + [0.2] * 3 + [0.04] * 2


def test_steps_default_to_a_tenth() -> None:
    assert build("steps(0.5)")(1, 2) == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["linear", "cosine+constant", "steps(0.5"])
def test_other_schedules_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        build(text)


@pytest.mark.parametrize("text", ["cosine(3)", "constant(a=1)", "steps(half)", "steps(wrong=2)"])
def test_arguments_that_do_not_fit_a_schedule_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        build(text)


def test_warm_restarts_are_pytorchs_one_epoch_after_warming_up() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=1, T_mult=2, eta_min=0.0005
    )
    ours = build("warm_restarts(floor=0.01, warmup=1)")
    assert ours(0, 256) == pytest.approx(0.1)
    for epoch in range(1, 256):
        assert 0.05 * ours(epoch, 256) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("text", ["warm_restarts(floor=2.0)", "warm_restarts(first=0)"])
def test_warm_restarts_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        build(text)
