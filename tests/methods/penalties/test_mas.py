"""Memory aware synapses, against single examples' gradients written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import MAS
from holdfast.methods.penalties.mas import sensitivity
from holdfast.models import build
from holdfast.stream import Experience, Stream


def one_by_one(learner, table, columns=slice(None)):
    """Mean over examples of |d sum_c f_c(x)^2 / d theta|, one example after another."""
    learner.model.eval()
    total = {n: torch.zeros_like(p) for n, p in learner.named}
    for row in range(len(table)):
        logits = learner.model(table["x"][row : row + 1])[0, columns]
        found = torch.autograd.grad(logits.square().sum(), learner.parameters)
        for (n, _), g in zip(learner.named, found, strict=True):
            total[n] += g.abs() / len(table)
    learner.model.train()
    return total


def few(stream):
    experiences = [replace(e, train=e.train.take(slice(0, 6))) for e in stream]
    return replace(stream, experiences=experiences)


@pytest.mark.parametrize("mix", [None, 0.3])
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_penalty_is_strength_times_importance_times_squared_distance(
    numbered, learned, watching, mix, scenario
):
    importance, anchor, compared = {}, {}, []

    def loss(self, learner, batch, outputs, loss):
        task = F.cross_entropy(outputs, batch["y"])
        gaps = [(importance[n] * (p - anchor[n]) ** 2).sum() for n, p in learner.named if anchor]
        torch.testing.assert_close(loss, task + 0.2 * sum(gaps))
        compared.append((learner.index, float(loss.detach() - task.detach())))
        return loss

    def end(self, learner, experience):
        new = one_by_one(learner, experience.train)
        for n, p in learner.named:
            anchor[n] = p.detach().clone()
            if mix is None or n not in importance:
                importance[n] = importance.get(n, 0) + new[n]
            else:
                importance[n] = mix * importance[n] + (1 - mix) * new[n]

    method = MAS(strength=0.2, mix=mix)
    learned(few(numbered(scenario)), chain(method, watching(loss=loss, end=end)), epochs=4)
    assert max(gap for index, gap in compared if index == 1) > 1e-4
    assert max(gap for index, gap in compared if index == 2) > 1e-4


ROWS, WIDTH = 30, 5


def linear(task_classes, scenario="class"):
    """A learner with a linear model at random weights, and a table of examples."""
    generator = torch.Generator().manual_seed(0)
    columns = {
        "x": torch.randn(ROWS, WIDTH, generator=generator),
        "y": torch.randint(3, (ROWS,), generator=generator),
    }
    table = Table(columns)
    experiences = [Experience(i, table, table, c) for i, c in enumerate(task_classes)]
    learner = Learner(nn.Linear(WIDTH, 3), seed=0)
    learner.start(Stream("made", experiences, scenario, 3, (WIDTH,)))
    learner.begin(learner.stream[0])
    return learner, table


def closed_form(learner, x, counted):
    """d |Wx + b|^2 / dW_cj = 2 (Wx + b)_c x_j over the outputs that count."""
    x = x.double().numpy()
    weight, bias = (p.detach().double().numpy() for p in learner.parameters)
    logits = (x @ weight.T + bias) * counted
    return [2 * np.abs(logits[:, :, None] * x[:, None, :]).mean(0), 2 * np.abs(logits).mean(0)]


def test_of_a_linear_model_the_importance_is_the_closed_form():
    learner, table = linear([(0, 1, 2)])
    for a, b in zip(
        sensitivity(learner, table), closed_form(learner, table["x"], np.ones(3)), strict=True
    ):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4)


def test_where_the_task_is_known_its_own_classes_count():
    learner, table = linear([(0, 2), (1,)], "task")
    task = torch.arange(ROWS) % 2
    found = sensitivity(learner, table.with_columns(task=task))
    own = torch.tensor([[1, 0, 1], [0, 1, 0]])[task].numpy()
    for a, b in zip(found, closed_form(learner, table["x"], own), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4)


def test_labels_are_not_looked_at():
    learner, table = linear([(0, 1, 2)])
    found = sensitivity(learner, table)
    for a, b in zip(found, sensitivity(learner, Table({"x": table["x"]})), strict=True):
        assert torch.equal(a, b)


def test_what_is_seen_in_use_can_say_what_is_held_from_then_on(numbered, learned, watching):
    compared = []
    stream = few(numbered("domain"))
    seen = Table({"x": stream[0].test["x"][:8]})

    def end(self, learner, experience):
        if learner.index == 1:
            (mas, _) = learner.method.parts()
            mas.hold(learner, seen, anew=True)
            self.importance = one_by_one(learner, seen)
            self.anchor = {n: p.detach().clone() for n, p in learner.named}

    def loss(self, learner, batch, outputs, loss):
        if learner.index == 2:
            gaps = [
                (self.importance[n] * (p - self.anchor[n]) ** 2).sum() for n, p in learner.named
            ]
            task = F.cross_entropy(outputs, batch["y"])
            torch.testing.assert_close(loss, task + 0.2 * sum(gaps))
            compared.append(float(sum(gaps).detach()))
        return loss

    learned(stream, chain(MAS(strength=0.2), watching(end=end, loss=loss)), epochs=4)
    assert max(compared) > 1e-4


def test_opposite_examples_do_not_cancel():
    """The gradients of x and -x are each other's opposites where the bias is all there is."""
    learner, _ = linear([(0, 1, 2)])
    with torch.no_grad():
        learner.model.weight.zero_()
    x = torch.randn(1, WIDTH)
    weight, _ = sensitivity(learner, Table({"x": torch.cat([x, -x])}))
    expected = 2 * learner.model.bias.abs()[:, None] * x.abs()
    torch.testing.assert_close(weight, expected.detach())


def test_memory_bounds_how_many_examples_are_taken_at_a_time_and_nothing_else(monkeypatch):
    learner, table = linear([(0, 1, 2)])
    whole = sensitivity(learner, table)
    monkeypatch.setattr("holdfast.optim.gradient_sums.FLOATS_AT_MOST", 40)  # two at a time
    for a, b in zip(sensitivity(learner, table), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_batch_normalisation_is_taken_in_evaluation_mode_and_left_as_it_was(numbered):
    stream = few(numbered())
    learner = Learner(build("cnn(width=4, depth=2)", stream, seed=0), MAS())
    learner.start(stream)
    learner.begin(stream[0])
    learner.model.train()
    with torch.no_grad():
        learner.model(stream[1].train["x"])  # statistics that are not those at the start
    before = {n: b.clone() for n, b in learner.model.named_buffers()}
    table = stream[0].train
    found = sensitivity(learner, table)
    assert learner.model.training
    assert all(torch.equal(before[n], b) for n, b in learner.model.named_buffers())
    for a, b in zip(found, one_by_one(learner, table).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_new_rows_of_a_head_have_no_importance(numbered, learned, watching):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        if learner.index:
            penalty = loss - F.cross_entropy(outputs, batch["y"])
            (g,) = torch.autograd.grad(penalty, [learner.model.head.weight], retain_graph=True)
            assert not g[2 * learner.index :].any()
            compared.append(bool(g[: 2 * learner.index].any()))
        return loss

    learned(numbered(), chain(MAS(strength=0.1), watching(loss=loss)), head="growing")
    assert sum(compared) > len(compared) // 2


def test_memory_is_two_numbers_a_weight_however_long_the_stream(numbered, learned):
    learner = learned(numbered(), MAS(strength=0.1, examples=5))
    weights = sum(p.numel() for p in learner.parameters)
    held = sum(v.numel() for v in learner.method.state_dict().values() if torch.is_tensor(v))
    assert held == 2 * weights


@pytest.mark.parametrize("final", [True, False])
def test_nothing_is_prepared_for_what_never_comes(numbered, learned, monkeypatch, final):
    asked = []

    def counted(learner, table, examples):
        asked.append((learner.index, examples))
        return [torch.zeros_like(p) for p in learner.parameters]

    monkeypatch.setattr("holdfast.methods.penalties.mas.sensitivity", counted)
    learned(replace(numbered(), final=final), MAS(examples=7))
    assert asked == [(0, 7), (1, 7)] if final else [(0, 7), (1, 7), (2, 7)]


@pytest.mark.parametrize(
    "arguments", [{"strength": -1.0}, {"mix": 1.5}, {"mix": -0.1}, {"examples": 0}]
)
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        MAS(**arguments)
