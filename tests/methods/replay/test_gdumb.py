"""GDumb."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from holdfast.augment import cutmix
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, EWC, GDumb
from holdfast.models import build
from holdfast.testing import check_method

PLAIN = {"epochs": None, "schedule": "own", "cutmix": 0.0, "clip": None}


def test_nothing_but_the_memory_is_trained_on_and_it_is_balanced(numbered, learned, watching):
    shown, held = {0: set(), 1: set(), 2: set()}, []

    def loss(self, learner, batch, outputs, loss):
        shown[learner.index].update(batch["id"].tolist())
        return loss

    def end(self, learner, experience):
        columns = next(learner.method.parts()).buffer.columns
        assert set(columns["id"].tolist()) == shown[learner.index]
        held.append(torch.bincount(columns["y"]).tolist())

    learned(numbered(), chain(GDumb(capacity=24, **PLAIN), watching(loss=loss, end=end)))
    assert held == [[12] * 2, [6] * 4, [4] * 6]


def test_the_model_is_the_one_that_training_afresh_on_the_memory_gives(numbered, learned, watching):
    """After the last experience: the same as plain training of those first weights."""
    first, order = {}, []

    def loss(self, learner, batch, outputs, loss):
        if learner.index == 2:
            if not order:
                first.update({n: p.detach().clone() for n, p in learner.named})
            order.append({k: v.clone() for k, v in batch.items()})
        return loss

    method = chain(GDumb(capacity=30, **PLAIN), watching(loss=loss))
    learner = learned(numbered(), method, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    weights = {n: p.clone().requires_grad_() for n, p in first.items()}
    speed = {n: torch.zeros_like(p) for n, p in first.items()}
    assert len(order) == 6
    for batch in order:
        outputs = torch.func.functional_call(learner.model, weights, (batch["x"],))
        slopes = torch.autograd.grad(F.cross_entropy(outputs, batch["y"]), weights.values())
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            speed[name] = 0.9 * speed[name] + slope
            weights[name] = (weight - 0.1 * speed[name]).detach().requires_grad_()
    for name, parameter in learner.model.named_parameters():
        torch.testing.assert_close(parameter, weights[name])


@pytest.mark.parametrize("head", ["full", "growing"])
def test_every_experience_begins_with_weights_and_momentum_drawn_anew(
    numbered, learned, watching, head
):
    begun, momentum = [], []

    def loss(self, learner, batch, outputs, loss):
        if not learner.step:
            begun.append([p.detach().clone() for p in learner.parameters])
            momentum.append(len(learner.optimizer.state))
        return loss

    method = chain(GDumb(capacity=24, **PLAIN), watching(loss=loss))
    learned(
        numbered(),
        method,
        head=head,
        lr=2.0,
        optimizer_state="keep",
        optimizer=partial(torch.optim.SGD, lr=1.0, momentum=0.9),
    )
    assert momentum == [0, 0, 0]
    for one, other in pairwise(begun):
        for p, q in zip(one, other, strict=True):
            assert p.shape != q.shape or not torch.equal(p, q)
            # As PyTorch draws a layer: within 1 / sqrt(inputs), here 64 pixels or 16 units.
            assert float(q.abs().max()) <= 0.25


def test_it_has_its_own_epochs_and_cosines_that_begin_again(numbered, learned, watching):
    rates = {}

    def step(self, learner):
        rates[learner.epoch] = learner.optimizer.param_groups[0]["lr"]

    method = chain(GDumb(capacity=20, epochs=5, floor=0.2), watching(step=step))
    learner = learned(numbered(), method, lr=0.1, epochs=1)
    half = 0.1 * (0.2 + 0.8 * 0.5)
    assert [rates[epoch] for epoch in range(5)] == pytest.approx([0.01, 0.1, 0.1, half, 0.1])
    assert learner.record.steps == [10, 10, 10]


def test_a_mixed_batch_descends_both_labels_by_area(numbered, learned, watching):
    """CutMix is drawn from the global state, which is put back to repeat the draw."""
    state, whole, compared = [], [], []

    def before(self, learner, batch):
        state.append(torch.get_rng_state())
        whole.append(batch)
        return batch

    def loss(self, learner, batch, outputs, loss):
        with torch.random.fork_rng():
            torch.set_rng_state(state[-1])
            mixed, partner, share = cutmix(whole[-1]["x"], 0.7)
        assert torch.equal(mixed, batch["x"])
        chances = learner.model(mixed).log_softmax(1)
        y, rows = batch["y"], torch.arange(len(mixed))
        expected = -share * chances[rows, y] - (1 - share) * chances[rows, y[partner]]
        torch.testing.assert_close(loss, expected.mean())
        compared.append(float(share))
        return loss

    method = chain(
        watching(batch=before), GDumb(capacity=24, epochs=2, cutmix=0.7), watching(loss=loss)
    )
    learned(numbered(), method)
    assert 0.4 < sum(share < 1 for share in compared) / len(compared) < 1


def test_rows_that_another_method_mixes_in_keep_their_own_label(numbered, learned, watching):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        rows = learner.stream_rows
        if rows < len(batch["y"]):
            plain = F.cross_entropy(outputs, batch["y"], reduction="none")
            # The part of the loss that is due to rows mixed in is untouched.
            torch.testing.assert_close(
                torch.autograd.grad(loss, outputs, retain_graph=True)[0][rows:],
                torch.autograd.grad(plain.mean(), outputs, retain_graph=True)[0][rows:],
            )
            compared.append(rows)
        return loss

    method = chain(GDumb(capacity=24, epochs=2, cutmix=1.0), ER(20), watching(loss=loss))
    learned(numbered(), method)
    assert compared


def test_images_of_two_tasks_are_not_mixed(numbered, learned, watching):
    def loss(self, learner, batch, outputs, loss):
        assert bool(loss.isfinite())
        return loss

    method = chain(GDumb(capacity=24, epochs=2, cutmix=1.0), watching(loss=loss))
    learner = learned(numbered("task"), method, head="multi")
    assert learner.record.matrix[-1]


@pytest.mark.parametrize("clip", [0.01, None])
def test_long_gradients_are_cut(numbered, learned, watching, clip):
    norms = []

    def gradients(self, learner):
        norms.append(float(torch.cat([p.grad.flatten() for p in learner.parameters]).norm()))

    method = chain(GDumb(capacity=24, **{**PLAIN, "clip": clip}), watching(gradients=gradients))
    learned(numbered(), method)
    assert (max(norms) <= 0.0101) == (clip is not None)


def test_a_run_goes_on_exactly_from_the_midst_of_a_mixed_epoch():
    check_method(partial(GDumb, capacity=20, epochs=2, cutmix=1.0), only=["exact_resume"])


def test_a_model_that_knows_something_is_not_thrown_away_silently(numbered):
    stream = numbered()
    learner = Learner(build("mlp(width=8)", stream), GDumb(), pretrained=True)
    with pytest.raises(StreamRefused, match="draws the whole model anew"):
        learner.learn(stream)


def test_a_model_that_cannot_be_drawn_anew_is_refused(numbered):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(64, 6))

        def forward(self, x):
            return x.flatten(1).float() @ self.weight

    stream = numbered()
    with pytest.raises(StreamRefused, match="no reset_parameters"):
        Learner(Fixed(), GDumb()).learn(stream)


def test_it_adds_to_what_others_add_to_the_loss(numbered, learned):
    learned(numbered(), chain(EWC(examples=8), GDumb(capacity=24, epochs=1)), epochs=1)


@pytest.mark.parametrize(
    "bad", [{"capacity": 0}, {"epochs": 0}, {"schedule": "steps"}, {"cutmix": 1.5}, {"clip": 0.0}]
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        GDumb(**bad)
