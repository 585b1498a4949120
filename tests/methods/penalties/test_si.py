"""Synaptic intelligence, against its sums written out, and against the loss itself."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import ER, L2, SI
from holdfast.optim.carry import grown


def written_out(follower, strength, xi):
    """The paper's sums in doubles, beside the method."""
    anchor, path, importance, negative = {}, {}, {}, []

    def penalty():
        return (importance, anchor) if importance else None

    def moved(learner, task, before):
        if not learner.step:
            anchor.update(before)
            path.update({n: torch.zeros_like(b) for n, b in before.items()})
        for n, p in learner.named:
            path[n] -= task[n] * (p.detach().double() - before[n])

    def ended(learner):
        for n, p in learner.named:
            here = p.detach().double()
            total = path[n] / ((here - anchor[n]) ** 2 + xi)
            if n in importance:
                total += grown(importance[n], here.shape)
            if learner.index < 2:  # what comes after is not seen in a gradient
                negative.append(bool((total < 0).any()))
            importance[n], anchor[n] = total.clamp(min=0), here

    watch = follower(strength, penalty, moved, ended)
    watch.negative = negative
    return watch


OPTIMIZERS = {
    "plain": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.AdamW, lr=0.01),
}


@pytest.mark.parametrize("head", ["full", "growing"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_gradient_has_the_penalty_of_the_paths_taken_so_far(
    numbered, learned, follower, optimizer, head
):
    watch = written_out(follower, strength=5.0, xi=0.01)
    options = {"optimizer": OPTIMIZERS[optimizer], "head": head, "epochs": 3}
    learned(numbered(), chain(SI(strength=5.0, xi=0.01), watch), **options)
    assert {index for index, pulled in watch.compared if pulled} == {1, 2}
    assert any(watch.negative) or optimizer != "momentum"


def test_what_counts_is_how_far_weights_moved_not_how_far_they_were_sent(
    numbered, learned, follower
):
    """Clipping shortens the movement; the gradient is the whole one."""
    watch = written_out(follower, strength=5.0, xi=0.01)
    learned(numbered(), chain(SI(strength=5.0, xi=0.01), watch), clip=0.05, lr=1.0, epochs=3)
    assert {index for index, pulled in watch.compared if pulled} == {1, 2}


def test_the_path_adds_up_to_what_the_loss_has_lost(numbered, learned, watching):
    """Along small steps over all examples, omega adds up to the first loss less the last."""
    method, found = SI(), []
    stream = numbered()

    def loss_of(learner):
        table = learner.experience.train
        with torch.no_grad():
            return float(F.cross_entropy(learner.model(table["x"]), table["y"]))

    def begin(self, learner, experience):
        found.append(loss_of(learner))

    def step(self, learner):
        found.append(loss_of(learner))
        if learner.step == 199:
            path = sum(float(p.sum()) for p in method.path.get(learner.named))
            assert path == pytest.approx(found[0] - found[-1], rel=0.01)

    stream = replace(stream, experiences=stream.experiences[:1])
    chained = chain(method, watching(begin=begin, step=step))
    learned(stream, chained, batch_size=40, epochs=200, lr=0.005)
    assert len(found) == 201
    assert found[-1] < 0.5 * found[0]


def test_importances_can_be_cut_off(numbered, learned):
    stream = numbered()
    first = replace(stream, experiences=stream.experiences[:1])
    whole, cut = (
        learned(first, SI(max_importance=bound), epochs=4, lr=0.05) for bound in (None, 1e-3)
    )
    pairs = zip(
        whole.method.importance.get(whole.named), cut.method.importance.get(cut.named), strict=True
    )
    for one, other in pairs:
        assert torch.equal(other, one.clamp(max=1e-3))
    assert any((one > 1e-3).any() for one in whole.method.importance.get(whole.named))


def halved(self, learner, batch, outputs, loss):
    return 0.5 * loss


@pytest.mark.parametrize("other", ["replay", "l2", "halving"])
def test_replayed_examples_and_other_methods_terms_belong_to_the_task(
    numbered, learned, watching, other
):
    method, path, start = SI(strength=5.0), {}, {}

    def gradients(self, learner):
        start["task"] = {n: p.grad.clone() for n, p in learner.named}
        start["before"] = {n: p.detach().clone() for n, p in learner.named}

    def step(self, learner):
        for n, p in learner.named:
            path.setdefault(n, torch.zeros_like(p))
            path[n] -= start["task"][n] * (p.detach() - start["before"][n])
        for (n, _), found in zip(learner.named, method.path.get(learner.named), strict=True):
            torch.testing.assert_close(found, path[n])

    def end(self, learner, experience):
        path.clear()

    others = {"replay": ER(capacity=20), "l2": L2(1.0), "halving": watching(loss=halved)}
    parts = [watching(gradients=gradients), method, watching(step=step, end=end)]
    learned(numbered(), chain(*parts[:1], others[other], *parts[1:]))
    assert any(bool(i.any()) for i in method.importance.buffers())


def test_passes_that_are_added_up_make_the_same_path(numbered, learned):
    whole = learned(numbered(), SI(strength=5.0), batch_size=10)
    parts = learned(numbered(), SI(strength=5.0), batch_size=5, accumulate=2)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for a, b in zip(
        whole.method.importance.buffers(), parts.method.importance.buffers(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


class Idle(nn.Module):
    """A linear classifier with weights that take no part."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(64, 6)

    def forward(self, x):
        return self.linear(x.flatten(1).float())


def test_weights_without_a_gradient_have_no_importance_and_stay(numbered, learned):
    learner = learned(numbered(), SI(strength=5.0), model=Idle())
    idle, weight, _ = learner.method.importance.get(learner.named)
    assert not idle.any()
    assert weight.any()
    assert learner.model.idle.tolist() == [1.0, 1.0, 1.0]


def test_weights_that_other_methods_changed_between_experiences_are_held_where_they_are(
    numbered, learned, watching
):
    found = []

    def end(self, learner, experience):
        with torch.no_grad():
            learner.model.head.bias += 1.0

    def gradients(self, learner):
        if learner.index and not learner.step:
            task = F.cross_entropy(learner.model(learner.incoming["x"]), learner.incoming["y"])
            plain = torch.autograd.grad(task, learner.parameters)
            for p, g in zip(learner.parameters, plain, strict=True):
                torch.testing.assert_close(p.grad, g)
            found.append(learner.index)

    learned(numbered(), chain(SI(strength=50.0), watching(gradients=gradients, end=end)))
    assert found == [1, 2]


def test_memory_is_three_numbers_a_weight_however_long_the_stream(numbered, learned):
    learner = learned(numbered(), SI())
    weights = sum(p.numel() for p in learner.parameters)
    held = sum(v.numel() for v in learner.method.state_dict().values() if torch.is_tensor(v))
    assert held == 3 * weights


def test_no_path_is_followed_for_what_never_comes(numbered, learned, watching):
    method = SI(strength=5.0)

    def step(self, learner):
        followed = any(bool(p.any()) for p in method.path.buffers())
        assert followed == (learner.index < 2)

    learner = learned(replace(numbered(), final=True), chain(method, watching(step=step)))
    assert learner.index == 3


@pytest.mark.parametrize("arguments", [{"strength": -1.0}, {"xi": 0.0}])
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        SI(**arguments)
