"""Group masking."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from holdfast import streams
from holdfast.method import chain
from holdfast.methods import GroupMasking


def test_the_loss_knows_the_classes_of_the_batch_alone():
    outputs = torch.arange(8.0).view(2, 4).requires_grad_()
    seen = GroupMasking().logits(None, {"y": torch.tensor([1, 3])}, outputs)
    assert seen[:, [1, 3]].tolist() == [[1.0, 3.0], [5.0, 7.0]]
    loss = F.cross_entropy(seen, torch.tensor([1, 3]))
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert (gradient[:, [0, 2]] == 0).all()
    two_way = F.cross_entropy(outputs[:, [1, 3]], torch.tensor([0, 1]))
    assert float(loss.detach()) == pytest.approx(float(two_way.detach()))


def test_rows_of_classes_that_are_not_in_an_experience_stay_as_they_are(learned, watching):
    heads = []

    def end(self, learner, experience):
        heads.append((experience.classes, learner.model.head.weight.detach().clone()))

    stream = streams.build("split-digits(limit=40)", seed=0)
    method = chain(GroupMasking(), watching(end=end))
    learner = learned(stream, method, epochs=2)
    for (_, before), (classes, after) in pairwise(heads):
        moved = (before != after).any(1).nonzero().flatten().tolist()
        assert moved == sorted(classes)
    used = learner.predict(stream[0].test.take(slice(0, 4)).columns)
    assert (used.abs() < 1e6).all(), "in use all count"
