"""Comparisons at an equal budget of bytes: the published constants, allotments, areas and ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import ResNetConfig, ResNetModel

from holdfast import protocols
from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.footprint import worth_in_examples
from holdfast.models.cifar_resnet import CifarResNet
from holdfast.protocols import MB, Sizes, agnostic, aligned, area, benchmark, ranks
from holdfast.run import run

BASE = Config("split-digits(limit=100, test_limit=20)", "er", model="mlp(width=16)", head="growing")
CIFAR_IMAGE = 3 * 32 * 32


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_a_resnet_32_has_the_published_size_and_is_worth_603_images_of_cifar():
    assert parameters(CifarResNet(32)) == 463_504
    assert int(worth_in_examples(463_504, (3, 32, 32))) == 603


def test_a_resnet_18_has_the_published_size_and_is_worth_297_images_of_imagenet():
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    assert parameters(ResNetModel(config)) == 11_176_512
    assert round(worth_in_examples(11_176_512, (3, 224, 224))) == 297


class Published:
    """The sizes of the survey's CIFAR-100 B0 Inc10: a ResNet-32 an experience for DER, heads left
    out, as there."""

    model, example = "resnet32", CIFAR_IMAGE

    def after(self, method, model):
        return 4 * 463_504 * (10 if method == "expandable_der" else 1)


def test_aligned_to_ten_resnets_a_single_one_keeps_5431_more_images():
    der, er = aligned(Published(), ["expandable_der", "er"], exemplars=2000)
    assert der.exemplars == 2000
    assert er.exemplars == 2000 + 5431
    assert er.spec == "er(capacity=7431)"
    assert 0 <= er.budget - er.planned < CIFAR_IMAGE


def test_the_published_budgets_run_from_one_resnet_32_to_ten_with_2000_images_each():
    one, ten = benchmark(Published(), ["er", "expandable_der"], exemplars=2000)
    assert round(one.planned / MB, 1) == 7.6
    assert round(ten.planned / MB, 1) == 23.5


@pytest.fixture(scope="module")
def sizes():
    return Sizes(BASE)


def test_sizes_are_those_of_the_trained_models(sizes):
    for method in ("er", "icarl", "expandable_der", "memo", "bic"):
        spec = protocols.with_exemplars(method, 20)
        cost = run(replace(BASE, method=spec, epochs=1)).record.cost
        assert cost["deployed_bytes"] - cost["example_bytes"] == sizes.after(method, sizes.model)


@pytest.mark.parametrize("method", ["expert_gate", "er+ewc+expert_gate"])
def test_a_method_whose_size_is_not_known_beforehand_is_refused(sizes, method):
    with pytest.raises(UsageError, match="ExpertGate takes on what its predictions need"):
        aligned(sizes, ["er", method], exemplars=20)


def test_only_models_that_take_on_more_than_rows_of_the_head_grow(sizes):
    grown = {m: sizes.grows(m) for m in ("er", "icarl", "bic", "wa", "expandable_der", "memo")}
    assert [m for m, grows in grown.items() if grows] == ["expandable_der", "memo"]


def test_after_alignment_all_totals_are_equal_to_a_byte_less_than_one_image(sizes):
    methods = ["er(storage=herding)", "icarl", "memo", "expandable_der", "ewc"]
    found = aligned(sizes, methods, exemplars=10)
    largest = max(benchmark(sizes, methods, 10), key=lambda one: one.planned)
    assert largest.method == "expandable_der"
    assert found[3].exemplars == 10
    assert {one.budget for one in found} == {largest.planned}
    assert all(0 <= one.budget - one.planned < sizes.example for one in found[:4])
    assert found[0].exemplars > found[2].exemplars > 10
    assert found[4].exemplars is None
    assert found[4].spec == "ewc"


def test_the_bytes_held_in_the_end_are_those_that_were_allotted(sizes):
    for one in aligned(sizes, ["er(storage=herding)", "expandable_der"], exemplars=10):
        cell = replace(protocols.cell(BASE, one, 0), epochs=1)
        stands = protocols.standing(run(cell))
        assert stands["deployed_bytes"] == one.planned
        assert stands["examples"] == one.exemplars
        assert stands["whole_bytes"] > stands["deployed_bytes"]


def test_a_budget_that_is_too_small_is_refused_with_the_least(sizes):
    with pytest.raises(UsageError, match=r"expandable_der with .* takes at least"):
        aligned(sizes, ["expandable_der"], 10, budget=sizes.after("er", sizes.model))


def test_under_a_small_budget_a_growing_model_begins_smaller_and_the_rest_is_examples(sizes):
    smaller = ["mlp(width=2)", "mlp(width=6)"]
    points = agnostic(sizes, ["er", "expandable_der"], 10, smaller=smaller)
    assert len(points) == 5
    assert points[0][0].exemplars == 10
    assert [point[0].model for point in points] == [sizes.model] * 5
    assert [point[1].model for point in points][-1] == sizes.model
    assert points[0][1].model in smaller
    exemplars = [point[0].exemplars for point in points]
    assert exemplars == sorted(exemplars)
    for point in points:
        assert len({one.budget for one in point}) == 1
        assert all(0 <= one.budget - one.planned < sizes.example for one in point)
        assert all(one.exemplars >= 10 for one in point)


def test_agnostic_refuses_what_a_budget_says_nothing_to(sizes):
    with pytest.raises(UsageError, match="ewc keeps no examples"):
        agnostic(sizes, ["er", "ewc"], 10)
    with pytest.raises(UsageError, match="no room for 10 examples"):
        agnostic(sizes, ["expandable_der"], 10, budgets=[sizes.after("er", sizes.model) + 640])


def test_the_area_is_that_of_the_trapezoids():
    assert area([7.6, 12.4, 23.5], [0.5, 0.6, 0.7]) == pytest.approx(4.8 * 0.55 + 11.1 * 0.65)
    with pytest.raises(UsageError, match="at least two budgets"):
        area([1.0], [0.5])


def test_methods_that_cannot_be_told_apart_share_a_place():
    surely = {"low": [0.1, 0.11, 0.1], "high": [0.9, 0.91, 0.9], "wild": [0.2, 0.9, 0.1]}
    assert ranks(surely) == {"low": 2, "high": 1, "wild": 1}
    assert ranks({"a": [0.5], "b": [0.6], "c": [0.5]}) == {"a": 2, "b": 1, "c": 2}


def test_a_run_that_was_not_analysed_has_no_standing():
    with pytest.raises(UsageError, match="run it with analyse"):
        protocols.standing(run(replace(BASE, epochs=1, experiences=2)))
