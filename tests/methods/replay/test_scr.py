"""Supervised contrastive replay."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from holdfast import models
from holdfast.augment import build as augmentation
from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.method import chain
from holdfast.methods import ER, EWC, SCR
from holdfast.testing.comparison import require_same


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(z, y, temperature):
    """The supervised contrastive loss as its paper sums it, one pair after another."""
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        bottom = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        positives = [p for p in others if y[p] == y[i]]
        logs = [float(z[i] @ z[p]) / temperature - math.log(bottom) for p in positives]
        total -= sum(logs) / len(logs)
    return total / len(z)


def test_a_step_descends_the_contrastive_loss_of_two_views_of_stream_and_memory(
    numbered, learned, watching
):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        rows = len(batch["y"]) // 2
        assert batch["id"][:rows].tolist() == batch["id"][rows:].tolist()
        assert torch.equal(batch["id"][: learner.stream_rows], learner.incoming["id"])
        assert rows == learner.stream_rows + min(6, 10 * learner.step if not learner.index else 6)
        with torch.no_grad():
            z = learner.model.projection(learner.model.features(batch["x"])).numpy()
        expected = brute_force(unit(z.astype(float)), batch["y"].tolist(), 0.2)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        compared.append(rows)
        return loss

    method = chain(SCR(capacity=30, batch_size=6, temperature=0.2), watching(loss=loss))
    learned(numbered(), method)
    assert set(compared) == {10, 16}


def test_without_an_augmentation_one_view_is_as_it_came_and_the_other_changed(
    numbered, learned, watching
):
    raw = {int(i): x for e in numbered() for i, x in zip(e.train["id"], e.train["x"], strict=True)}

    def loss(self, learner, batch, outputs, loss):
        rows = len(batch["y"]) // 2
        first, second = batch["x"][:rows], batch["x"][rows:]
        as_it_came = torch.stack([raw[int(i)] for i in batch["id"][:rows]])
        assert torch.equal(first, as_it_came.to(first))
        assert not (first == second).flatten(1).all(1).any()
        low, high = second.amin(), second.amax()
        assert float(low) >= 0
        assert float(high) <= float(as_it_came.max()) + 1e-4  # a part, stretched: not of 255
        return loss

    learned(numbered(), chain(SCR(capacity=30), watching(loss=loss)))


def test_with_one_both_views_are_its_own_draws(numbered, learned, watching):
    def loss(self, learner, batch, outputs, loss):
        rows = len(batch["y"]) // 2
        gap = batch["x"][:rows].flatten(1)[:, 0] - batch["x"][rows:].flatten(1)[:, 0]
        assert float(batch["x"].min()) >= 100
        assert float(gap.abs().max()) > 0
        return loss

    def noisy(x):
        return x.float() + 100 + torch.rand(len(x), 1, 1, 1)

    learned(numbered(), chain(SCR(capacity=30), watching(loss=loss)), augment=noisy)


def test_encoder_and_projection_are_trained_and_the_head_is_not(numbered, learned):
    model = models.build("mlp(width=16, depth=1)", numbered(), seed=1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    drawn = {}

    def setup_seen(learner):
        drawn.update(
            {n: p.detach().clone() for n, p in learner.model.projection.named_parameters()}
        )

    class Seen(SCR):
        def setup(self, learner):
            super().setup(learner)
            setup_seen(learner)

    learner = learned(numbered(), Seen(capacity=30), model=model)
    after = dict(learner.model.named_parameters())
    for name, parameter in before.items():
        assert torch.equal(after[name], parameter) == name.startswith("head")
    for name, parameter in drawn.items():
        assert not torch.equal(after[f"projection.{name}"], parameter)
    assert learner.model.projection[2].weight.shape == (128, 16)


def test_prediction_is_scikit_learns_nearest_centroid_of_unit_memory_means(numbered, learned):
    learner = learned(numbered(), SCR(capacity=40))
    columns = learner.method.buffer.columns
    y = columns["y"].numpy()

    def features(x):
        return unit(learner.features(Table({"x": x})).double().numpy())

    means = unit(np.stack([features(columns["x"])[y == label].mean(0) for label in range(6)]))
    noise = np.random.default_rng(0).normal(0, 0.01, means.shape)
    nearest = NearestCentroid().fit(np.concatenate([means - noise, means + noise]), [*range(6)] * 2)
    test = torch.cat([e.test["x"] for e in learner.stream])
    with torch.no_grad():
        predicted = learner.predict({"x": test})
    assert predicted.argmax(1).tolist() == nearest.predict(features(test)).tolist()


def test_when_scored_within_an_experience_the_means_are_of_the_present_network(
    numbered, learned, watching
):
    compared = []

    def step(self, learner):
        scr = next(learner.method.parts())
        with learner.serving():
            means = scr.means.means.clone()
        held = scr.buffer.columns
        features = unit(learner.features(Table({"x": held["x"]})).double().numpy())
        for label in set(held["y"].tolist()):
            mean = features[held["y"].numpy() == label].mean(0)
            np.testing.assert_allclose(means[label], mean / np.linalg.norm(mean), atol=1e-5)
        compared.append(learner.step)

    learned(numbered(), chain(SCR(capacity=30), watching(step=step)), epochs=1)
    assert compared


def test_the_review_goes_through_the_memory_once_more_at_a_tenth_of_the_rate(
    numbered, learned, watching
):
    seen = []

    def loss(self, learner, batch, outputs, loss):
        if learner.phase:
            rate = learner.optimizer.param_groups[0]["lr"]
            seen.append((learner.index, round(rate, 6), batch["id"].tolist()))
        return loss

    method = chain(SCR(capacity=15, batch_size=10, review=True), watching(loss=loss))
    learner = learned(numbered(), method, lr=0.05)
    assert [(index, rate, len(ids)) for index, rate, ids in seen] == [
        (index, 0.005, rows) for index in range(3) for rows in (20, 10)
    ]
    held = next(learner.method.parts()).buffer
    assert held.seen == 120, "what is reviewed is not offered to the memory again"
    assert {i for index, _, ids in seen if index == 2 for i in ids} == set(
        held.columns["id"].tolist()
    )


def test_a_run_goes_on_exactly_also_from_within_the_review(numbered):
    stream, states = numbered(), []

    def begun():
        model = models.build("mlp(width=8)", stream, head="growing", seed=1)
        return Learner(model, SCR(20, 8, review=True), batch_size=16, optimizer_state="keep")

    class Keep(Observer):
        def on_step(self, learner):
            if learner.phase and learner.step == 4 and learner.index:
                states.append(deepcopy(learner.state_dict()))

    whole = begun()
    whole.learn(stream, [Keep()])
    assert len(states) == 2
    for state in states:
        resumed = begun()
        resumed.restore(stream, state)
        resumed.learn(stream)
        require_same(whole, resumed, "A run resumed in the review")


def test_no_hook_is_left_on_the_head(numbered, learned, watching):
    learner = learned(numbered(), SCR(capacity=30))
    assert not learner.model.head._forward_pre_hooks

    def fails(x):
        raise RuntimeError("no view")

    stream = numbered()
    broken = Learner(models.build("mlp(width=8)", stream), SCR(capacity=30), augment=fails)
    with pytest.raises(RuntimeError, match="no view"):
        broken.learn(stream)
    assert not broken.model.head._forward_pre_hooks


def test_vectors_need_an_augmentation_of_their_own(numbered):
    stream = numbered()
    flat = [
        replace(
            e,
            train=e.train.with_columns(x=e.train["x"].flatten(1)),
            test=e.test.with_columns(x=e.test["x"].flatten(1)),
        )
        for e in stream
    ]
    stream = replace(stream, experiences=flat, shape=(64,))
    model = models.build("mlp(width=8)", stream)
    with pytest.raises(StreamRefused, match=r"shape \(64,\)"):
        Learner(model, SCR()).learn(stream)
    Learner(model, SCR(), augment=lambda x: x + torch.randn(x.shape)).learn(stream)


def test_it_does_not_silently_drop_what_an_earlier_method_adds_to_the_loss(numbered, learned):
    with pytest.raises(UsageError, match="chain SCR before EWC"):
        chain(EWC(), SCR())
    learned(numbered(), chain(ER(capacity=24), SCR(capacity=24)), epochs=1)
    learned(numbered(), chain(SCR(capacity=24), ER(capacity=24)), epochs=1)


def test_augmentations_by_name_serve_it(numbered, learned):
    learner = learned(numbered(), SCR(capacity=24), augment=augmentation("resized_crop+jitter"))
    assert sum(learner.record.matrix[-1]) / 3 > 0.2


@pytest.mark.parametrize(
    "bad", [{"capacity": 0}, {"batch_size": 0}, {"temperature": 0.0}, {"width": 0}]
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        SCR(**bad)
