"""Penalties and distillation on language models, against what is written out by hand."""

from dataclasses import replace

import pytest
import torch

from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import EWC, L2, MAS, SI, LwF, OnlineEWC, RWalk
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama

STREAM = small_stream("text", per_experience=12)


def by_example(model, table, labels="labels"):
    """One example at a time, unpadded: the squared gradient of its own mean loss."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for row in range(len(table)):
        width = int(table["length"][row])
        ids = table["input_ids"][row : row + 1, :width]
        loss = model(input_ids=ids, labels=table[labels][row : row + 1, :width]).loss
        for t, g in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            t += g**2 / len(table)
    return total


@pytest.fixture
def terms(watching):
    """What a method adds to the loss in every pass, beside the weights and the batch."""

    def run(method, stream=STREAM):
        seen, plain = [], []

        def before(self, learner, batch, outputs, loss):
            plain.append(float(loss.detach()))
            return loss

        def after(self, learner, batch, outputs, loss):
            weights = [p.detach().clone() for p in learner.parameters]
            seen.append((float(loss.detach()) - plain[-1], weights, batch, outputs.detach()))
            return loss

        learner = Learner(
            small_llama(),
            chain(watching(loss=before), method, watching(loss=after)),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
            batch_size=4,
            pretrained=True,
            seed=0,
        )
        learner.learn(replace(stream, experiences=stream.experiences[:1]))
        return seen, learner

    return run


def test_l2_pulls_to_the_weights_that_came(terms):
    seen, _ = terms(L2(strength=0.7))
    start = [p.detach() for p in small_llama().parameters()]
    for added, weights, _, _ in seen:
        expected = sum(float((w - s).square().sum()) for w, s in zip(weights, start, strict=True))
        assert added == pytest.approx(0.35 * expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", [EWC, OnlineEWC])
def test_ewc_holds_what_matters_for_the_past_by_one_gradient_an_example(terms, method):
    seen, _ = terms(method(strength=200.0, labels="empirical"))
    model = small_llama()
    fisher = by_example(model, STREAM.past)
    start = [p.detach() for p in model.parameters()]
    assert len(seen) == 3
    for added, weights, _, _ in seen[1:]:
        expected = sum(
            float((f * (w - s).square()).sum())
            for f, w, s in zip(fisher, weights, start, strict=True)
        )
        assert expected > 0
        assert added == pytest.approx(100 * expected, rel=2e-3)


def test_with_labels_of_its_own_the_fisher_is_the_expectation_over_them():
    """Over many draws the sampled Fisher comes to the empirical one's expectation: both are means
    of squared gradients with labels from the model itself."""
    model, draw = small_llama(), torch.Generator().manual_seed(1)
    past = STREAM.past.take(slice(0, 1))
    expected = [torch.zeros_like(p) for p in model.parameters()]
    draws = 60
    for _ in range(draws):
        with torch.no_grad():
            chances = model(input_ids=past["input_ids"]).logits[0, :-1].softmax(-1)
        drawn = torch.multinomial(chances, 1, generator=draw).view(1, -1)
        labels = torch.cat([past["labels"][:, :1], drawn], 1)
        labels = torch.where(past["labels"] >= 0, labels, -100)
        table = past.with_columns(drawn=labels)
        for t, f in zip(expected, by_example(model, table, "drawn"), strict=True):
            t += f / draws
    many = past.take(torch.zeros(draws).long())
    stream = replace(STREAM, past=many, experiences=STREAM.experiences[:1])
    learner = Learner(small_llama(), EWC(), pretrained=True, batch_size=12)
    learner.start(stream)
    learner.begin(stream[0])
    found = learner.method.importance.get(learner.named)
    ours, theirs = (torch.cat([t.flatten() for t in each]) for each in (found, expected))
    assert float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]) > 0.9
    assert float(ours.sum() / theirs.sum()) == pytest.approx(1, abs=0.1)


def test_without_a_past_ewc_holds_what_the_model_says_of_itself(terms):
    _, learner = terms(EWC(examples=6), replace(STREAM, past=None))
    (note,) = learner.record.notes
    assert note["inherited_rows"] == 6


def test_mas_holds_what_the_logits_on_the_past_depend_on(terms):
    seen, _ = terms(MAS(strength=0.1))
    model, past = small_llama(), STREAM.past
    parameters = list(model.parameters())
    importance = [torch.zeros_like(p) for p in parameters]
    for row in range(len(past)):
        width = int(past["length"][row])
        logits = model(input_ids=past["input_ids"][row : row + 1, :width]).logits[0, :-1]
        asked = past["labels"][row, 1:width] >= 0
        norm = logits[asked].square().sum(1).mean()
        for t, g in zip(importance, torch.autograd.grad(norm, parameters), strict=True):
            t += g.abs() / len(past)
    start = [p.detach() for p in parameters]
    for added, weights, _, _ in seen[1:]:
        expected = sum(
            float((f * (w - s).square()).sum())
            for f, w, s in zip(importance, weights, start, strict=True)
        )
        assert added == pytest.approx(0.1 * expected, rel=2e-3)
        assert added > 1e-4


@pytest.mark.parametrize("make", [SI, RWalk])
def test_what_was_done_to_learn_one_text_moves_less_in_the_next(watching, make):
    def drift(strength):
        method, then = make(strength=strength), {}

        def begin(self, learner, experience):
            if learner.index:
                then["weights"] = [p.detach().clone() for p in learner.parameters]
                then["importance"] = [i.clone() for i in method.importance.get(learner.named)]

        learner = Learner(
            small_llama(),
            chain(method, watching(begin=begin)),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
            epochs=2,
            batch_size=4,
            pretrained=True,
            seed=0,
        )
        learner.learn(replace(STREAM, experiences=STREAM.experiences[:2]))
        return sum(
            float((i * (p.detach() - w).square()).sum())
            for i, p, w in zip(then["importance"], learner.parameters, then["weights"], strict=True)
        )

    assert 0 < drift(3.0) < 0.9 * drift(0.0)


def test_a_model_that_is_new_is_not_held():
    learner = Learner(small_llama(), EWC(examples=4), pretrained=False, batch_size=12)
    learner.start(STREAM)
    learner.begin(STREAM[0])
    assert not learner.method.importance


def test_lwf_distils_what_the_model_said_at_every_labelled_token(terms):
    seen, _ = terms(LwF(alpha=0.5, temperature=2.0))
    teacher = small_llama().eval()
    for added, _, batch, outputs in seen:
        with torch.no_grad():
            old = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        total, count = 0.0, 0
        for row in range(len(outputs)):
            for place in range(outputs.shape[1] - 1):
                if batch["labels"][row, place + 1] >= 0:
                    target = (old.logits[row, place] / 2).softmax(-1)
                    total -= float((target * (outputs[row, place] / 2).log_softmax(-1)).sum())
                    count += 1
        assert added == pytest.approx(0.5 * 4 * total / count, rel=1e-3)
