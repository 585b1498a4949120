"""Learning without forgetting."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import ER, WA, LwF
from holdfast.models import build
from holdfast.stream import Experience


def softened_kl(outputs, old, temperature):
    """T^2 KL(teacher || student), as torch computes it."""
    return temperature**2 * F.kl_div(
        (outputs / temperature).log_softmax(1),
        (old / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def test_what_was_learned_may_weigh_by_its_share_of_the_experiences(numbered, learned, watching):
    teachers, compared = [], []

    def loss(self, learner, batch, outputs, loss):
        n, first = learner.index + 1, 2 * learner.index
        task = F.cross_entropy(outputs[:, first:], batch["y"] - first)
        expected = task
        if n > 1:
            old = teachers[-1](batch["x"])[:, :first].detach()
            cross = -((old / 2).softmax(1) * (outputs[:, :first] / 2).log_softmax(1)).sum(1)
            expected = task / n + (1 - 1 / n) * 1.5 * 2**2 * cross.mean()
        torch.testing.assert_close(loss, expected)
        compared.append(n)
        return loss

    def end(self, learner, experience):
        teachers.append(deepcopy(learner.model))

    learned(numbered(), chain(LwF(alpha=1.5, balance="experiences"), watching(loss=loss, end=end)))
    assert set(compared) == {1, 2, 3}


def test_a_balance_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="balance must be none or experiences; given: 'half'"):
        LwF(balance="half")


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("head", ["full", "growing"])
def test_the_gradient_is_cross_entropys_plus_the_softened_kl_of_every_softmax(
    numbered, learned, watching, scenario, head
):
    teachers, compared = [None], []

    def gradients(self, learner):
        if learner.step % 2:
            return
        x, y, now = learner.incoming["x"], learner.incoming["y"], learner.index
        outputs = learner.model(x)
        if scenario == "domain":
            task, groups = F.cross_entropy(outputs, y), [range(10)] * bool(now)
        else:
            first = 2 * now
            last = first + 2 if scenario == "task" else outputs.shape[1]
            task = F.cross_entropy(outputs[:, first:last], y - first)
            groups = [range(first)] * bool(now)
            if scenario == "task":
                groups = [range(2 * t, 2 * t + 2) for t in range(now)]
        for group in groups:
            old = teachers[-1](x)[:, list(group)].detach()
            task = task + 1.5 * softened_kl(outputs[:, list(group)], old, 3.0)
        for p, g in zip(
            learner.parameters, torch.autograd.grad(task, learner.parameters), strict=True
        ):
            torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5)
        compared.append(now)

    def end(self, learner, experience):
        teachers.append(deepcopy(learner.model))

    method = chain(LwF(alpha=1.5, temperature=3.0), watching(gradients=gradients, end=end))
    learned(numbered(scenario), method, head=head)
    assert set(compared) == {0, 1, 2}


def test_the_teacher_sees_what_the_student_saw(numbered, learned, watching):
    """At the start of an experience both are the same network, so their answers agree."""
    compared = []

    def loss(self, learner, batch, outputs, loss):
        if learner.index and learner.step == 0:
            old = outputs[:, : 2 * learner.index].detach()
            entropy = -(old.softmax(1) * old.log_softmax(1)).sum(1).mean()
            new = F.cross_entropy(outputs[:, 2 * learner.index :], batch["y"] - 2 * learner.index)
            torch.testing.assert_close(loss, new + entropy)
            compared.append(learner.index)
        return loss

    method = chain(LwF(temperature=1.0), watching(loss=loss))
    learned(numbered(), method, augment=lambda x: x.float() + 5 * torch.randn(x.shape))
    assert compared == [1, 2]


@pytest.mark.parametrize("new_classes_only", [True, False])
def test_old_classes_are_masked_for_the_streams_rows_only(
    numbered, learned, watching, new_classes_only
):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        rows, first = learner.stream_rows, 2 * learner.index
        hidden = torch.zeros_like(outputs, dtype=torch.bool)
        hidden[:rows, :first] = new_classes_only
        task = F.cross_entropy(outputs.masked_fill(hidden, -torch.inf), batch["y"])
        torch.testing.assert_close(loss, task)
        compared.append(bool(len(outputs) > rows))
        return loss

    # Without weight on the distillation, what is left is the loss on the labels.
    method = LwF(alpha=0.0, new_classes_only=new_classes_only)
    learned(numbered(), chain(ER(capacity=30), method, watching(loss=loss)))
    assert any(compared)


def test_exemplars_that_are_trained_on_with_the_stream_keep_their_label(
    numbered, learned, watching
):
    """Old rows that a method adds by `select` are the stream's, and of classes that are absent."""
    compared = []

    def loss(self, learner, batch, outputs, loss):
        old = batch["y"] < 2 * learner.index
        hidden = torch.zeros_like(outputs, dtype=torch.bool)
        hidden[~old, : 2 * learner.index] = True
        task = F.cross_entropy(outputs.masked_fill(hidden, -torch.inf), batch["y"])
        torch.testing.assert_close(loss, task)
        compared.append(bool(old.any()))
        return loss

    exemplars = WA(exemplars=12, distil=False, align="none", clip_weights=False)
    learned(numbered(), chain(exemplars, LwF(alpha=0.0), watching(loss=loss)))
    assert any(compared)


@pytest.mark.parametrize("head", ["full", "growing"])
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    ],
)
def test_the_warm_up_changes_the_new_rows_and_not_one_bit_else(
    numbered, learned, watching, head, optimizer
):
    state, warm, free = {}, [], []

    def begin(self, learner, experience):
        state.update({n: p.detach().clone() for n, p in learner.named})

    def step(self, learner):
        if not learner.index:
            return
        new = list(learner.new)
        changed = {n: p.detach().clone() for n, p in learner.named if not torch.equal(p, state[n])}
        if learner.epoch == 0:
            assert set(changed) == {"head.weight", "head.bias"}
            for name, now in changed.items():
                assert not torch.equal(now[new], state[name][new])
                now[new] = state[name][new]
                assert torch.equal(now, state[name])
            warm.append(learner.step)
        else:
            assert len(changed) == len(state)
            free.append(learner.step)

    method = chain(LwF(warmup_epochs=1), watching(begin=begin, step=step))
    learned(numbered(), method, head=head, optimizer=optimizer, optimizer_state="keep", epochs=2)
    assert len(warm) == len(free) == 8


def test_old_rows_gather_no_momentum_in_the_warm_up(numbered, learned, watching):
    held = []

    def step(self, learner):
        if learner.index == 1 and learner.epoch == 0:
            buffer = learner.optimizer.state[learner.model.head.weight]["momentum_buffer"]
            held.append((bool(buffer[:2].any()), bool(buffer[4:].any()), bool(buffer[2:4].any())))

    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    learned(numbered(), chain(LwF(warmup_epochs=1), watching(step=step)), optimizer=sgd)
    assert held == [(False, False, True)] * 4


def test_a_class_that_returns_beside_new_ones_keeps_its_label(numbered, learned):
    """It must not be masked: the loss on its examples would be infinite."""
    first, second, third = numbered()
    train = Table.concat([first.train, third.train])
    mixed = Experience(2, train, third.test, (*first.classes, *third.classes))
    stream = replace(numbered(), experiences=[first, second, mixed])
    learner = learned(stream, LwF(), epochs=20)
    with torch.no_grad():
        outputs = learner.model(train["x"])
    allowed = outputs[:, [0, 1, 4, 5]].argmax(1)
    expected = torch.where(train["y"] > 1, train["y"] - 2, train["y"])
    assert float((allowed == expected).float().mean()) > 0.95


def test_a_warm_up_needs_a_linear_head_and_says_so(numbered, learned):
    stream = numbered("task")
    with pytest.raises(StreamRefused, match=r"set warmup_epochs=0\.$"):
        learned(stream, LwF(warmup_epochs=1), model=build("mlp(width=4)", stream, head="multi"))
    learned(stream, LwF(), model=build("mlp(width=4)", stream, head="multi"), epochs=1)
