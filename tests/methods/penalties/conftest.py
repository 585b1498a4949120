"""Updates written out beside a method of paths: its gradient, and what the optimizer made of it."""

import pytest
import torch
import torch.nn.functional as F

from holdfast.optim.carry import grown


@pytest.fixture
def follower(watching):
    """A method to come after one of paths in a chain; it checks every gradient against `penalty`.

    `penalty()` gives importances and anchors by name, or None; `moved(learner, task, before)` is
    told of every update, `ended(learner)` of every experience. Numbers are doubles.
    """

    def make(strength, penalty, moved, ended):
        compared, held = [], {}

        def gradients(self, learner):
            task = F.cross_entropy(learner.model(learner.incoming["x"]), learner.incoming["y"])
            plain = torch.autograd.grad(task, learner.parameters)
            terms, pulled = penalty(), False
            for (name, p), g in zip(learner.named, plain, strict=True):
                expected = g.double()
                if terms is not None and name in terms[0]:
                    importance, anchor = (grown(t[name], p.shape) for t in terms)
                    away = 2 * strength * importance * (p.detach() - anchor)
                    expected = expected + away
                    pulled |= bool(away.abs().max() > 1e-3)
                torch.testing.assert_close(p.grad.double(), expected, rtol=1e-3, atol=2e-6)
            compared.append((learner.index, pulled))
            held["task"] = {n: g.double() for (n, _), g in zip(learner.named, plain, strict=True)}
            held["before"] = {n: p.detach().double() for n, p in learner.named}

        def step(self, learner):
            moved(learner, held["task"], held["before"])

        def end(self, learner, experience):
            ended(learner)

        watch = watching(gradients=gradients, step=step, end=end)
        watch.compared = compared
        return watch

    return make
