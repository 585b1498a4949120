"""Elastic weight consolidation, per experience and online."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import EWC, OnlineEWC
from holdfast.optim.fisher import fisher_diagonal


def exact_fisher(learner, table):
    """Written out: over every example and every label, the squared gradient of log p."""
    parameters = [p for _, p in learner.named]
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(table)):
        logs = learner.model(table["x"][i : i + 1]).log_softmax(1)[0]
        for label in range(len(logs)):
            for t, g in zip(
                total, torch.autograd.grad(logs[label], parameters, retain_graph=True), strict=True
            ):
                t += float(logs[label].detach().exp()) * g**2 / len(table)
    return dict(zip([n for n, _ in learner.named], total, strict=True))


class Follower:
    """The explicit sum over experiences, computed beside the method."""

    def __init__(self, watching, strength, decay=None):
        self.terms, self.compared = [], []
        follower = self

        def penalty(learner):
            terms = follower.terms
            if decay is not None and terms:  # one anchor: the latest; Fisher decayed
                ages = range(len(terms) - 1, -1, -1)
                fishers = [f for f, _ in terms]
                mixed = {
                    n: sum(decay**a * f[n] for a, f in zip(ages, fishers, strict=True))
                    for n in fishers[0]
                }
                terms = [(mixed, terms[-1][1])]
            return sum(
                strength / 2 * (fisher[n] * (p - centre[n]) ** 2).sum()
                for fisher, centre in terms
                for n, p in learner.named
            )

        def loss(self, learner, batch, outputs, loss):
            expected = penalty(learner)
            task = F.cross_entropy(outputs, batch["y"])
            found = torch.autograd.grad(loss - task, learner.parameters, retain_graph=True)
            wanted = [torch.zeros_like(p) for p in learner.parameters]
            if follower.terms:
                wanted = torch.autograd.grad(expected, learner.parameters)
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
            difference = float((loss - task - expected).detach()) if follower.terms else 0.0
            follower.compared.append((learner.index, difference))
            return loss

        def end(self, learner, experience):
            here = {n: p.detach().clone() for n, p in learner.named}
            follower.terms.append((exact_fisher(learner, experience.train), here))

        self.watch = watching(loss=loss, end=end)


def few(stream):
    """Half a dozen examples an experience: the explicit Fisher is slow."""
    experiences = [replace(e, train=e.train.take(slice(0, 6))) for e in stream]
    return replace(stream, experiences=experiences)


def test_one_quadratic_has_the_gradients_of_the_sum_over_experiences(numbered, learned, watching):
    follower = Follower(watching, strength=20.0)
    method = chain(EWC(strength=20.0, labels="all"), follower.watch)
    learned(few(numbered()), method, model="mlp(width=4, depth=1)", epochs=8, lr=0.02)
    third = [difference for index, difference in follower.compared if index == 2]
    assert len(third) == 8
    # The losses differ by a constant that does not depend on the weights.
    assert third == pytest.approx([third[0]] * 8, abs=1e-4)
    second = [difference for index, difference in follower.compared if index == 1]
    assert second == pytest.approx([0.0] * 8, abs=1e-5)


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_online_ewc_has_one_anchor_and_a_decaying_fisher(numbered, learned, watching, decay):
    follower = Follower(watching, strength=20.0, decay=decay)
    method = chain(OnlineEWC(strength=20.0, decay=decay, labels="all"), follower.watch)
    learned(few(numbered()), method, model="mlp(width=4, depth=1)", epochs=4, lr=0.02)
    differences = [difference for _, difference in follower.compared]
    assert differences == pytest.approx([0.0] * len(differences), abs=1e-4)
    assert {index for index, _ in follower.compared} == {0, 1, 2}


def test_online_ewc_can_hold_by_the_mean_of_all_importances_each_bounded(
    numbered, learned, watching
):
    seen = []

    def end(self, learner, experience):
        seen.append([f.clamp(max=0.01) for f in exact_fisher(learner, experience.train).values()])

    method = OnlineEWC(labels="all", average=True, max_importance=0.01)
    learner = learned(
        few(numbered()), chain(method, watching(end=end)), model="mlp(width=4, depth=1)", epochs=2
    )
    held = method.importance.get(learner.named)
    for found, *parts in zip(held, *seen, strict=True):
        torch.testing.assert_close(found, sum(parts) / 3)
    assert any((f == 0.01).any() for f in seen[0])


def test_bounded_importances_sum_up_to_no_more(numbered, learned):
    method = EWC(labels="all", max_importance=1e-3)
    learner = learned(few(numbered()), method, model="mlp(width=4, depth=1)", epochs=2)
    largest = max(float(f.max()) for f in method.importance.get(learner.named))
    assert 1e-3 < largest <= 3e-3 * (1 + 1e-5), "three experiences"


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match="average does not decay"):
        OnlineEWC(decay=0.5, average=True)
    for method in (EWC, OnlineEWC):
        with pytest.raises(UsageError, match="max_importance must be above 0"):
            method(max_importance=0.0)


@pytest.mark.parametrize("method", [EWC, OnlineEWC])
def test_new_rows_of_a_head_have_no_importance(numbered, learned, watching, method):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        if learner.index:
            penalty = loss - F.cross_entropy(outputs, batch["y"])
            (g,) = torch.autograd.grad(penalty, [learner.model.head.weight], retain_graph=True)
            assert not g[2 * learner.index :].any()
            compared.append(bool(g[: 2 * learner.index].any()))
        return loss

    learned(numbered(), chain(method(strength=20.0), watching(loss=loss)), head="growing")
    assert sum(compared) > len(compared) // 2


@pytest.mark.parametrize("method", [EWC, OnlineEWC])
def test_memory_is_two_numbers_a_weight_however_long_the_stream(numbered, learned, method):
    stream = numbered()
    learner = learned(stream, method())
    weights = sum(p.numel() for p in learner.parameters)
    held = sum(v.numel() for v in learner.method.state_dict().values() if torch.is_tensor(v))
    assert held == 2 * weights


def test_the_fisher_is_taken_on_as_many_examples_as_asked(numbered, learned, monkeypatch):
    asked = []

    def counting(learner, table, labels, examples):
        asked.append((len(table), labels, examples))
        return fisher_diagonal(learner, table, labels, examples)

    monkeypatch.setattr("holdfast.methods.penalties.ewc.fisher_diagonal", counting)
    learned(numbered(), EWC(labels="empirical", examples=7))
    assert asked == [(40, "empirical", 7)] * 3


@pytest.mark.parametrize("method", [EWC, OnlineEWC])
def test_nothing_is_prepared_for_what_never_comes(numbered, learned, monkeypatch, method):
    asked = []

    def counted(learner, table, *_):
        asked.append(learner.index)
        return [torch.ones_like(p) for p in learner.parameters]

    monkeypatch.setattr("holdfast.methods.penalties.ewc.fisher_diagonal", counted)
    stream = replace(numbered(), final=True)
    learned(stream, method())
    assert asked == list(range(len(stream) - 1))
