"""Classifier-projection regularisation."""

import pytest
import torch

from holdfast import catalogue
from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import CPR, Finetune


def entropies(outputs):
    chances = outputs.softmax(-1)
    return -(chances * chances.log()).sum(-1)


@pytest.mark.parametrize("head", ["full", "growing"])
def test_the_loss_is_less_by_the_entropy_over_the_classes_met(numbered, learned, watching, head):
    added = []

    def before(self, learner, batch, outputs, loss):
        self.was = loss
        return loss

    first = watching(loss=before)

    def after(self, learner, batch, outputs, loss):
        met = 2 * learner.index + 2
        expected = torch.tensor(float(met)).log() - entropies(outputs[:, :met]).mean()
        torch.testing.assert_close(loss - first.was, 0.7 * expected, rtol=1e-4, atol=1e-6)
        added.append(float((loss - first.was).detach()))
        return loss

    learned(numbered(), chain(first, CPR(strength=0.7), watching(loss=after)), head=head)
    assert len(added) == 24
    assert max(added) > 0.1


def test_where_the_task_is_known_only_its_classes_count_and_gradients_are_numbers(
    numbered, learned, watching
):
    def before(self, learner, batch, outputs, loss):
        self.was = loss
        return loss

    first = watching(loss=before)

    def after(self, learner, batch, outputs, loss):
        own = torch.stack(
            [row[2 * t : 2 * t + 2] for row, t in zip(outputs, batch["task"], strict=True)]
        )
        gained = loss - first.was
        # The uniform distribution is over all classes met: a constant apart.
        constant = torch.tensor(float(2 * learner.index + 2)).log()
        torch.testing.assert_close(gained, 0.7 * (constant - entropies(own).mean()))
        (slope,) = torch.autograd.grad(gained, outputs, retain_graph=True)
        (expected,) = torch.autograd.grad(-0.7 * entropies(own).mean(), outputs, retain_graph=True)
        torch.testing.assert_close(slope, expected)
        return loss

    learner = learned(numbered("task"), chain(first, CPR(0.7), watching(loss=after)), epochs=1)
    assert len(learner.record.matrix) == 3


def test_answers_have_more_entropy_than_without(numbered, learned):
    def answered(method):
        learner = learned(numbered(), method, lr=0.2)
        return float(entropies(learner.model(numbered()[2].test["x"])[:, :6]).mean().detach())

    assert answered(CPR(strength=1.0)) > answered(Finetune()) + 0.2


@pytest.mark.parametrize("base", ["ewc", "der++", "lwf"])
def test_it_goes_with_any_method(numbered, learned, base):
    learner = learned(numbered(), catalogue.build(f"{base}+cpr(strength=0.5)"), epochs=1)
    assert len(learner.record.matrix) == 3


def test_a_negative_strength_is_refused():
    with pytest.raises(UsageError, match="strength"):
        CPR(strength=-0.1)
