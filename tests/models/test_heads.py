"""Heads compute what their papers say and grow without touching what they know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models.heads import (
    HEADS,
    CosineHead,
    GrowingHead,
    MultiHead,
    build_head,
    class_rows,
)


def test_growing_keeps_old_rows_bit_identical() -> None:
    head = GrowingHead(6, 3)
    weight, bias = head.weight.clone(), head.bias.clone()
    x = torch.randn(4, 6)
    before = head(x)
    head.grow(5)
    assert head.weight.shape == (5, 6)
    assert torch.equal(head.weight[:3], weight)
    assert torch.equal(head.bias[:3], bias)
    assert torch.allclose(head(x)[:, :3], before, atol=1e-6)
    assert head.weight.requires_grad
    assert head.bias.requires_grad


def test_growing_to_fewer_rows_changes_nothing() -> None:
    head = GrowingHead(6, 3)
    weight = head.weight
    head.grow(2)
    assert head.weight is weight


def test_new_rows_are_drawn_as_a_linear_layer_draws_its_own() -> None:
    """Uniform within 1 / sqrt(width), which is what `nn.Linear` comes to."""
    head = GrowingHead(100, 0)
    head.grow(2000)
    bound = 1 / math.sqrt(100)
    for drawn in (head.weight.detach(), head.bias.detach()):
        assert float(drawn.abs().max()) <= bound
        assert float(drawn.var()) == pytest.approx(bound**2 / 3, rel=0.1)
        assert float(nn.Linear(100, 2000).weight.detach().abs().max()) <= bound


def test_widening_keeps_what_old_features_weigh_and_draws_the_rest_as_a_linear_layer_does() -> None:
    head = GrowingHead(40, 500)
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    head.widen(100)
    assert torch.equal(head.weight[:, :40], weight)
    assert torch.equal(head.bias, bias)
    drawn = head.weight.detach()[:, 40:]
    assert drawn.shape == (500, 60)
    assert float(drawn.abs().max()) <= 1 / math.sqrt(100)
    assert float(drawn.var()) == pytest.approx(1 / 100 / 3, rel=0.1)
    assert head.weight.requires_grad


def test_a_state_of_another_width_is_loaded() -> None:
    head, wide = GrowingHead(4, 2), GrowingHead(6, 3)
    head.load_state_dict(wide.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(head(x), wide(x))


def test_an_empty_head_answers_with_no_columns() -> None:
    assert GrowingHead(3)(torch.randn(2, 3)).shape == (2, 0)
    assert CosineHead(3)(torch.randn(2, 3)).shape == (2, 0)


@pytest.mark.parametrize("make", [lambda n: GrowingHead(4, n), lambda n: CosineHead(4, n)])
def test_a_state_with_more_rows_is_loaded_into_an_empty_head(make) -> None:
    full, empty = make(5), make(0)
    nn.Sequential(empty).load_state_dict(nn.Sequential(full).state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(full(x), empty(x))


def test_cosine_logits_are_scaled_cosines() -> None:
    head = CosineHead(3, 2, scale=7.0)
    x = torch.randn(5, 3)
    for i in range(5):
        for c in range(2):
            w = head.weight.detach()[c]
            cosine = (x[i] @ w) / (x[i].norm() * w.norm())
            assert float(head(x).detach()[i, c]) == pytest.approx(7 * float(cosine), abs=1e-5)
    assert torch.allclose(head(3 * x), head(x), atol=1e-5)


def test_the_scale_of_a_cosine_head_is_trained_only_if_asked() -> None:
    assert "scale" in dict(CosineHead(3, 2).named_parameters())
    assert CosineHead(3, 2).scale.requires_grad
    assert not CosineHead(3, 2, learn_scale=False).scale.requires_grad


def test_multi_head_stands_its_tasks_side_by_side() -> None:
    head = MultiHead(4, [2, 3])
    x = torch.randn(6, 4)
    assert head.classes == 5
    assert torch.equal(head(x)[:, :2], head.heads[0](x))
    assert torch.equal(head(x)[:, 2:], head.heads[1](x))


def test_multi_head_shuts_out_other_tasks_row_by_row() -> None:
    head = MultiHead(4, [2, 3])
    x, task = torch.randn(2, 4), torch.tensor([1, 0])
    logits = head(x, task)
    assert logits.isinf().tolist() == [[True] * 2 + [False] * 3, [False] * 2 + [True] * 3]
    assert torch.equal(logits[0, 2:], head(x)[0, 2:])


def test_multi_head_owners_agree_with_the_stream_of_tasks() -> None:
    assert MultiHead(4, [2, 1, 2]).owner.tolist() == [0, 0, 1, 2, 2]


def test_prototype_head_predicts_the_nearest_mean() -> None:
    head = build_head("prototype", 2, 3)
    head.add(torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), torch.tensor([0, 0, 2]))
    logits = head(torch.tensor([[1.0, 2.0]]))
    assert logits[0].tolist() == pytest.approx([-4.0, -math.inf, -(8.0**2 + 7.0**2)])


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_is_built_by_name_and_answers(kind: str) -> None:
    head = build_head(kind, 4, 6, [3, 3])
    if hasattr(head, "grow"):
        head.grow(6)
    assert head(torch.randn(2, 4)).shape == (2, 6)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(UsageError, match="no head 'liner'"):
        build_head("liner", 4, 2)


@pytest.mark.parametrize("kind", ["linear", "growing", "cosine", "multi"])
def test_changing_what_belongs_to_some_classes_changes_their_logits_alone(kind: str) -> None:
    torch.manual_seed(0)
    head = build_head(kind, 5, 6, [2, 1, 3])
    if hasattr(head, "grow"):
        head.grow(6)
    x = torch.randn(4, 5)
    before = head(x).detach()
    masks = class_rows(head, [1, 3, 5])
    assert [p for p, _ in masks] == list(head.parameters())
    with torch.no_grad():
        for parameter, mask in masks:
            parameter += mask * torch.randn_like(parameter)
    changed = (head(x) != before).any(0)
    assert changed.tolist() == [False, True, False, True, False, True]
