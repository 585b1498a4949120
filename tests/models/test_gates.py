"""Gates: where they stand, what lies between them, and what they protect."""

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models.backbones import CNN, MLP, ResNet18
from holdfast.models.gates import Gate, Switch, install, plan, standing


def wired(backbone):
    """Every layer's shape with its gates, as numbers of places."""
    found = plan(backbone)
    return [(tuple(w.layer.weight.shape), w.before, w.behind) for w in found.wires]


def test_a_perceptron_has_a_gate_behind_every_activation():
    assert wired(MLP(6, 5, 3)) == [((5, 6), None, 0), ((5, 5), 0, 1), ((5, 5), 1, 2)]


def test_a_convolutional_network_is_gated_by_channel():
    assert wired(CNN(3, 4, 2)) == [((4, 3, 3, 3), None, 0), ((8, 4, 3, 3), 0, 1)]


def test_residual_blocks_are_gated_inside_and_behind_the_sum():
    found = wired(ResNet18(1, 2))
    assert found[0] == ((2, 1, 3, 3), None, 0)
    assert found[1:3] == [((2, 2, 3, 3), 0, 1), ((2, 2, 3, 3), 1, 2)]
    # The first block of the second stage: its shortcut has weights, and ends in the same sum.
    assert found[5:8] == [((4, 2, 3, 3), 4, 5), ((4, 4, 3, 3), 5, 6), ((4, 2, 1, 1), 4, 6)]
    assert len({behind for _, _, behind in found}) == 17


def test_flattened_channels_count_once_for_each_of_their_pixels():
    backbone = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 9, 3), nn.ReLU()
    )
    found = plan(backbone)
    used = [torch.tensor([1.0, 0.25]), torch.tensor([0.5, 1.0, 0.0])]
    open_ = found.open(found.wires[1], used)
    assert open_.shape == (3, 18)
    assert open_[:, 0].tolist() == [0.5, 0.0, 1.0]
    assert open_[:, 9].tolist() == [0.75, 0.75, 1.0]
    # A first layer goes by its outputs alone.
    assert found.open(found.wires[0], used).flatten().tolist() == [0.0, 0.75]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU()), "A LayerNorm stands where"),
        ((nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)), "A BatchNorm1d stands where"),
        ((nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), "no activation behind it"),
        ((nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()), "A Linear stands where"),
        ((nn.Conv2d(2, 2, 1, groups=2), nn.ReLU()), "convolution in groups"),
        ((nn.Flatten(),), "no layers with weights"),
        ((nn.Linear(2, 2), nn.ReLU(), Gate(2, 1, Switch())), "A Gate stands where"),
    ],
)
def test_what_mixes_units_is_refused(layers, words):
    with pytest.raises(UsageError, match=words):
        plan(nn.Sequential(*layers))


def test_rows_of_several_tasks_pass_their_own_gates_at_once():
    switch = Switch(sharpness=3.0)
    gate = Gate(2, 3, switch)
    gate.embedding.data = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    x, tasks = torch.ones(4, 2, 5, 5), torch.tensor([2, 0, 0, 1])
    with standing(switch, tasks, 7.0):
        found = gate(x)
    expected = (7.0 * gate.embedding[tasks]).sigmoid()
    torch.testing.assert_close(found, expected[:, :, None, None].expand_as(x))
    assert (switch.task, switch.sharpness) == (0, 3.0)
    torch.testing.assert_close(gate(x)[0, :, 0, 0], (3.0 * gate.embedding[0]).sigmoid())


@pytest.mark.parametrize("make", [lambda: MLP(36, 6, 2), lambda: CNN(1, 4, 3), lambda: ResNet18(1)])
def test_weights_that_may_move_change_nothing_behind_open_gates(make):
    """Whatever is done to weights as far as they are open, the task with binary gates stays."""
    torch.manual_seed(0)
    backbone = make()
    switch, found = Switch(sharpness=1e6), plan(backbone)
    gates = install(found, 1, switch)
    for gate in gates:
        gate.embedding.data.normal_()
    backbone.eval()
    x = torch.randn(3, 1, 6, 6)
    with torch.no_grad():
        before = backbone(x)
        used = [(1e6 * gate.embedding[0]).sigmoid() for gate in gates]
        assert set(torch.cat(used).tolist()) == {0.0, 1.0}
        for wire in found.wires:
            opened = found.open(wire, used)
            assert 0 < float(opened.mean()) < 1
            wire.layer.weight += opened * torch.randn_like(wire.layer.weight)
            if wire.layer.bias is not None:
                wire.layer.bias += (1 - used[wire.behind]) * torch.randn_like(wire.layer.bias)
        torch.testing.assert_close(backbone(x), before)
        assert before.any()
        wire = found.wires[1]
        wire.layer.weight += (1 - found.open(wire, used)) * torch.randn_like(wire.layer.weight)
        assert not torch.allclose(backbone(x), before)
