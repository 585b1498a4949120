"""Halves are balanced in every block and category, right in size, and drawn alike everywhere."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.models.halves import draw, draw_names, open_masks
from holdfast.models.units import Part, Unit

WIDTHS = {"q": 64, "k": 64, "v": 64, "o": 64, "gate": 96, "up": 96, "down": 96, "norm": 1}


def transformer(blocks, feedforward=("gate", "up", "down"), experts=0, widths=None, norms=2):
    """Units by block and shapes of parameters, as of a model that is never built."""
    widths = {**WIDTHS, "fc1": 128, "fc2": 128, **(widths or {})}
    anatomy, sizes = {}, {}

    def unit(block, kind, category, place="", expert=""):
        name = f"{block}.{expert}{kind}{place}"
        sizes[name] = torch.Size((widths[kind], 8))
        return Unit(name, block, kind, category, Part(name), expert=expert)

    for block in (f"layers.{i}" for i in range(blocks)):
        units = [unit(block, kind, "attention") for kind in "qkvo"]
        for expert in [f"experts.{e}" for e in range(experts)] or [""]:
            units += [unit(block, kind, "feedforward", "", expert) for kind in feedforward]
        units += [unit(block, "norm", "norm", i) for i in range(norms)]
        anatomy[block] = units
    return anatomy, sizes


def numbers(half, category):
    """How many units of a category were drawn, by block and expert."""
    counts = Counter(
        (u.block, u.expert) for u in (*half.chosen, *half.left) if u.category == category
    )
    drawn = Counter((u.block, u.expert) for u in half.chosen if u.category == category)
    return [drawn[group] for group in counts]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(), blocks=st.integers(1, 16).map(lambda n: 2 * n))
def test_a_half_has_2_of_4_attention_matrices_2_or_1_of_3_others_and_1_of_2_norms(seed, blocks):
    half = draw(*transformer(blocks), seed=str(seed))
    assert numbers(half, "attention") == [2] * blocks
    assert numbers(half, "norm") == [1] * blocks
    assert sorted(numbers(half, "feedforward")) == [1] * (blocks // 2) + [2] * (blocks // 2)
    assert half.ratio == 0.5


def test_with_two_feed_forward_matrices_one_is_drawn():
    half = draw(*transformer(6, ("fc1", "fc2")), seed="a")
    assert numbers(half, "feedforward") == [1] * 6


def test_an_odd_number_of_norms_is_balanced_over_blocks():
    half = draw(*transformer(8, norms=3), seed="a")
    assert sorted(numbers(half, "norm")) == [1] * 4 + [2] * 4


def test_every_experts_matrices_are_drawn_by_themselves():
    half = draw(*transformer(2, experts=8), seed="a")
    assert sorted(numbers(half, "feedforward")) == [1] * 8 + [2] * 8
    kinds = {tuple(u.kind for u in half.chosen if u.expert == f"experts.{e}") for e in range(8)}
    assert len(kinds) > 3


@settings(max_examples=30, deadline=None)
@given(ratio=st.sampled_from([0.25, 0.5, 0.75, 0.3, 0.9]), seed=st.integers(0, 1000))
def test_the_share_of_entries_is_right_although_keys_and_values_are_smaller(ratio, seed):
    """Grouped queries: k and v have a quarter of q's rows."""
    half = draw(*transformer(8, widths={"k": 16, "v": 16}), ratio=ratio, seed=str(seed))
    assert half.ratio == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize("level", ["category", "layer", "model"])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_and_everything_can_be_drawn(level, ratio):
    anatomy, sizes = transformer(5)
    half = draw(anatomy, sizes, ratio=ratio, level=level, seed="a")
    assert half.ratio == ratio
    assert len(half.chosen) == ratio * 5 * 9


def test_layers_are_drawn_as_a_whole_and_model_level_draws_anywhere():
    anatomy, sizes = transformer(8)
    half = draw(anatomy, sizes, level="layer", seed="a")
    assert sorted(Counter(u.block for u in half.chosen).values()) == [9] * 4
    half = draw(anatomy, sizes, level="model", seed="a")
    assert half.ratio == pytest.approx(0.5, abs=0.02)
    assert set(numbers(half, "attention")) - {2}, "it is not balanced"


def test_every_matrix_is_drawn_equally_often():
    """400 draws of a half: each unit 200 times, within four standard deviations (40)."""
    anatomy, sizes = transformer(4)
    times = Counter(u.name for i in range(400) for u in draw(anatomy, sizes, seed=f"{i}").chosen)
    assert len(times) == 4 * 9
    assert all(abs(count - 200) <= 40 for count in times.values())


def test_pairs_of_blocks_are_drawn_independently():
    """Over 400 draws, q of two blocks come together as often as chance has it: a quarter."""
    anatomy, sizes = transformer(4)
    together = sum(
        {"layers.0.q", "layers.1.q"} <= {u.name for u in draw(anatomy, sizes, seed=f"{i}").chosen}
        for i in range(400)
    )
    assert abs(together - 100) <= 4 * (400 * 0.25 * 0.75) ** 0.5


def test_one_seed_draws_alike_whatever_the_state_of_other_chance():
    anatomy, sizes = transformer(6)
    first = draw(anatomy, sizes, seed="hft 0 0")
    torch.manual_seed(7)
    assert draw(anatomy, sizes, seed="hft 0 0") == first
    assert draw(anatomy, sizes, seed="hft 0 1") != first


def test_encoder_and_decoder_are_balanced_apart():
    anatomy, sizes = transformer(4)
    renamed = {b.replace("layers", "decoder"): u for b, u in anatomy.items()}
    both = {
        **anatomy,
        **{
            b: [Unit(u.name, b, u.kind, u.category, u.weight) for u in units]
            for b, units in renamed.items()
        },
    }
    half = draw(both, sizes, seed="a", level="layer")
    stacks = Counter(u.block.split(".")[0] for u in half.chosen)
    assert stacks == {"layers": 18, "decoder": 18}


def test_names_outside_blocks_are_drawn_in_the_same_share():
    names = ["embed", "positions", "norm", "head"]
    drawn = [draw_names(names, 0.5, f"{i}") for i in range(200)]
    assert {len(d) for d in drawn} == {2}
    assert all(60 < count < 140 for count in Counter(n for d in drawn for n in d).values())
    assert draw_names([], 0.5, "a") == set()


def test_parts_of_one_tensor_add_up_to_a_mask_and_all_of_them_to_the_whole():
    parts = [Part("w", None, 0, i, 1, 3) for i in range(3)]
    named = {"w": torch.zeros(6, 2)}
    mask = open_masks(named, parts[:2])["w"]
    assert mask.flatten().tolist() == [True, True, False] * 2
    assert open_masks(named, parts) == {"w": True}


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(UsageError, match=r"ratio must lie between 0 and 1; given: "):
        draw(*transformer(2), ratio=ratio, seed="a")


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="level must be one of category, layer, model"):
        draw(*transformer(2), level="half", seed="a")
