"""Dark experience replay, with and without labels."""

import pytest
import torch
import torch.nn.functional as F

from holdfast.method import chain
from holdfast.methods import DER, DERpp


class Noted(DERpp):
    """DER++ that keeps its draws for inspection."""

    def draw(self, learner):
        self.draws.append(DER.draw(self, learner))
        return self.draws[-1]


class NotedDER(DER):
    draw = Noted.draw


@pytest.mark.parametrize("kind", [NotedDER, Noted])
def test_the_loss_is_the_formula_on_the_draws_made(numbered, learned, watching, kind):
    method = kind(capacity=30, alpha=0.3)
    method.draws, compared = [], []

    def loss(self, learner, batch, outputs, loss):
        draws, method.draws[:] = list(method.draws), []
        assert len(draws) == (2 if kind is Noted else 1)
        if not draws[0]:
            return loss
        expected = F.cross_entropy(learner.model(batch["x"]), batch["y"])
        far = draws[-1]
        gaps = [
            (f - z) ** 2
            for row, old in zip(
                learner.model(far["x"]).tolist(), far["outputs"].tolist(), strict=True
            )
            for f, z in zip(row, old, strict=True)
        ]
        expected = expected + 0.3 * sum(gaps) / len(gaps)
        if kind is Noted:
            expected = expected + 0.5 * F.cross_entropy(learner.model(draws[0]["x"]), draws[0]["y"])
        torch.testing.assert_close(loss, expected)
        compared.append(len(batch["y"]))
        return loss

    learned(numbered(), chain(method, watching(loss=loss)))
    assert compared == [10] * 23, "the stream's batch is not enlarged"


def test_outputs_of_this_very_forward_pass_are_stored_with_inputs_before_augmentation(
    numbered, learned, watching
):
    method, compared = DER(capacity=200, insert_epochs=1), []

    def loss(self, learner, batch, outputs, loss):
        if learner.epoch:
            return loss
        held = method.buffer.columns
        rows = learner.stream_rows
        assert torch.equal(held["x"][-rows:], learner.incoming["x"])
        assert torch.equal(held["outputs"][-rows:], outputs[:rows].detach())
        augmented = learner.incoming["x"].float() * 2
        assert torch.equal(held["outputs"][-rows:], learner.model(augmented).detach())
        compared.append(rows)
        return loss

    learned(numbered(), chain(method, watching(loss=loss)), augment=lambda x: x.float() * 2)
    assert sum(compared) == 120


def test_labels_are_replayed_on_a_second_independent_draw(numbered, learned):
    method = Noted(capacity=60, insert_epochs=1)  # so that an example is stored at most once
    method.draws = []
    learned(numbered(), method, epochs=12)
    draws = [set(draw["id"].tolist()) for draw in method.draws[48:]]
    overlaps = [len(one & two) for one, two in zip(draws[::2], draws[1::2], strict=True)]
    # The overlap of two independent draws of 10 of 60 is hypergeometric, of mean 10/6.
    deviation = (10 * (1 / 6) * (5 / 6) * (50 / 59)) ** 0.5
    mean = sum(overlaps) / len(overlaps)
    assert abs(mean - 10 / 6) < 4 * deviation / len(overlaps) ** 0.5


def test_classes_that_came_later_do_not_count_in_the_distance(numbered, learned, watching):
    method = DER(capacity=40)
    learner = learned(numbered(), method, head="growing")
    held = method.buffer.columns
    experience = held["id"] // 1000
    assert held["outputs"].shape == (40, 6)
    for index in range(3):
        stored = held["outputs"][experience == index]
        assert len(stored)
        assert not stored[:, : 2 * index + 2].isnan().any()
        assert stored[:, 2 * index + 2 :].isnan().all()
    assert all(p.isfinite().all() for p in learner.parameters)


@pytest.mark.parametrize(("insert_epochs", "offers"), [(None, 360), (1, 120), (2, 240)])
def test_examples_are_offered_in_every_epoch_unless_told_otherwise(
    numbered, learned, insert_epochs, offers
):
    learner = learned(numbered(), DER(capacity=30, insert_epochs=insert_epochs), epochs=3)
    assert learner.method.buffer.seen == offers


def test_batch_size_sets_the_size_of_both_draws(numbered, learned):
    method = Noted(capacity=30, batch_size=4)
    method.draws = []
    learned(numbered(), method)
    assert {len(draw["y"]) for draw in method.draws[2:]} == {4}
