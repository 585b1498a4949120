"""Refresh learning."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast import catalogue
from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import ER, Finetune, Refresh
from holdfast.methods.penalties.refresh import noise_like
from holdfast.optim.fisher import fisher_diagonal


class Before(Finetune):
    """Keeps a copy of the model before another method's `batch`, and lets a check see it."""

    def batch(self, learner, batch):
        self.kept = deepcopy(learner.model)
        return batch


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def ascended(model, batch, rate, steps):
    """The weights after steps up the loss, on a copy in training mode."""
    copy = deepcopy(model).train()
    for _ in range(steps):
        copy.zero_grad()
        F.cross_entropy(copy(batch["x"]), batch["y"]).backward()
        with torch.no_grad():
            for weight in copy.parameters():
                weight += rate * weight.grad
    return [weight.detach() for weight in copy.parameters()]


@pytest.mark.parametrize("model", ["mlp(width=16, depth=1)", "cnn(width=4, depth=2)"])
@pytest.mark.parametrize("steps", [1, 3])
def test_before_every_update_each_tensor_moves_up_the_loss_by_a_share_of_its_length(
    numbered, learned, watching, model, steps
):
    before, seen = Before(), []

    def batch(self, learner, batch):
        old = [weight.detach() for weight in before.kept.parameters()]
        there = ascended(before.kept, learner.incoming, 0.5, steps)
        method = learner.method.methods[1]
        fisher = method.fisher.get(learner.named)
        for was, up, f, now in zip(old, there, fisher, learner.parameters, strict=True):
            way = up - was
            length = way.norm() if way.norm() > 0 else 1.0
            expected = was + 0.01 * (was.norm() / length * way) / (1 + 30 * f)
            torch.testing.assert_close(now.detach(), expected, rtol=1e-4, atol=1e-7)
        seen.append(float(max(f.max() for f in fisher)))
        return batch

    refresh = Refresh(delta=0.01, rate=0.5, steps=steps, noise=0.0, caution=30.0)
    learned(numbered(), chain(before, refresh, watching(batch=batch)), model=model)
    assert len(seen) == 24
    assert seen[7] == 0 < seen[8], "importance is known from the end of the first experience on"


def test_importance_holds_back_the_noise_too(numbered, learned, watching):
    before, checked = Before(), []
    method = Refresh(delta=0.01, rate=0.5, noise=0.5, caution=30.0)

    def batch(self, learner, batch):
        old = [weight.detach() for weight in before.kept.parameters()]
        there = ascended(before.kept, learner.incoming, 0.5, 1)
        draw = torch.Generator().manual_seed(1_000_003 * (method.refreshed - 1) + learner.seed)
        noise = noise_like(old, draw)
        fisher = method.fisher.get(learner.named)
        for was, up, f, xi, now in zip(old, there, fisher, noise, learner.parameters, strict=True):
            way = up - was
            move = was.norm() / max(float(way.norm()), 1e-12) * way + 0.5 * xi
            expected = was + 0.01 * move / (1 + 30 * f)
            torch.testing.assert_close(now.detach(), expected, rtol=1e-4, atol=1e-7)
        checked.append(max(float(f.max()) for f in fisher))
        return batch

    learned(numbered(), chain(before, method, watching(batch=batch)), epochs=1)
    assert max(checked) > 1e-3


def test_what_is_replayed_is_not_unlearned(numbered, learned, watching):
    shown = []

    class Noting(Refresh):
        def refresh(self, learner, batch):
            shown.append((batch["id"].tolist(), learner.incoming["id"].tolist()))

    sizes = []

    def batch(self, learner, batch):
        sizes.append(len(batch["y"]))
        return batch

    learned(numbered(), chain(ER(capacity=30), Noting(), watching(batch=batch)))
    assert all(one == other and len(one) == 10 for one, other in shown)
    assert sizes[1:] == [20] * 23


def test_the_update_that_follows_is_the_ordinary_one_at_the_moved_weights(
    numbered, learned, watching
):
    moved = []

    def batch(self, learner, batch):
        moved.append((deepcopy(learner.model), learner.incoming))
        return batch

    def step(self, learner):
        copy, incoming = moved[-1]
        F.cross_entropy(copy(incoming["x"]), incoming["y"]).backward()
        for was, now in zip(copy.parameters(), learner.parameters, strict=True):
            torch.testing.assert_close(now.detach(), was.detach() - 0.05 * was.grad)

    learned(numbered(), chain(Refresh(delta=0.1), watching(batch=batch, step=step)), epochs=1)
    assert len(moved) == 12


def test_without_a_share_nothing_changes(numbered, learned):
    plain = learned(numbered(), Finetune())
    still = learned(numbered(), Refresh(delta=0.0, noise=0.0))
    for one, other in zip(plain.parameters, still.parameters, strict=True):
        assert torch.equal(one, other)


def test_without_rescaling_the_move_is_the_ascent_itself(numbered, learned, watching):
    before = Before()

    def batch(self, learner, batch):
        there = ascended(before.kept, learner.incoming, 0.2, 1)
        for now, up in zip(learner.parameters, there, strict=True):
            torch.testing.assert_close(now.detach(), up)
        return batch

    plain = Refresh(delta=1.0, rate=0.2, noise=0.0, caution=0.0, rescale=False)
    learned(numbered(), chain(before, plain, watching(batch=batch)), epochs=1)


def test_noise_has_its_deviation_and_comes_from_the_learners_generator(numbered, learned, watching):
    before, noise = Before(), []

    def batch(self, learner, batch):
        for was, now in zip(before.kept.parameters(), learner.parameters, strict=True):
            noise.append((now.detach() - was.detach()).flatten())
        return batch

    class Still(Refresh):
        def unlearned(self, learner, batch, weights):
            return [torch.zeros_like(weight) for weight in weights]

    method = Still(delta=0.5, noise=0.2, caution=0.0)
    learned(numbered(), chain(before, method, watching(batch=batch)), epochs=1)
    drawn = torch.cat(noise)
    assert float(drawn.mean()) == pytest.approx(0, abs=4 * 0.1 / len(drawn) ** 0.5)
    assert float(drawn.std()) == pytest.approx(0.1, rel=0.03)
    assert len({float(part[0]) for part in noise}) == len(noise)
    first = noise[0]
    noise.clear()
    method = Still(delta=0.5, noise=0.2, caution=0.0)
    learned(numbered(), chain(before, method, watching(batch=batch)), epochs=1, seed=1)
    assert not torch.allclose(first, noise[0], atol=1e-3)


def test_the_data_come_in_the_same_order_as_without_it(numbered, learned, watching):
    def seen(method):
        order = []

        def batch(self, learner, batch):
            order.append(batch["id"].tolist())
            return batch

        learned(numbered(), chain(ER(capacity=30), method, watching(batch=batch)))
        return order

    assert seen(Refresh(delta=0.1, steps=2)) == seen(Finetune())


def test_running_statistics_count_real_steps_alone(numbered, learned, watching):
    counted, held = [], []

    def batch(self, learner, batch):
        (norm,) = [m for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d)][:1]
        counted.append(int(norm.num_batches_tracked))
        held.append(norm.running_mean.clone())
        return batch

    method = chain(watching(batch=batch), Refresh(delta=0.1), watching(batch=batch))
    learned(numbered(), method, model="cnn(width=4, depth=2)", epochs=1)
    assert counted == [step for step in range(12) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(held[::2], held[1::2], strict=True))


@pytest.mark.parametrize("weighted", [True, False])
def test_importance_is_that_of_single_examples_each_weighed_by_the_chance_of_its_label(
    numbered, learned, watching, weighted
):
    method, expected = Refresh(decay=0.25, weighted=weighted), []

    def end(self, learner, experience):
        model, total = deepcopy(learner.model).eval(), None
        for row in range(len(experience.train)):
            one = experience.train[torch.tensor([row])]
            log_chance = -F.cross_entropy(model(one["x"]), one["y"])
            found = torch.autograd.grad(log_chance, list(model.parameters()))
            chance = log_chance.detach().exp() if weighted else 1.0
            squares = [chance * g**2 / len(experience.train) for g in found]
            total = (
                squares if total is None else [a + b for a, b in zip(total, squares, strict=True)]
            )
        old = expected[-1] if expected else [torch.zeros_like(t) for t in total]
        expected.append([0.25 * a + b for a, b in zip(old, total, strict=True)])
        for one, other in zip(method.fisher.get(learner.named), expected[-1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)

    learned(numbered(), chain(method, watching(end=end)), epochs=1)
    assert len(expected) == 3


@pytest.mark.parametrize("base", ["er(capacity=30)", "der++", "online_ewc", "lwf", "agem", "cpr"])
def test_it_goes_with_any_method(numbered, learned, base):
    with_it = learned(numbered(), catalogue.build(f"{base}+refresh(delta=0.001)"), epochs=1)
    without = learned(numbered(), catalogue.build(base), epochs=1)
    assert len(with_it.record.matrix) == 3
    assert not torch.equal(with_it.parameters[0], without.parameters[0])


def test_it_is_refused_where_weights_are_to_stay(numbered, learned):
    with pytest.raises(UsageError, match="PackNet keeps some where they are"):
        learned(numbered("task"), catalogue.build("packnet+refresh"), head="multi")


@pytest.mark.parametrize(
    "bad", [{"delta": -1}, {"steps": 0}, {"rate": 0}, {"noise": -1}, {"decay": -1}, {"examples": 0}]
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Refresh(**bad)


def test_a_weight_of_labels_asks_for_the_datas_labels(numbered, learned):
    learner = learned(numbered(), Finetune(), epochs=1)
    with pytest.raises(UsageError, match="own labels"):
        fisher_diagonal(learner, numbered()[0].train, "all", weighted=True)
