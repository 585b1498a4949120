"""Modules by kind and depth."""

import pytest
from torch import nn

from holdfast import streams
from holdfast.errors import UsageError
from holdfast.models import build
from holdfast.models.groups import Group, by_kind_and_depth, chosen
from holdfast.testing.trials import small_llama


@pytest.fixture(scope="module")
def stream():
    return streams.build("split-digits")


def test_a_residual_network_has_its_stem_its_blocks_and_its_head(stream):
    groups = by_kind_and_depth(build("resnet18(width=4, blocks=1)", stream))
    expected = ["convolution-1", "norm-1", "convolution-2", "norm-2"]
    for depth in (3, 4, 5):
        expected += [f"convolution-{depth}", f"norm-{depth}", f"shortcut-{depth}"]
    assert list(groups) == [*expected, "head"]
    assert len(groups["norm-2"].layers) == 2
    assert len(groups["norm-3"].layers) == 3, "the shortcut's own normalisation is one"
    assert groups["shortcut-3"].weights == 4 * 8


@pytest.mark.parametrize(
    "model", ["mlp", "cnn(width=4)", "resnet18(width=4)", "resnet18(width=4, blocks=1)"]
)
def test_every_weight_is_in_one_group(stream, model):
    built = build(model, stream)
    groups = by_kind_and_depth(built)
    names = [name for group in groups.values() for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in built.named_parameters())
    assert sum(g.weights for g in groups.values()) == sum(p.numel() for p in built.parameters())
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {id(la) for g in groups.values() for la in g.layers} == {id(m) for m in norms}


def test_a_transformer_has_attention_normalisation_and_the_rest_by_block():
    groups = by_kind_and_depth(small_llama())
    expected = [
        "embedding",
        "attention-1",
        "linear-1",
        "norm-1",
        "attention-2",
        "linear-2",
        "norm-2",
    ]
    assert list(groups) == [*expected, "norm-3", "head"]
    assert list(groups["head"].parameters) == ["lm_head.weight"]


def test_tied_weights_belong_to_the_first():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 1))
    net[1].weight = net[0].weight
    assert list(by_kind_and_depth(net)) == ["linear-1", "head"]


def test_frozen_weights_are_none_to_be_trained(stream):
    model = build("cnn(width=4)", stream)
    model.backbone.requires_grad_(False)
    groups = by_kind_and_depth(model)
    assert [name for name, group in groups.items() if group.weights] == ["head"]


def test_names_mean_a_module_or_all_of_a_kind():
    groups = {name: Group() for name in ("norm-1", "norm-2", "norm-12", "head")}
    assert chosen(groups, ["norm"]) == ["norm-1", "norm-2", "norm-12"]
    assert chosen(groups, ["head", "norm-1"]) == ["norm-1", "head"]
    with pytest.raises(UsageError, match="no module 'nrm-1'"):
        chosen(groups, ["nrm-1"])
    with pytest.raises(UsageError, match="No module is named"):
        chosen(groups, [])
