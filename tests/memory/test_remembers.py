"""State that appears later, changes shape or goes away is restored exactly."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from holdfast.memory.remembers import Remembers


class Memory(Remembers):
    remembers: ClassVar[tuple[str, ...]] = ("count", "names")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.names = 0, []
        self.register_buffer("late", None)
        self.inner = nn.Linear(2, 1)


def test_buffers_that_appeared_and_grew_are_adopted() -> None:
    before, after = Memory(), Memory()
    before.register_buffer("late", torch.arange(3))
    before.register_buffer("unforeseen", torch.ones(2, 2))
    before.count, before.names = 7, ["a"]
    after.register_buffer("unforeseen", torch.zeros(5))
    after.load_state_dict(before.state_dict())
    assert after.late.tolist() == [0, 1, 2]
    assert torch.equal(after.unforeseen, torch.ones(2, 2))
    assert (after.count, after.names) == (7, ["a"])
    assert torch.equal(after.inner.weight, before.inner.weight)


def test_buffers_that_were_not_there_are_given_up() -> None:
    before, after = Memory(), Memory()
    after.register_buffer("late", torch.ones(4))
    after.load_state_dict(before.state_dict())
    assert after.late is None


def test_memory_within_a_module_is_restored_under_its_prefix() -> None:
    before, after = nn.ModuleList([Memory(), Memory()]), nn.ModuleList([Memory(), Memory()])
    before[1].register_buffer("late", torch.ones(4))
    before[0].count = 3
    after.load_state_dict(before.state_dict())
    assert after[0].late is None
    assert torch.equal(after[1].late, torch.ones(4))
    assert (after[0].count, after[1].count) == (3, 0)


def test_restored_memory_is_a_copy() -> None:
    before, after = Memory(), Memory()
    before.register_buffer("late", torch.zeros(2))
    after.load_state_dict(before.state_dict())
    after.late += 1
    assert before.late.tolist() == [0, 0]


def test_a_state_dict_does_not_change_with_what_it_was_taken_from() -> None:
    before, after = Memory(), Memory()
    before.names = ["a"]
    state = before.state_dict()
    after.load_state_dict(state)
    before.names.append("b")
    after.names.append("c")
    again = Memory()
    again.load_state_dict(state)
    assert again.names == ["a"]
