"""Plateaus and peaks of a loss, by the rule written out; numbers read a step late."""

import numpy as np
import pytest
import torch

from holdfast.optim.plateaus import Late, Plateaus


def by_rule(losses, window, mean, deviation):
    """Means and deviations of all windows, gone through once."""
    found, level, resting = [], 0.0, False
    for end in range(1, len(losses) + 1):
        event = None
        if end >= window:
            part = np.array(losses[end - window : end])
            if resting and part.mean() > level:
                event, resting = "peak", False
            elif not resting and part.mean() < mean and part.std() < deviation:
                event, resting, level = "plateau", True, part.mean() + part.std()
        found.append(event)
    return found


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_events_are_those_of_the_rule(window, seed):
    draw = np.random.default_rng(seed)
    losses = [
        float(loss)
        for _ in range(6)
        for loss in 2.0 * np.exp(-np.arange(25) / 4) + 0.1 * draw.random(25)
    ]
    plateaus = Plateaus(window, mean=0.4, deviation=0.1)
    found = [plateaus.see(loss) for loss in losses]
    assert found == by_rule(losses, window, 0.4, 0.1)
    if window > 1:  # a single loss varies by nothing
        assert found.count("plateau") == 6


def test_a_loss_that_stays_low_is_one_plateau():
    plateaus = Plateaus(3, mean=1.0, deviation=1.0)
    assert [plateaus.see(0.5) for _ in range(20)].count("plateau") == 1


@pytest.mark.parametrize(("losses", "why"), [([1.1] * 9, "high"), ([0.0, 1.0] * 9, "unsteady")])
def test_high_or_unsteady_losses_are_none(losses, why):
    plateaus = Plateaus(4, mean=1.0, deviation=0.4)
    assert not any(plateaus.see(loss) for loss in losses)


def test_a_state_goes_on_where_it_was():
    losses = [2.0, 0.1, 0.1, 0.1, 3.0, 0.1, 0.1]
    whole = Plateaus(2, 0.5, 0.1)
    expected = [whole.see(loss) for loss in losses]
    first, second = Plateaus(2, 0.5, 0.1), Plateaus(2, 0.5, 0.1)
    begun = [first.see(loss) for loss in losses[:4]]
    second.load_state_dict(first.state_dict())
    assert begun + [second.see(loss) for loss in losses[4:]] == expected


def test_a_number_is_read_when_the_next_one_comes_also_after_a_restart():
    late = Late()
    number = torch.tensor(1.5)
    assert late.exchange(number) is None
    number.fill_(9.0)  # what was sent was a copy
    again = Late()
    again.load_state_dict(late.state_dict())
    assert again.exchange(torch.tensor(2.5)) == 1.5
    assert late.exchange(torch.tensor(0.5)) == 1.5
