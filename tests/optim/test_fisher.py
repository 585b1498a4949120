"""The diagonal of the Fisher information, against the closed form for softmax regression."""

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.optim.fisher import fisher_diagonal
from holdfast.stream import Experience, Stream

ROWS, WIDTH, CLASSES = 40, 5, 3


def regression(seed=0, scenario="class"):
    """A learner with a softmax regression at random weights, and a table of examples."""
    generator = torch.Generator().manual_seed(seed)
    table = Table(
        {
            "x": torch.randn(ROWS, WIDTH, generator=generator),
            "y": torch.randint(CLASSES, (ROWS,), generator=generator),
        }
    )
    classes = [(0, 1, 2)] if scenario == "class" else [(0, 2), (1,)]
    experiences = [Experience(i, table, table, c) for i, c in enumerate(classes)]
    stream = Stream("made", experiences, scenario, CLASSES, (WIDTH,))
    model = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        model.weight.copy_(torch.randn(CLASSES, WIDTH, generator=generator))
        model.bias.copy_(torch.randn(CLASSES, generator=generator))
    learner = Learner(model, seed=seed)
    learner.start(stream)
    learner.begin(stream[0])
    return learner, table


def closed_form(learner, table, labels):
    """d log p(y|x) / dW_cj = ([c = y] - p_c) x_j, squared; over y as the kind of Fisher says."""
    x = table["x"].double().numpy()
    weight = learner.model.weight.detach().double().numpy()
    logits = x @ weight.T + learner.model.bias.detach().double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one = np.eye(CLASSES)
    if labels == "empirical":
        squared = (one[table["y"].numpy()] - p) ** 2
    else:
        squared = sum(p[:, [y]] * (one[y] - p) ** 2 for y in range(CLASSES))
    return [(squared[:, :, None] * x[:, None, :] ** 2).mean(0), squared.mean(0)]


@pytest.mark.parametrize("labels", ["empirical", "all"])
def test_empirical_and_exact_fisher_are_the_closed_form(labels):
    learner, table = regression()
    found = fisher_diagonal(learner, table, labels)
    for a, b in zip(found, closed_form(learner, table, labels), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4)


def test_sampled_fisher_is_the_exact_one_on_average():
    learner, table = regression()
    runs = [fisher_diagonal(learner, table, "sampled") for _ in range(300)]
    for part, exact in enumerate(closed_form(learner, table, "all")):
        found = torch.stack([run[part] for run in runs]).double().numpy()
        error = found.std(0) / np.sqrt(len(runs))
        assert found.std(0).min() > 0, "labels are drawn anew"
        assert (np.abs(found.mean(0) - exact) < 5 * error).all()


def test_it_is_not_the_square_of_a_mean_gradient():
    learner, table = regression()
    loss = nn.functional.cross_entropy(learner.model(table["x"]), table["y"])
    squared = torch.autograd.grad(loss, learner.parameters)[0].square()
    found = fisher_diagonal(learner, table, "empirical")[0]
    assert float(found.mean()) > 5 * float(squared.mean())


def test_in_the_task_incremental_scenario_other_tasks_classes_have_no_fisher():
    learner, table = regression(scenario="task")
    mine = table.where(table["y"] != 1)
    mine = mine.with_columns(task=torch.zeros(len(mine), dtype=torch.long))
    for labels in ("sampled", "empirical", "all"):
        weight, bias = fisher_diagonal(learner, mine, labels)
        assert not weight[1].any()
        assert not bias[1].any()
        assert (weight[[0, 2]] > 0).all()


def test_the_number_of_examples_can_be_bounded():
    learner, table = regression()
    expected = []
    state = learner.generator.get_state()
    rows = torch.randperm(ROWS, generator=learner.generator)[:7]
    expected = closed_form(learner, table.take(rows), "empirical")
    learner.generator.set_state(state)
    found = fisher_diagonal(learner, table, "empirical", examples=7)
    np.testing.assert_allclose(found[0].numpy(), expected[0], rtol=1e-4)


def test_large_models_are_taken_in_chunks_with_the_same_result(monkeypatch):
    learner, table = regression()
    whole = fisher_diagonal(learner, table, "all")
    monkeypatch.setattr("holdfast.optim.gradient_sums.FLOATS_AT_MOST", 40)  # two examples at a time
    for a, b in zip(fisher_diagonal(learner, table, "all"), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_weights_modes_gradients_and_global_random_state_are_left_alone():
    learner, table = regression()
    learner.model.train()
    weight, state = learner.model.weight.detach().clone(), torch.get_rng_state()
    fisher_diagonal(learner, table)
    assert learner.model.training
    assert learner.model.weight.grad is None
    assert torch.equal(learner.model.weight, weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parameters_have_none():
    learner, table = regression()
    learner.model.bias.requires_grad_(False)
    assert len(fisher_diagonal(learner, table)) == 1


def test_an_unknown_kind_is_refused():
    learner, table = regression()
    with pytest.raises(UsageError, match=r"sampled, empirical, all; given: 'true'"):
        fisher_diagonal(learner, table, "true")
