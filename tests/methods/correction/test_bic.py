"""BiC."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import WA, BiC
from holdfast.methods.correction.bic import chosen_of, correction
from holdfast.stream import Experience


def random_logits(examples=60, old=3, new=2, bias=2.0, seed=0):
    """Logits that favour new classes, as after training on few old examples."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(examples) % (old + new)
    z = torch.randn(examples, old + new, generator=draw)
    z[torch.arange(examples), y] += 2
    z[:, old:] = 1.7 * z[:, old:] + bias
    return z, y, torch.arange(old + new) >= old


@pytest.mark.parametrize("ridge", [0.1, 1e-3])
def test_alpha_and_beta_minimise_the_cross_entropy_as_scipy_does(ridge):
    z, y, new = random_logits()
    logits, labels, is_new = z.double().numpy(), y.numpy(), new.numpy()

    def objective(at):
        q = np.where(is_new, at[0] * logits + at[1], logits)
        top = q.max(1, keepdims=True)
        log_chance = q - top - np.log(np.exp(q - top).sum(1, keepdims=True))
        miss = -log_chance[np.arange(len(q)), labels].mean()
        return miss + ridge / 2 * ((at[0] - 1) ** 2 + at[1] ** 2)

    found = minimize(objective, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9})
    np.testing.assert_allclose(correction(z, y, new, ridge), found.x, atol=1e-4)
    assert found.x[1] < 0


def test_no_gradient_is_left_at_the_minimum():
    z, y, new = random_logits(bias=30.0)
    alpha, beta = correction(10 * z, y, new, 0.1)
    at = torch.tensor([alpha, beta], dtype=torch.double, requires_grad=True)
    q = torch.where(new, at[0] * 10 * z.double() + at[1], 10 * z.double())
    anchor = torch.tensor([1.0, 0.0])
    (F.cross_entropy(q, y) + 0.05 * (at - anchor).square().sum()).backward()
    assert float(at.grad.abs().max()) < 1e-6  # of logits in the hundreds


def test_unbiased_logits_are_hardly_changed_and_a_separable_hold_out_has_an_answer():
    y = torch.arange(40) % 4
    z, new = 10 * F.one_hot(y).float(), torch.tensor([False, False, True, True])
    alpha, beta = correction(z, y, new)
    assert (alpha, beta) == pytest.approx((1, 0), abs=0.01)


def test_every_class_weighs_alike():
    z, y, new = random_logits()
    twice = torch.cat([torch.arange(60), (y == 0).nonzero().flatten()])
    assert correction(z[twice], y[twice], new) == pytest.approx(correction(z, y, new), rel=1e-9)


def test_of_every_class_as_many_are_chosen_but_never_more_than_half():
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 1 + [3] * 20)
    chosen = chosen_of(labels, (0, 1, 2), 4, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[chosen], minlength=4).tolist() == [4, 1, 0, 0]
    assert len(set(chosen.tolist())) == len(chosen)


def test_held_out_examples_are_never_trained_on_and_all_classes_have_as_many(
    numbered, learned, watching
):
    trained, held = set(), []

    def loss(self, learner, batch, outputs, loss):
        trained.update(batch["id"].tolist())
        return loss

    def end(self, learner, experience):
        bic = next(learner.method.parts())
        columns = bic.validation.columns
        held.append(columns["id"].tolist())
        counts = torch.bincount(columns["y"])
        assert counts.tolist() == [len(columns["y"]) // len(counts)] * len(counts)
        exemplars = set(bic.exemplars.columns["id"].tolist())
        assert exemplars <= trained
        assert len(exemplars) + len(columns["y"]) <= 60

    method = chain(BiC(capacity=60, holdout=0.2), watching(loss=loss, end=end))
    learned(numbered(), method)
    assert [len(ids) for ids in held] == [12, 12, 12]
    assert not trained & {i for ids in held for i in ids}


def test_as_many_of_a_new_class_are_held_out_as_an_old_one_has(numbered, learned, watching):
    counts = []

    def loss(self, learner, batch, outputs, loss):
        if not learner.step:
            bic = next(learner.method.parts())
            past = bic.validation.table()
            old = torch.bincount(past["y"]).tolist() if past else []
            labels = learner.experience.train["y"][bic.held_out]
            counts.append((old, torch.bincount(labels)[list(learner.new)].tolist()))
        return loss

    learned(numbered(), chain(BiC(capacity=60, holdout=0.2), watching(loss=loss)))
    assert counts == [([], [6, 6]), ([6, 6], [6, 6]), ([3] * 4, [3, 3])]


@pytest.mark.parametrize("head", ["full", "growing"])
def test_stage_one_distils_the_corrected_logits_of_the_network_before(
    numbered, learned, watching, head
):
    teachers, compared = [None], []

    def loss(self, learner, batch, outputs, loss):
        known = outputs if head == "full" else outputs[:, : learner.known]
        rows = torch.arange(len(batch["y"]))
        plain = -known.log_softmax(1)[rows, batch["y"]].mean()
        if learner.index:
            (model, alpha, beta, corrected), old = teachers[-1], 2 * learner.index
            with torch.no_grad():
                q = model(batch["x"])[:, :old]
            for c in corrected:
                q[:, c] = alpha * q[:, c] + beta
            kept = -((q / 3).softmax(1) * (outputs[:, :old] / 3).log_softmax(1)).sum(1).mean()
            share = old / (old + 2)
            plain = share * kept + (1 - share) * plain
            compared.append((learner.index, bool(corrected)))
        torch.testing.assert_close(loss, plain)
        return loss

    def end(self, learner, experience):
        bic = next(learner.method.parts())
        copy = deepcopy(learner.model).eval()
        teachers.append((copy, float(bic.alpha), float(bic.beta), list(bic.corrected)))

    method = chain(BiC(capacity=60, temperature=3.0), watching(loss=loss, end=end))
    learned(numbered(), method, head=head)
    assert {(1, False), (2, True)} == set(compared)


def test_stage_two_is_fitted_on_the_hold_out_and_corrects_new_logits_alone(
    numbered, learned, watching
):
    hold_out = []

    def before(self, learner, experience):
        bic = next(p for p in learner.method.parts() if isinstance(p, BiC))
        held = experience.train.take(bic.held_out)
        past = bic.validation.columns if len(bic.validation) else {}
        hold_out[:] = [{k: v.clone() for k, v in part.items()} for part in (past, held.columns)]

    method = chain(watching(end=before), BiC(capacity=60))
    learner = learned(numbered(), method)
    bic = list(learner.method.parts())[1]
    x, y = (torch.cat([part[name] for part in hold_out]) for name in ("x", "y"))
    with torch.no_grad():
        z = learner.model(x)
    alpha, beta = correction(z, y, torch.arange(6) >= 4)
    assert (float(bic.alpha), float(bic.beta)) == pytest.approx((alpha, beta), rel=1e-5)
    test = learner.stream[2].test["x"]
    with torch.no_grad():
        z, q = learner.model(test), learner.predict({"x": test})
    assert torch.equal(q[:, :4], z[:, :4])
    torch.testing.assert_close(q[:, 4:], alpha * z[:, 4:] + beta)
    notes = [n for n in learner.record.notes if "alpha" in n]
    assert [n["experience"] for n in notes] == [1, 2]


def test_it_is_not_chained_after_what_chooses_among_the_streams_examples(numbered, learned):
    method = chain(WA(exemplars=10), BiC(capacity=60))
    with pytest.raises(UsageError, match="chain it before"):
        learned(numbered(), method)


def test_within_an_experience_the_network_itself_predicts(numbered, learned, watching):
    def step(self, learner):
        x = learner.incoming["x"]
        assert torch.equal(learner.predict({"x": x}), learner.model(x))

    learned(numbered(), chain(BiC(capacity=60), watching(step=step)))


def test_the_correction_gives_old_classes_back_what_the_bias_takes(numbered, learned):
    """By what the network alone would score after the last experience."""
    learner = learned(numbered(per_experience=80), BiC(capacity=40), epochs=12, lr=0.1)
    old = [learner.stream[k].test for k in (0, 1)]
    x, y = (torch.cat([t[name] for t in old]) for name in ("x", "y"))
    with torch.no_grad():
        plain = (learner.model(x).argmax(1) == y).float().mean()
        corrected = (learner.predict({"x": x}).argmax(1) == y).float().mean()
    assert float(learner.method.beta) < 0
    assert corrected > plain


def test_classes_that_return_are_neither_old_nor_new(numbered, learned):
    stream = numbered()
    first, second, _ = stream
    back = Experience(2, first.train, first.test, first.classes, "back")
    learner = learned(replace(stream, experiences=[first, second, back]), BiC(capacity=60))
    assert learner.method.corrected == []
    test = first.test["x"]
    with torch.no_grad():
        assert torch.equal(learner.predict({"x": test}), learner.model(test))


@pytest.mark.parametrize(
    "bad",
    [{"capacity": 1}, {"holdout": 0.0}, {"holdout": 1.0}, {"temperature": 0.0}, {"ridge": 0.0}],
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        BiC(**bad)
