"""A frozen copy of a model."""

import torch
from torch import nn

from holdfast.models import Classifier, GrowingHead, Snapshot
from holdfast.models.snapshot import Follower


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


def test_a_follower_moves_a_share_of_the_way():
    student = model()
    follower = Follower(lambda: student)
    follower.take()
    before = [p.clone() for p in follower.model.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    follower.follow(0.75)
    for old, new in zip(before, follower.model.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_a_follower_normalises_by_the_batch_and_counts_what_it_was_asked_about():
    student = model().eval()
    follower = Follower(lambda: student)
    follower.take()
    nn.ModuleList([follower]).eval()
    outputs = follower.outputs(forward, BATCH)
    torch.testing.assert_close(outputs, student.train()(BATCH["x"]))
    assert not outputs.requires_grad
    hidden = student.backbone[1](BATCH["x"]).mean(0).detach()
    torch.testing.assert_close(follower.model.backbone[2].running_mean, 0.1 * hidden)


def test_a_follower_takes_in_new_rows_and_keeps_its_own():
    student = model()
    follower = Follower(lambda: student)
    follower.take()
    follower.model.backbone[2].running_mean.fill_(3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    old = follower.model.head.weight.clone()
    student.head.grow(5)
    follower.grow()
    assert torch.equal(follower.model.head.weight[:2], old)
    assert torch.equal(follower.model.head.weight[2:], student.head.weight[2:])
    assert bool((follower.model.backbone[2].running_mean == 3).all())
    assert not any(p.requires_grad for p in follower.parameters())


def test_a_follower_stands_in_for_its_model_for_a_while():
    student = model().eval()
    follower = Follower(lambda: student)
    follower.take()
    own = student(BATCH["x"])
    with torch.no_grad():
        follower.model.head.bias.add_(1)
    follower.model.backbone[2].running_mean.add_(0.1)
    with follower.standing_in():
        served = student(BATCH["x"])
    torch.testing.assert_close(served, follower.model.eval()(BATCH["x"]))
    assert torch.equal(student(BATCH["x"]), own)
    assert not torch.equal(served, own)


def test_a_follower_takes_in_new_parts_and_lets_go_of_what_is_gone():
    student = model()
    student.aside = nn.Linear(2, 2)
    follower = Follower(lambda: student)
    follower.take()
    kept = follower.model.head.weight.clone()
    with torch.no_grad():
        student.head.weight.add_(1)
    del student.aside
    student.beside = nn.Linear(3, 3)
    follower.grow()
    assert torch.equal(follower.model.head.weight, kept)
    assert torch.equal(follower.model.beside.weight, student.beside.weight)
    assert follower.model.state_dict().keys() == student.state_dict().keys()
