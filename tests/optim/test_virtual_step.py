"""A step that is only imagined, against one that is made on a copy."""

from copy import deepcopy

import pytest
import torch

from holdfast.learner import Learner
from holdfast.models import build
from holdfast.optim.virtual_step import loss_increase, virtual_step
from holdfast.testing.trials import small_llama, small_stream


def ready(scenario="class", model="cnn(width=4, depth=2)", rates=(0.5,)):
    """A learner at its first batch, its weights in as many groups as there are rates."""
    stream = small_stream(scenario)

    def optimizer(parameters):
        parts = [parameters[k :: len(rates)] for k in range(len(rates))]
        groups = [{"params": p, "lr": lr} for p, lr in zip(parts, rates, strict=True)]
        return torch.optim.SGD(groups, lr=9.0, momentum=0.9)

    network = small_llama() if scenario == "text" else build(model, stream, seed=1)
    learner = Learner(network, optimizer=optimizer, batch_size=10)
    learner.start(stream)
    learner.begin(stream[0])
    learner.model.train()
    return learner, next(iter(learner.batches)), stream[1].train[:7]


def state(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("rates", [(0.5,), (0.5, 0.1)])
@pytest.mark.parametrize("scenario", ["class", "task", "text"])
def test_the_weights_are_those_of_a_plain_step_in_training_mode(scenario, rates):
    learner, batch, _ = ready(scenario, rates=rates)
    before = state(learner)
    found = virtual_step(learner, batch)
    assert same(state(learner), before), "neither weights nor running statistics change"
    assert all(p.grad is None for p in learner.parameters)
    other = deepcopy(learner.model)
    learner.objective.loss(learner.objective.forward(other, batch), batch).backward()
    for place, (name, parameter) in enumerate(other.named_parameters()):
        expected = parameter - rates[place % len(rates)] * parameter.grad
        torch.testing.assert_close(found[name], expected)
        assert not found[name].requires_grad


def test_the_present_rate_counts_not_the_first():
    learner, batch, _ = ready()
    learner.optimizer.param_groups[0]["lr"] = 0.0
    found = virtual_step(learner, batch)
    assert all(torch.equal(found[name], p) for name, p in learner.named)


@pytest.mark.parametrize("scenario", ["class", "text"])
def test_the_increase_is_that_of_a_copy_with_these_weights_in_evaluation_mode(scenario):
    learner, batch, others = ready(scenario)
    weights = virtual_step(learner, batch)
    before, chance = state(learner), torch.get_rng_state()
    found = loss_increase(learner, weights, others)
    assert same(state(learner), before)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(part.training for part in learner.model.modules())
    now, then = deepcopy(learner.model).eval(), deepcopy(learner.model).eval()
    then.load_state_dict({**before, **weights})
    for row in range(7):
        one = {name: column[row : row + 1] for name, column in others.items()}
        gap = [
            learner.objective.losses(learner.objective.forward(m, one), one) for m in (then, now)
        ]
        torch.testing.assert_close(found[row], (gap[0] - gap[1])[0], rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 1e-3
