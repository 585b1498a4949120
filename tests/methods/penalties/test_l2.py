"""L2."""

import torch
import torch.nn.functional as F

from holdfast.method import chain
from holdfast.methods import L2


def test_the_gradient_is_that_of_the_task_plus_strength_times_the_distance(
    numbered, learned, watching
):
    anchor, compared = {}, []

    def gradients(self, learner):
        task = F.cross_entropy(learner.model(learner.incoming["x"]), learner.incoming["y"])
        plain = torch.autograd.grad(task, learner.parameters)
        for (name, p), g in zip(learner.named, plain, strict=True):
            pull = 0.7 * (p.detach() - anchor[name]) if anchor else 0.0
            torch.testing.assert_close(p.grad, g + pull)
        compared.append(learner.index)

    def end(self, learner, experience):
        anchor.update({name: p.detach().clone() for name, p in learner.named})

    learned(numbered(), chain(L2(strength=0.7), watching(gradients=gradients, end=end)))
    assert set(compared) == {0, 1, 2}


def test_the_loss_grows_by_half_the_strength_times_the_squared_distance(
    numbered, learned, watching
):
    anchor, compared = {}, []

    def loss(self, learner, batch, outputs, loss):
        gaps = [((p - anchor[n]) ** 2).sum() for n, p in learner.named] if anchor else [0.0]
        expected = F.cross_entropy(outputs, batch["y"]) + 0.35 * sum(gaps)
        torch.testing.assert_close(loss, expected)
        compared.append(float(torch.as_tensor(sum(gaps)).detach()))
        return loss

    def end(self, learner, experience):
        anchor.update({name: p.detach().clone() for name, p in learner.named})

    learned(numbered(), chain(L2(strength=0.7), watching(loss=loss, end=end)))
    assert compared[-1] > 0


def test_rows_that_a_growing_head_has_gained_are_pulled_to_zero(numbered, learned, watching):
    compared = []

    def gradients(self, learner):
        weight = learner.model.head.weight
        task = F.cross_entropy(learner.model(learner.incoming["x"]), learner.incoming["y"])
        (g,) = torch.autograd.grad(task, [weight])
        if learner.index == 1:
            torch.testing.assert_close(weight.grad[2:4], (g + 0.7 * weight)[2:4].detach())
            compared.append(learner.step)

    learned(numbered(), chain(L2(strength=0.7), watching(gradients=gradients)), head="growing")
    assert compared
