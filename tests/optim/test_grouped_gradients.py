"""Gradients by group."""

import pytest
import torch
import torch.nn.functional as F

from holdfast.learner import Learner
from holdfast.models import build
from holdfast.optim import grouped_gradients as module
from holdfast.optim.grouped_gradients import grouped_gradients
from holdfast.testing import small_stream


def begun(model, scenario="class", **options):
    stream = small_stream(scenario)
    learner = Learner(build(model, stream, seed=1), **options)
    learner.start(stream)
    learner.begin(stream[0])
    learner.model.train()
    return learner


def groups_of(learner, counts, width):
    """Rows of every experience; beyond its count a group repeats its first row, at no weight."""
    parts, weights = [], torch.zeros(len(counts), width)
    for k, (experience, count) in enumerate(zip(learner.stream, counts, strict=True)):
        rows = torch.tensor([*range(count), *[0] * (width - count)])
        parts.append(experience.train[rows])
        weights[k, :count] = 1 / count
    return {name: torch.stack([p[name] for p in parts]) for name in parts[0]}, weights


def by_hand(learner, counts):
    found = []
    for experience, count in zip(learner.stream, counts, strict=True):
        batch = experience.train[:count]
        outputs = learner.model(batch["x"])
        if learner.stream.scenario == "task":
            outputs = learner.objective.within_task(outputs, batch["task"])
        loss = F.cross_entropy(outputs, batch["y"])
        gradients = torch.autograd.grad(loss, learner.parameters)
        found.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(found)


@pytest.mark.parametrize("at_once", [2**30, 1])
@pytest.mark.parametrize("scenario", ["class", "task"])
def test_a_groups_gradient_is_that_of_its_mean_loss(scenario, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", {"cpu": at_once})
    learner, counts = begun("mlp(width=16, depth=1)", scenario), [6, 2, 1]
    groups, weights = groups_of(learner, counts, 6)
    found = grouped_gradients(learner, groups, weights, counts)
    torch.testing.assert_close(found, by_hand(learner, counts), rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in learner.parameters)


def test_pieces_are_put_together_in_order(monkeypatch):
    """As on a device, where groups are mapped over also if they are taken in pieces."""
    learner, counts = begun("mlp(width=16, depth=1)"), [5, 5, 5]
    groups, weights = groups_of(learner, counts, 5)
    found = module._mapped(learner, groups, weights, 2)
    torch.testing.assert_close(found, by_hand(learner, counts), rtol=1e-4, atol=1e-6)


def test_a_model_with_batch_normalisation_sees_one_group_after_the_other():
    learner, counts = begun("cnn(width=4, depth=2)"), [6, 6, 6]
    groups, weights = groups_of(learner, counts, 6)
    expected = by_hand(learner, counts)
    found = grouped_gradients(learner, groups, weights, counts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_examples_are_augmented_as_in_training():
    learner, counts = begun("mlp(width=16, depth=1)", augment=lambda x: 0 * x), [4, 4, 4]
    groups, weights = groups_of(learner, counts, 4)
    found = grouped_gradients(learner, groups, weights, counts)
    learner.augment = None
    dark = {**groups, "x": 0 * groups["x"]}
    expected = grouped_gradients(learner, dark, weights, counts)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, grouped_gradients(learner, groups, weights, counts))
