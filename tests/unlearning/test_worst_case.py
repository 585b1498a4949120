"""The search for worst-case forget sets, against its steps written out."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast import models, streams
from holdfast.data import Table
from holdfast.errors import Diverged, UsageError
from holdfast.learner import Learner
from holdfast.models.heads import GrowingHead
from holdfast.objective import Classification
from holdfast.unlearning import lower
from holdfast.unlearning.lower import LOWER, Problem, solve
from holdfast.unlearning.worst_case import automatic_rate, how_many, worst_case


@pytest.fixture(scope="module")
def trained():
    """A perceptron that has learned 300 digits by heart, and the digits."""
    stream = streams.build("split-digits(limit=300)", seed=3, experiences=1)
    model = models.build("mlp(width=32, depth=1)", stream, seed=3)
    learner = Learner(
        model, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), epochs=20, seed=3
    )
    learner.learn(stream)
    return model.eval(), stream[0].train


def problem(model, table, **options):
    classes = model(table[:1]["x"]).shape[1]
    options.setdefault("generator", torch.Generator().manual_seed(0))
    return Problem(model, table, Classification([range(classes)], classes), **options)


def test_the_lower_level_is_sign_descent_on_the_weighted_sum_from_the_original(trained):
    """Two steps written out: order from the generator, weights by each example's own place."""
    model, table = trained
    table = table.take(slice(0, 40))
    weights = torch.linspace(0, 1, 40)
    found = solve(LOWER["finetune"](), problem(model, table, batch_size=20, rate=0.01), weights)
    expected = deepcopy(model).train()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for chosen in (order[:20], order[20:]):
        expected.zero_grad()
        each = F.cross_entropy(expected(table["x"][chosen]), table["y"][chosen], reduction="none")
        ((1 - weights[chosen]) * each).sum().backward()
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.01 * parameter.grad.sign()
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_original_is_reloaded_in_every_iteration_and_never_changed(trained, monkeypatch):
    model, table = trained
    before = deepcopy(model.state_dict())
    begun = []

    def looking(level, problem, weights):
        begun.append(deepcopy(problem.original.state_dict()))
        return solve(level, problem, weights)

    monkeypatch.setattr("holdfast.unlearning.worst_case.solve", looking)
    worst_case(model, table, 30, iterations=3, rate=1e-2)
    assert len(begun) == 3
    for state in (*begun, model.state_dict()):
        assert all(torch.equal(state[name], before[name]) for name in before)


def test_one_upper_step_is_the_projected_gradient(trained):
    """w_1 = P(w_0 - rate (losses + 2 penalty w_0)), losses read at the lower level's answer."""
    model, table = trained
    found = worst_case(
        model, table, 30, iterations=1, upper_rate=500.0, penalty=0.01, seed=4, batch_size=64
    )
    generator = torch.Generator().manual_seed(4)
    start = torch.randperm(len(table), generator=generator)[:30]
    w = torch.zeros(len(table), dtype=torch.float64)
    w[start] = 1
    asked = problem(model, table, generator=generator, batch_size=64)
    unlearned = solve(LOWER["finetune"](), asked, w.float()).eval()
    with torch.no_grad():
        losses = F.cross_entropy(unlearned(table["x"]), table["y"], reduction="none").double()
    moved = w - 500.0 * (losses + 0.02 * w)
    low, high = moved.min() - 1, moved.max()
    for _ in range(80):
        mu = (low + high) / 2
        low, high = (mu, high) if (moved - mu).clamp(0, 1).sum() > 30 else (low, mu)
    assert torch.allclose(found.weights, (moved - mu).clamp(0, 1), atol=1e-6)
    assert found.losses == pytest.approx([float((w * losses).sum() / 30 + 0.01 * 30 / 30)])


def test_the_worst_set_keeps_small_losses_after_unlearning_and_the_easiest_large_ones(trained):
    model, table = trained
    worst = worst_case(model, table, 30, iterations=6, epochs=3)
    easiest = worst_case(model, table, 30, iterations=6, epochs=3, reverse=True)
    assert worst.losses[-1] < 0.2 * worst.losses[0]
    assert easiest.losses[-1] > 2 * easiest.losses[0]
    assert worst.losses[0] == easiest.losses[0]  # one random start
    assert worst.moved > 0.5
    assert not torch.isin(worst.rows, easiest.rows).any()
    assert len(worst.rows) == 30
    assert worst.trail.shape == (6, 300)
    assert torch.allclose(worst.trail.sum(1), torch.full((6,), 30.0), atol=1e-3)


def test_a_search_is_repeated_by_its_seed_and_changes_nobodys_chance(trained):
    model, table = trained
    state = torch.get_rng_state()
    one, two = (worst_case(model, table, 20, iterations=2, seed=s) for s in (1, 1))
    assert torch.equal(one.weights, two.weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_made_whole_every_so_many_iterations(trained):
    model, table = trained
    found = worst_case(model, table, 30, iterations=2, binarise_every=2, upper_rate=300.0)
    assert set(found.weights.tolist()) == {0.0, 1.0}
    assert len(set(found.trail[0].tolist())) > 2


def test_a_rate_that_does_not_move_the_weights_is_told(trained):
    model, table = trained
    with pytest.warns(UserWarning, match=r"did not move .* an upper rate of 1e-06 is small"):
        found = worst_case(model, table, 30, iterations=2, upper_rate=1e-6)
    assert found.moved == 0
    assert "give a larger upper_rate" in found.warning


def test_the_automatic_rate_is_the_scale_over_the_median_loss():
    assert automatic_rate(torch.tensor([0.0, 0.01, 0.02, 5.0]), 3.0) == pytest.approx(150)
    assert automatic_rate(torch.zeros(3), 3.0) == 3.0


def test_whole_classes_are_chosen_by_their_mean_losses(trained):
    model, table = trained
    found = worst_case(model, table, 2, groups=table["y"], iterations=3, scale=10.0)
    assert len(found.groups) == 2
    assert torch.equal(torch.isin(table["y"], found.groups).nonzero().flatten(), found.rows)
    assert found.weights.shape == (10,)


@pytest.mark.parametrize("name", LOWER)
def test_every_lower_level_unlearns_from_the_original(trained, name):
    model, table = trained
    options = {"iterations": 2, "epochs": 2, "lower": name}
    found = worst_case(model, table, 30, **options)
    assert len(found.rows) == 30
    assert float(found.weights.sum()) == pytest.approx(30)


def weighted(name, model, table, weights, epoch=0, **options):
    level = LOWER[name](**options)
    asked = problem(model, table, epochs=4)
    fresh = level.model(asked)
    level.begin(asked, fresh, weights)
    batch = {**table[torch.arange(len(table))], lower.ROW: torch.arange(len(table))}
    return level, fresh, level.loss(asked, fresh, batch, weights, epoch)


def test_losses_of_lower_levels_by_hand(trained):
    model, table = trained
    table, w = table.take(slice(0, 8)), torch.linspace(0, 1, 8)
    logits = model(table["x"])
    each = F.cross_entropy(logits, table["y"], reduction="none")
    _, fresh, l1 = weighted("l1", model, table, w, epoch=1, alpha=0.5)
    norm = sum(p.abs().sum() for p in fresh.parameters())
    assert torch.allclose(l1, ((1 - w) * each).sum() + 0.5 * 0.75 * norm)

    drawn = torch.randint(10, (8,), generator=torch.Generator().manual_seed(0))
    _, _, relabelled = weighted("random_labels", model, table, w)
    wrong = F.cross_entropy(logits, drawn, reduction="none")
    assert torch.allclose(relabelled, ((1 - w) * each + w * wrong).sum(), atol=1e-5)

    level, _, shrunk = weighted("boundary_shrink", model, table, w)
    moved = F.cross_entropy(logits, level.found, reduction="none")
    assert torch.allclose(shrunk, (w * moved).sum())

    _, _, away = weighted("scrub", model, table, w, epoch=0)
    assert float(away.detach()) == pytest.approx(0, abs=1e-5)  # the student is the teacher yet
    _, _, near = weighted("scrub", model, table, w, epoch=1)
    assert torch.allclose(near, 0.99 * ((1 - w) * each).sum())


def test_the_shadow_class_is_an_output_more_and_does_not_count_afterwards(trained):
    model, table = trained
    _, fresh, loss = weighted("boundary_expand", model, table, torch.ones(300))
    assert isinstance(fresh.head, GrowingHead)
    outputs = fresh(table["x"])
    assert outputs.shape == (300, 11)
    assert torch.allclose(loss, F.cross_entropy(outputs, torch.full((300,), 10), reduction="sum"))
    assert isinstance(model.head, nn.Linear)


def test_retraining_starts_from_xavier_weights_and_eu_from_the_original_but_its_last_layer(trained):
    model, table = trained
    weights = torch.zeros(300)
    _, fresh, _ = weighted("retrain", model, table, weights)
    assert all(not (a == b).all() for a, b in zip(
        [p for p in fresh.parameters() if p.dim() > 1],
        [p for p in model.parameters() if p.dim() > 1], strict=True))  # fmt: skip
    _, partly, _ = weighted("eu", model, table, weights)
    assert torch.equal(partly.backbone[1][1].weight, model.backbone[1][1].weight)
    assert not torch.equal(partly.head.weight, model.head.weight)
    assert [p.requires_grad for p in partly.parameters()] == [False, False, True, True]


@pytest.mark.parametrize(
    ("size", "options", "complaint"),
    [
        (300, {}, "there are 300: accepted are 1 to 299"),
        (0, {}, "A forget set of 0 examples"),
        (2.5, {}, "A forget set of 2.5 examples"),
        (float("nan"), {}, "A forget set of nan examples"),
        (10, {"lower": "l2"}, "no lower level 'l2'. Did you mean 'l1'"),
        (10, {"rate": 0.0}, "rate must be above 0"),
        (10, {"iterations": 0}, "iterations must be at least 1"),
        (10, {"penalty": -1.0}, "penalty must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(trained, size, options, complaint):
    model, table = trained
    with pytest.raises(UsageError, match=complaint):
        worst_case(model, table, size, **options)


def test_a_table_without_labels_is_refused_by_levels_that_relabel(trained):
    model, table = trained
    bare = Table({"x": table["x"]})
    with pytest.raises(UsageError, match="random_labels is for classifiers"):
        worst_case(model, bare, 10, lower="random_labels")


def test_losses_that_are_not_finite_end_the_search(trained):
    model, table = trained
    with pytest.raises(Diverged, match="give a smaller rate than 1e"):
        worst_case(model, table, 10, iterations=1, rate=1e38)


def test_sizes_are_numbers_or_shares():
    assert how_many(0.25, 10, "examples") == 2
    assert how_many(3.0, 10, "examples") == 3
    with pytest.raises(UsageError, match="A forget set of True"):
        how_many(True, 10, "examples")
