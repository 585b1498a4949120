"""CLS-ER."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import CLSER, ER
from holdfast.models import build


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_the_copies_follow_by_chance_of_their_own_with_a_decay_that_warms_up(
    numbered, learned, watching
):
    """Every step by hand: moved by (1 - a) of the way, or not at all, as often as asked."""
    moved = {"plastic": [], "stable": []}
    before = {}

    def batch(self, learner, batch):
        clser = next(learner.method.parts())
        for name in moved:
            before[name] = weights(getattr(clser, name).model)
        return batch

    def step(self, learner):
        clser = next(learner.method.parts())
        keep = min(1 - 1 / (learner.updates + 2), 0.9)  # updates are counted after the hooks
        for name, went in moved.items():
            now = weights(getattr(clser, name).model)
            went.append(any(not torch.equal(a, b) for a, b in zip(now, before[name], strict=True)))
            if went[-1]:
                for old, new, p in zip(before[name], now, learner.model.parameters(), strict=True):
                    torch.testing.assert_close(new, keep * old + (1 - keep) * p.detach())

    method = CLSER(
        capacity=30, plastic_chance=0.8, stable_chance=0.3, plastic_decay=0.9, stable_decay=0.9
    )
    learned(numbered(), chain(method, watching(batch=batch, step=step)), epochs=12, lr=0.05)
    assert len(moved["stable"]) == 144
    # Deviations: 4.8 and 5.5 of 144.
    assert abs(sum(moved["plastic"]) - 0.8 * 144) < 4 * 4.8
    assert abs(sum(moved["stable"]) - 0.3 * 144) < 4 * 5.5
    both = sum(p and s for p, s in zip(moved["plastic"], moved["stable"], strict=True))
    assert abs(both - 0.24 * 144) < 4 * 5.1, "by coins that do not depend on one another"


def test_the_surer_copy_teaches_each_replayed_example(numbered, learned, watching):
    compared, picked = [], set()

    def loss(self, learner, batch, outputs, loss):
        plain = F.cross_entropy(outputs, batch["y"])
        rows = learner.stream_rows
        if rows == len(batch["y"]):
            assert float(loss.detach()) == pytest.approx(float(plain.detach()))
            return loss
        clser = next(learner.method.parts())
        total = 0.0
        for x, y, z in zip(batch["x"][rows:], batch["y"][rows:], outputs[rows:], strict=True):
            stable, plastic = (c.model(x[None])[0] for c in (clser.stable, clser.plastic))
            surer = bool(stable.softmax(0)[y] > plastic.softmax(0)[y])
            picked.add(surer)
            teacher = stable if surer else plastic
            total += float(((z - teacher) ** 2).mean().detach())
        expected = float(plain.detach()) + 0.7 * total / (len(batch["y"]) - rows)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        gradient = torch.autograd.grad(loss, outputs, retain_graph=True)[0]
        ours = torch.autograd.grad(plain, outputs, retain_graph=True)[0]
        torch.testing.assert_close(gradient[:rows], ours[:rows])
        compared.append(learner.step)
        return loss

    method = chain(CLSER(capacity=30, consistency=0.7), watching(loss=loss))
    learned(numbered(), method, epochs=1)
    assert len(compared) == 11
    assert picked == {True, False}


def test_the_stable_copy_is_what_predicts_and_the_network_trains_on(numbered, learned, watching):
    before = []

    def step(self, learner):
        own = weights(learner.model)
        clser = next(learner.method.parts())
        x = learner.incoming["x"]
        with learner.serving(), torch.no_grad():
            served = learner.predict({"x": x})
        with torch.no_grad():
            assert torch.equal(served, clser.stable.model(x))
            before.append(bool((served - learner.model(x)).abs().max() > 1e-4))
        assert all(torch.equal(a, b) for a, b in zip(own, learner.model.parameters(), strict=True))

    learned(numbered(), chain(CLSER(capacity=30, stable_chance=0.5), watching(step=step)))
    assert all(before)


def test_new_rows_of_a_head_that_grows_begin_in_the_copies_as_in_the_network(
    numbered, learned, watching
):
    ends = []

    def end(self, learner, experience):
        ends.append(deepcopy(next(learner.method.parts()).stable.model.head.weight))

    def loss(self, learner, batch, outputs, loss):
        if learner.index and not learner.step:
            clser, rows = next(learner.method.parts()), 2 * learner.index
            for copy in (clser.stable, clser.plastic):
                assert torch.equal(copy.model.head.weight[rows:], learner.model.head.weight[rows:])
            assert torch.equal(clser.stable.model.head.weight[:rows], ends[-1])
        return loss

    method = chain(CLSER(capacity=30), watching(end=end, loss=loss))
    learned(numbered(), method, head="growing")
    assert [len(weight) for weight in ends] == [2, 4, 6]


def test_running_statistics_of_the_copies_are_of_what_is_replayed(numbered, learned, watching):
    """By hand: momentum 0.1 of the inputs of the first normalisation, over replayed rows alone."""
    model = build("cnn(width=4, depth=2)", numbered(), seed=1)
    expected, compared = [], []

    def bn(network):
        return next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))

    def batch(self, learner, batch):
        clser = next(learner.method.parts())
        rows = learner.stream_rows
        if rows < len(batch["y"]):
            stable = clser.stable.model
            maps = stable.backbone[1].blocks[0](stable.backbone[0](batch["x"][rows:]))
            mean = maps.mean((0, 2, 3)).detach()
            expected.append(0.9 * bn(stable).running_mean + 0.1 * mean)
        return batch

    def step(self, learner):
        if expected:
            stable = next(learner.method.parts()).stable.model
            torch.testing.assert_close(bn(stable).running_mean, expected[-1])
            compared.append(learner.step)

    method = chain(CLSER(capacity=30), watching(batch=batch, step=step))
    learner = learned(numbered(), method, model=model, epochs=1)
    assert len(compared) == 11
    clser = next(learner.method.parts())
    with learner.serving():
        assert torch.equal(bn(learner.model).running_mean, bn(clser.stable.model).running_mean)
    assert not torch.equal(bn(learner.model).running_mean, bn(clser.stable.model).running_mean)


@pytest.mark.parametrize(("insert_epochs", "offers"), [(None, 360), (1, 120), (2, 240)])
def test_examples_are_offered_in_every_epoch_unless_told_otherwise(
    numbered, learned, insert_epochs, offers
):
    learner = learned(numbered(), CLSER(capacity=30, insert_epochs=insert_epochs), epochs=3)
    assert learner.method.buffer.seen == offers


def test_after_another_replay_only_its_own_rows_are_taught(numbered, learned, watching):
    def loss(self, learner, batch, outputs, loss):
        own = list(learner.method.parts())[1]._replayed
        assert own.stop == len(batch["y"])
        assert own.stop - own.start <= 3
        return loss

    learned(numbered(), chain(ER(20), CLSER(capacity=20, batch_size=3), watching(loss=loss)))


@pytest.mark.parametrize(
    "bad",
    [{"capacity": 0}, {"plastic_chance": 1.1}, {"stable_decay": -0.1}, {"consistency": -1.0}],
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        CLSER(**bad)
