"""Schedules over stages have the values of their closed forms, and no jumps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.optim.schedules import StepSchedule, build, lambda_lr
from holdfast.optim.stages import Infinite, Stages, warmup_cosine


def life_of(schedule: StepSchedule, stages: list[int]) -> list[float]:
    """The factor at every update of a life, and at the one after it."""
    before = [sum(stages[:k]) for k in range(len(stages))]
    way = [
        schedule.factor(t, stages[k], before[k] + t, k)
        for k in range(len(stages))
        for t in range(stages[k])
    ]
    return [*way, schedule.factor(stages[-1], stages[-1], sum(stages), len(stages) - 1)]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def rates(scheduler: Any, updates: int) -> list[float]:
    found = []
    for _ in range(updates):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_one_stage_is_what_transformers_makes_of_it() -> None:
    from transformers import get_cosine_with_min_lr_schedule_with_warmup as theirs
    from transformers import get_linear_schedule_with_warmup as straight

    ours = lambda_lr(optimizer(), warmup_cosine(warmup=5, floor=0.1), 40)
    assert rates(ours, 40) == pytest.approx(
        rates(theirs(optimizer(), 5, 40, min_lr_rate=0.1), 40), abs=1e-12
    )
    ours = lambda_lr(optimizer(), Stages("linear", warmup=5, floor=0.0), 40)
    assert rates(ours, 40) == pytest.approx(rates(straight(optimizer(), 5, 40), 40), abs=1e-12)


def test_a_later_stage_is_warmed_from_where_the_last_one_ended_and_decayed_again() -> None:
    way = life_of(warmup_cosine(warmup=10, floor=0.1), [100, 50])
    assert way[100] == pytest.approx(0.1)  # the second stage's first update
    assert way[105] == pytest.approx(0.1 + 0.9 * 5 / 10)
    assert way[110] == 1.0
    assert way[130] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 20 / 40)) / 2)
    assert way[150] == pytest.approx(0.1)


def test_rewarming_and_redecaying_are_switched_apart() -> None:
    neither = life_of(warmup_cosine(10, rewarm=False), [100, 50])
    assert neither[100:] == pytest.approx([0.1] * 51)
    no_decay = life_of(warmup_cosine(10, redecay=False), [100, 50, 50])
    assert no_decay[105] == pytest.approx(0.55)
    assert no_decay[110:] == pytest.approx([1.0] * 91)  # the third stage begins at the peak
    first_stage = life_of(warmup_cosine(10), [100])[:100]
    assert neither[:100] == no_decay[:100] == first_stage


def test_every_stage_may_have_a_peak_of_its_own() -> None:
    schedule = warmup_cosine(warmup=10, floor=0.1, peaks=(1, 0.5))
    assert [max(life_of(schedule, [100, 50, 50])[at:][:50]) for at in (0, 100, 150)] == [
        1,
        0.5,
        0.5,
    ]


def test_a_share_of_the_updates_is_a_warmup_too() -> None:
    assert Stages(warmup=0.03).rise(100) == 3
    assert Stages(warmup=0.03).rise(101) == 4  # rounded up, as transformers does
    assert Stages(warmup=7).rise(5) == 5


def test_infinite_has_four_phases_by_their_formulas() -> None:
    schedule = Infinite(warmup=10, cooldown=60, level=0.5, floor=0.1, anneal=500, over=20)

    def at(life: int) -> float:
        return schedule.factor(0, 1, life, 3)

    assert at(4) == pytest.approx(0.4)
    assert at(10) == 1.0
    assert at(35) == pytest.approx(0.75)
    assert {at(life) for life in (60, 200, 499, 500)} == {0.5}
    assert at(510) == pytest.approx(math.sqrt(0.5 * 0.1))  # halfway of a geometric fall
    assert at(520) == pytest.approx(0.1)
    assert at(10_000) == pytest.approx(0.1)


def test_the_constant_phase_has_no_end() -> None:
    assert Infinite(level=0.4).factor(5, 10, 10**12, 9) == 0.4


def test_the_inverse_square_root_cools_down_faster_at_first() -> None:
    shape = Infinite(warmup=0, cooldown=100, level=0.5, shape="inverse_sqrt", alpha=8.0)
    at = [shape.factor(0, 1, life, 0) for life in (0, 25, 100)]
    # h(1) = 1/3 - 1 = -2/3 and h(1/4) = 1/sqrt(3) - 1
    assert at == pytest.approx([1.0, 1 - 0.5 * (1 - 1 / math.sqrt(3)) * 1.5, 0.5])
    assert at[1] < Infinite(warmup=0, cooldown=100, level=0.5).factor(0, 1, 25, 0)


unit = st.floats(0.05, 0.95)


@given(
    decay=st.sampled_from(["none", "linear", "cosine"]),
    warmup=st.sampled_from([0.1, 20, 150]),
    floor=unit,
    rewarm=st.booleans(),
    redecay=st.booleans(),
    again=st.floats(0.3, 2.0),
)
def test_stages_never_jump(
    decay: Any, warmup: float, floor: float, rewarm: bool, redecay: bool, again: float
) -> None:
    schedule = Stages(decay, warmup, floor, 0.0, rewarm, redecay, (1, again))
    way = life_of(schedule, [200, 400, 200])
    steepest = max(abs(b - a) for a, b in itertools.pairwise(way))
    assert steepest <= 2.0 / 20 + 1e-9  # the shortest warm-up has 20 updates


@given(level=unit, floor=unit, shape=st.sampled_from(["cosine", "inverse_sqrt"]))
def test_infinite_never_jumps(level: float, floor: float, shape: Any) -> None:
    schedule = Infinite(50, 300, level, floor, shape, anneal=500, over=100)
    way = [schedule.factor(0, 1, life, 0) for life in range(700)]
    assert max(abs(b - a) for a, b in itertools.pairwise(way)) < 0.05


def test_a_learner_follows_a_schedule_over_updates_and_experiences(make_stream: Any) -> None:
    stream = make_stream(experiences=2, rows=24)
    seen: list[float] = []

    class Look:
        def on_step(self, learner: Learner) -> None:
            seen.append(learner.optimizer.param_groups[0]["lr"])

        def on_experience(self, learner: Learner) -> None: ...

    schedule = warmup_cosine(warmup=2, floor=0.1, peaks=(1, 0.5))
    learner = Learner(
        torch.nn.Linear(5, 4),
        optimizer=lambda p: torch.optim.SGD(p, lr=2.0),
        schedule=schedule,
        epochs=2,
        batch_size=4,
        accumulate=2,
    )
    learner.learn(stream, [Look()])  # type: ignore[list-item]
    expected = [2 * f for f in life_of(schedule, [6, 6])[:12]]  # 24 rows, 8 an update, 2 epochs
    assert seen == pytest.approx(expected)


def test_specs_build_schedules() -> None:
    assert build("warmup_cosine(warmup=10, floor=0)") == warmup_cosine(10, 0.0)
    assert build("warmup_linear(0.1)") == Stages("linear", 0.1, 0.0)
    assert build("warmup_constant(start=0.5)") == Stages("none", 0.03, 0.0, 0.5)
    assert build("infinite(10, 20, level=0.6, shape=inverse_sqrt)") == Infinite(
        10, 20, 0.6, shape="inverse_sqrt"
    )


@pytest.mark.parametrize(
    "text",
    [
        "warmup_cosine(warmup=-1)",
        "warmup_cosine(warmup=2.5)",
        "warmup_cosine(floor=2)",
        "warmup_cosine(peaks=(1, 0))",
        "warmup_cosine(peaks=0.5)",
        "warmup_linear(warm=3)",
        "infinite(warmup=10, cooldown=5)",
        "infinite(level=0)",
        "infinite(shape=square)",
        "infinite(cooldown=1000, anneal=900)",
    ],
)
def test_numbers_out_of_range_are_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"\.$"):
        build(text)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError, match="Did you mean 'warmup_cosine'"):
        build("warmup_cosin")
