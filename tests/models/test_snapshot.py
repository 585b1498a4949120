"""A frozen copy of a model."""

import torch
from torch import nn

from holdfast.models import Classifier, GrowingHead, Snapshot


def model(classes=2):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    return Classifier(backbone, GrowingHead(4, classes))


def forward(network, batch):
    return network(batch["x"])


BATCH = {"x": torch.randn(6, 3, generator=torch.Generator().manual_seed(0))}


def test_it_stays_as_the_model_was_whatever_the_model_does_after():
    student = model()
    snapshot = Snapshot(lambda: student)
    assert not snapshot.taken
    snapshot.take()
    before = snapshot.outputs(forward, BATCH)
    torch.testing.assert_close(before, student.eval()(BATCH["x"]))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    student.head.grow(5)
    assert torch.equal(snapshot.outputs(forward, BATCH), before)


def test_it_is_in_evaluation_mode_whatever_mode_is_set_around_it():
    student = model().train()
    snapshot = Snapshot(lambda: student)
    snapshot.take()
    nn.ModuleList([snapshot]).train()
    mean = snapshot.model.backbone[2].running_mean.clone()
    snapshot.outputs(forward, BATCH)
    assert not any(part.training for part in snapshot.model.modules())
    assert torch.equal(snapshot.model.backbone[2].running_mean, mean)
    assert student.training


def test_it_takes_no_gradients_and_gives_none():
    student = model()
    snapshot = Snapshot(lambda: student)
    snapshot.take()
    assert not snapshot.outputs(forward, BATCH).requires_grad
    assert not any(p.requires_grad for p in snapshot.parameters())
    assert all(p.requires_grad for p in student.parameters())


def test_its_state_restores_it_in_a_method_that_has_taken_none_also_when_the_head_has_grown():
    student = model()
    snapshot = Snapshot(lambda: student)
    snapshot.take()
    state = {k: v.clone() for k, v in snapshot.state_dict().items()}
    other_student = model(classes=4)
    other = Snapshot(lambda: other_student)
    other.load_state_dict(state)
    assert other.taken
    assert torch.equal(other.outputs(forward, BATCH), snapshot.outputs(forward, BATCH))
    assert len(other_student.head.weight) == 4


def test_the_state_of_none_taken_makes_it_none():
    student = model()
    snapshot, empty = Snapshot(lambda: student), Snapshot(lambda: student)
    snapshot.take()
    snapshot.load_state_dict(empty.state_dict())
    assert not snapshot.taken
