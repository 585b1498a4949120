"""Backbones that grow: where their stages lie, and that only the newest part changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from holdfast.errors import UsageError
from holdfast.models import CNN, MLP, LeNet, ResNet18, Standardise
from holdfast.models.cifar_resnet import CifarResNet
from holdfast.models.expandable import Expandable, split, stages

BACKBONES = {
    "mlp": (lambda: MLP(48, 8, depth=3, dropout=0.5), (3, 4, 4), 3),
    "one layer": (lambda: MLP(48, 8, depth=1), (3, 4, 4), 1),
    "cnn": (lambda: CNN(3, width=2), (3, 8, 8), 3),
    "lenet": (lambda: LeNet((1, 16, 16), width=2), (1, 16, 16), 3),
    "resnet18": (lambda: ResNet18(3, width=2), (3, 8, 8), 4),
    "cifar resnet": (lambda: CifarResNet(8), (3, 8, 8), 3),
    "scaled": (lambda: nn.Sequential(Standardise([1.0], [2.0]), CNN(1, width=2)), (1, 8, 8), 3),
}


def statistics(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_in_turn_answer_as_the_backbone_does_and_share_its_weights(name):
    make, shape, count = BACKBONES[name]
    backbone = make()
    found = stages(backbone)
    assert len(found) == count
    parameters = [id(p) for stage in found for p in stage.parameters()]
    assert parameters == [id(p) for p in backbone.parameters()]
    x = torch.randn(5, *shape)
    for training in (True, False):
        backbone.train(training)
        torch.manual_seed(0)
        expected = backbone(x)
        torch.manual_seed(0)
        torch.testing.assert_close(nn.Sequential(*found)(x), expected)
        shared, last = split(backbone)
        torch.manual_seed(0)
        torch.testing.assert_close(last(shared(x)), expected)


def test_the_last_stage_is_the_last_layer_of_a_small_net_and_the_last_two_blocks_of_a_large_one():
    def weights(backbone):
        return sum(p.numel() for p in split(backbone)[1].parameters())

    assert weights(MLP(48, 8, depth=3)) == 9 * 8
    assert weights(CNN(3, width=2)) == 9 * 4 * 8 + 2 * 8
    assert weights(LeNet((1, 16, 16), width=2)) == (5 + 1) * 50
    convolutions = 8 * 16 * 9 + 3 * 16 * 16 * 9 + 8 * 16
    assert weights(ResNet18(3, width=2)) == convolutions + 5 * 2 * 16


def test_a_sequence_of_blocks_has_a_stage_for_each():
    blocks = [nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)) for _ in range(2)]
    backbone = nn.Sequential(nn.BatchNorm1d(3), blocks[0], nn.ReLU(), blocks[1], nn.Dropout())
    first, last = stages(backbone)
    assert list(first) == [backbone[0], blocks[0], backbone[2]]
    assert list(last) == [blocks[1], backbone[4]]


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)


def test_a_backbone_that_does_not_tell_its_stages_is_refused():
    for backbone in (Opaque(), nn.Sequential(nn.Flatten(), Opaque())):
        with pytest.raises(UsageError, match=r"Opaque does not say .* give it a method staged\(\)"):
            stages(backbone)
    with pytest.raises(UsageError, match="has no layers"):
        stages(MLP(4, depth=0))


def test_a_backbone_may_tell_its_stages_itself():
    class Told(Opaque):
        def staged(self):
            return [nn.ReLU(), self.layer]

    backbone = Told()
    assert split(nn.Sequential(nn.Flatten(), backbone))[1] is backbone.layer


def grown(times=2, **options):
    shared, last = split(CNN(3, width=2, depth=2))
    backbone = Expandable(last, shared, **options)
    for _ in range(times):
        backbone.grow()
    return backbone


X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_features_of_all_parts_stand_side_by_side_the_newest_last():
    backbone = grown().eval()
    with torch.no_grad():
        for place, part in enumerate(backbone.parts):
            for parameter in part.parameters():
                parameter.mul_(place + 1)
    shared = backbone.shared(X)
    expected = torch.cat([part(shared) for part in backbone.parts], 1)
    assert torch.equal(backbone(X), expected)
    assert expected.shape == (6, 12)
    assert not torch.equal(expected[:, :4], expected[:, 8:])


@pytest.mark.parametrize("train_shared", [False, True])
def test_only_the_newest_part_moves_weights_and_statistics_alike(train_shared):
    backbone = grown(train_shared=train_shared).train()
    before = [statistics(part) for part in (backbone.shared, *backbone.parts)]
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        backbone(X + 1).square().sum().backward()
        optimizer.step()
    after = [part.state_dict() for part in (backbone.shared, *backbone.parts)]
    held = [same(b, a) for b, a in zip(before, after, strict=True)]
    assert held == [not train_shared, True, True, False]
    assert all(p.grad is not None for p in trained)


def test_frozen_parts_take_no_part_in_the_backward_pass():
    """Of three layers side by side only the newest has a gradient to compute, and none to pass."""
    backbone = Expandable(nn.Linear(5, 7, bias=False))
    backbone.grow()
    backbone.grow()
    x = torch.randn(4, 5)
    with FlopCounterMode(display=False) as counter:
        loss = backbone(x).sum()
    assert counter.get_total_flops() == 3 * 2 * 4 * 5 * 7
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert counter.get_total_flops() == 2 * 4 * 5 * 7


def test_the_newest_part_starts_where_the_one_before_it_stands_when_asked():
    backbone = grown(1).train()
    with torch.no_grad():
        for parameter in backbone.parts[0].parameters():
            parameter.add_(1)
        backbone(X)
    backbone.parts[0].train()(backbone.shared(X))  # statistics move too
    assert not same(statistics(backbone.parts[1]), backbone.parts[0].state_dict())
    backbone.start_from_last()
    assert same(statistics(backbone.parts[1]), backbone.parts[0].state_dict())
    assert all(p.requires_grad for p in backbone.newest.parameters())


@pytest.mark.parametrize(("held", "loaded"), [(0, 2), (2, 0), (1, 1)])
def test_loading_a_state_adopts_its_number_of_parts(held, loaded):
    backbone, other = grown(held).eval(), grown(loaded).eval()
    backbone.load_state_dict(other.state_dict())
    assert len(backbone.parts) == loaded + 1
    assert torch.equal(backbone(X), other(X))


def test_gradients_by_the_inputs_pass_through_frozen_parts():
    backbone = Expandable(nn.Linear(3, 2, bias=False))
    backbone.grow()
    x = torch.randn(4, 3, requires_grad=True)
    F.relu(backbone(x)).sum().backward()
    on = [(part(x) > 0).float() @ part.weight for part in backbone.parts]
    torch.testing.assert_close(x.grad, on[0] + on[1])


def test_the_newest_part_has_a_head_of_its_own_that_a_state_brings_along():
    backbone, other = grown(1), grown(2)
    other.head_for_newest(4, 3)
    backbone.head_for_newest(4, 5)
    names = [name for name, _ in other.named_parameters() if "auxiliary" in name]
    assert names == ["auxiliary.3.weight", "auxiliary.3.bias"]
    backbone.load_state_dict(other.state_dict())
    assert torch.equal(backbone.auxiliary["3"](X[0, 0, :, :4]), other.auxiliary["3"](X[0, 0, :, :4]))
    other.load_state_dict(grown(0).state_dict())
    assert not other.auxiliary
