"""GRACE: a codebook whose balls grow, meet half-way and never overlap."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.methods import GRACE


def entered(method, key, target):
    value = torch.zeros(2)
    chance = torch.Generator().manual_seed(0)
    return method.entry(torch.tensor(key), value, target, chance)


def radii(method):
    return [round(r, 4) for r in method.book.radii.tolist()]


def test_far_from_all_balls_a_new_one_is_made():
    method = GRACE(radius=1.0)
    assert entered(method, [0.0, 0.0], [1]) == 0
    assert entered(method, [2.5, 0.0], [2]) == 1  # further than 1 + 1
    assert radii(method) == [1.0, 1.0]


def test_near_a_ball_with_the_same_target_it_grows_as_far_as_it_must():
    method = GRACE(radius=1.0)
    entered(method, [0.0, 0.0], [1])
    assert entered(method, [1.5, 0.0], [1]) == 0
    assert radii(method) == [1.5]
    assert entered(method, [0.5, 0.0], [1]) == 0
    assert radii(method) == [1.5]


def test_near_a_ball_with_another_target_both_end_half_way():
    method = GRACE(radius=1.0)
    entered(method, [0.0, 0.0], [1])
    assert entered(method, [1.2, 0.0], [2]) == 1
    assert method.book.radii.tolist() == pytest.approx([0.6 - 1e-5, 0.6])
    # Half-way between them lies in the new ball only.
    near, distance = method.book.nearest(torch.tensor([[0.59, 0.0]]))
    assert (int(near), round(float(distance), 2)) == (0, 0.59)


def test_an_edit_is_told_and_other_prompts_are_answered_as_before(model, asked, edited, logprob):
    stream = asked(2)
    ids = stream[0].train["unrelated_ids"]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits
    low = logprob(model, stream[0])
    method = GRACE(layer=0, radius=0.01, steps=30, lr=0.5)
    edited(model, method, stream)
    assert method.book.keys.shape[0] == 2
    assert logprob(model, stream[0]) > low + 0.3
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)


def test_what_is_written_after_the_prompt_is_left_alone(llama, asked, edited):
    stream = asked(1, target=3)
    method = GRACE(layer=0, radius=0.01, steps=5)
    edited(llama, method, stream)
    ids = stream[0].train["input_ids"]
    with torch.no_grad():
        given = llama(input_ids=ids[:, :5], use_cache=True)
        rest = llama(input_ids=ids[:, 5:], past_key_values=given.past_key_values).logits
        method.book.at = torch.tensor([4])
        whole = llama(input_ids=ids, use_cache=False).logits
    assert torch.allclose(rest, whole[:, 5:], atol=1e-5)


def test_a_warm_value_begins_at_the_layers_output(llama, asked, edited):
    cold, warm = (GRACE(layer=0, start=start, steps=1, lr=1e-9) for start in ("cold", "warm"))
    edited(llama, warm, asked(1))
    warm.finish(llama)
    edited(llama, cold, asked(1))
    cold.finish(llama)
    module = llama.get_submodule(warm.book.layer)
    own = module(warm.book.keys)
    assert torch.allclose(warm.book.values, own, atol=1e-5)
    assert not torch.allclose(cold.book.values, own, atol=1e-1)


def test_arguments_out_of_range_are_refused():
    for arguments, complaint in (
        ({"radius": 0.0}, "radius must be above 0"),
        ({"start": "hot"}, "start must be 'cold' or 'warm'"),
        ({"steps": 0}, "steps must be at least 1"),
    ):
        with pytest.raises(UsageError, match=complaint):
            GRACE(**arguments)
