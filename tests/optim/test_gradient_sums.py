"""Sums over examples of their gradients: mapped, in one pass and one by one, all the same."""

import pytest
import torch

from holdfast.data import shortened
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.models import build
from holdfast.optim.gradient_sums import GradientSums, drawn
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama

MEASURES = {"squared": torch.square, "absolute": torch.abs}


def begun(scenario):
    stream = small_stream(scenario, 8)
    model = small_llama() if scenario == "text" else build("mlp(width=8)", stream, seed=0)
    learner = Learner(model)
    learner.start(stream)
    learner.begin(stream[0])
    return learner, stream[0].train


def written_out(learner, table, number, measure, weights=None):
    total = [torch.zeros_like(p) for p in learner.parameters]
    for row in range(len(table)):
        example = {name: table[name][row : row + 1] for name in table.columns}
        if "input_ids" in example:
            example = shortened(example)
        value = number(learner.objective.forward(learner.model, example), example).sum()
        for t, g in zip(total, torch.autograd.grad(value, learner.parameters), strict=True):
            t += measure(g) * (1.0 if weights is None else float(weights[row]))
    return total


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scenario", ["class", "text"])
@pytest.mark.parametrize("number", ["losses", "squared_norms"])
def test_they_are_the_sums_over_single_examples(scenario, number, measure):
    learner, table = begun(scenario)
    asked, apart = getattr(learner.objective, number), MEASURES[measure]
    sums = GradientSums(learner, asked, apart)
    with undisturbed(learner.model):
        for batch in table.chunks(3):
            sums.add(batch)
    expected = written_out(learner, table, asked, apart)
    for a, b in zip(sums.over(4), expected, strict=True):
        torch.testing.assert_close(4 * a, b, rtol=1e-3, atol=1e-5 * float(b.max()))


def test_a_model_that_does_not_keep_examples_apart_is_taken_one_by_one(monkeypatch):
    learner, table = begun("text")
    asked = learner.objective.squared_norms
    expected = written_out(learner, table, asked, torch.abs)
    monkeypatch.setattr("holdfast.optim.gradient_sums.squared_gradients", lambda *_: None)
    sums = GradientSums(learner, asked, torch.abs)
    with undisturbed(learner.model):
        sums.add(table[:])
    for a, b in zip(sums.over(1), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.max()))


@pytest.mark.parametrize("in_one_pass", [True, False])
@pytest.mark.parametrize("head", ["full", "growing", "cosine"])
def test_a_classifier_is_the_same_in_one_pass_and_mapped(head, in_one_pass, monkeypatch):
    """A cosine head uses its rows otherwise than as a layer, and is always mapped."""
    stream = small_stream("class", 8)
    learner = Learner(build("mlp(width=8)", stream, head=head, seed=0))
    learner.start(stream)
    learner.begin(stream[0])
    if not in_one_pass:
        monkeypatch.setattr("holdfast.optim.gradient_sums.known", lambda _: False)
    sums = GradientSums(learner, learner.objective.losses, torch.square)
    assert sums.in_one_pass == (in_one_pass and head != "cosine")
    with undisturbed(learner.model):
        sums.add(stream[0].train[:])
    expected = written_out(learner, stream[0].train, learner.objective.losses, torch.square)
    for a, b in zip(sums.over(1), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scenario", ["class", "text"])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_examples_may_weigh_differently(scenario, one_by_one, monkeypatch):
    learner, table = begun(scenario)
    if one_by_one:
        monkeypatch.setattr("holdfast.optim.gradient_sums.squared_gradients", lambda *_: None)
    weights = torch.rand(len(table))
    sums = GradientSums(learner, learner.objective.losses, torch.square)
    with undisturbed(learner.model):
        sums.add(table[:], weights)
    expected = written_out(learner, table, learner.objective.losses, torch.square, weights)
    for a, b in zip(sums.over(1), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.max()))


def test_weights_that_are_frozen_have_none():
    learner, table = begun("class")
    learner.model.head.requires_grad_(False)
    sums = GradientSums(learner, learner.objective.losses, torch.abs)
    with undisturbed(learner.model):
        sums.add(table[:])
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    assert [t.shape for t in sums.over(1)] == [p.shape for p in trained]


def test_examples_are_drawn_without_coming_twice():
    learner, table = begun("class")
    table = table.with_columns(id=torch.arange(len(table)))
    assert drawn(learner, table, None) is table
    assert drawn(learner, table, 8) is table
    assert len(set(drawn(learner, table, 5)["id"].tolist())) == 5
