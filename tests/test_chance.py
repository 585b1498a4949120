"""The learner's own global random state."""

from __future__ import annotations

import torch

from holdfast.chance import GlobalChance


def test_what_is_drawn_within_does_not_depend_on_what_is_drawn_outside() -> None:
    one, other = GlobalChance(3, torch.device("cpu")), GlobalChance(3, torch.device("cpu"))
    with one.mine():
        first, second = torch.rand(2), torch.rand(2)
    with other.mine():
        assert torch.equal(torch.rand(2), first)
    torch.rand(100)
    with other.mine():
        assert torch.equal(torch.rand(2), second)


def test_the_state_outside_is_untouched_even_after_an_error() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    chance = GlobalChance(1, torch.device("cpu"))
    drawn = [torch.rand(1)]
    try:
        with chance.mine():
            torch.rand(5)
            raise KeyError
    except KeyError:
        drawn.append(torch.rand(3))
    assert torch.equal(torch.cat(drawn), expected)


def test_a_state_saved_in_the_midst_goes_on_there() -> None:
    chance, later = (GlobalChance(seed, torch.device("cpu")) for seed in (0, 9))
    with chance.mine():
        torch.rand(7)
        state = chance.state_dict()
        expected = torch.rand(3)
    later.load_state_dict(state)
    with later.mine():
        assert torch.equal(torch.rand(3), expected)
