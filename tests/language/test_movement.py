"""Movement of weights against numpy, tensor by tensor."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.language.movement import adapter_movement, anatomy, movement, spectrum


def ranks_by_numpy(matrix):
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    shares = values[values > values.max() * 1e-7] / values[values > values.max() * 1e-7].sum()
    return np.exp(-(shares * np.log(shares)).sum()), (values**2).sum() / values.max() ** 2


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_ranks_are_those_of_the_singular_values(rows, columns, rank, seed):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, rank, generator=draw) @ torch.randn(rank, columns, generator=draw)
    found = spectrum(matrix)
    assert found == pytest.approx(ranks_by_numpy(matrix), rel=1e-4)
    assert 1 - 1e-9 <= found[1] <= found[0] + 1e-6 <= min(rows, columns, rank) + 1e-4


def test_wide_matrices_are_taken_in_parts(monkeypatch):
    from holdfast.language import movement as module

    monkeypatch.setattr(module, "_COLUMNS", 3)
    matrix = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    for one in (matrix, matrix.T):
        assert spectrum(one) == pytest.approx(ranks_by_numpy(matrix), rel=1e-6)
    assert spectrum(torch.zeros(3, 3)) is None


def test_every_tensor_is_measured_and_placed(make_llama, save):
    base, tuned = make_llama(), make_llama()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        q = tuned.model.layers[1].self_attn.q_proj.weight
        q += torch.outer(torch.randn(32, generator=draw), torch.randn(32, generator=draw))
        tuned.model.norm.weight *= 2
    found = movement(save(base, "base"), save(tuned, "tuned"))
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert set(by_name) == {name for name, _ in base.named_parameters()}
    assert found.unmatched == []
    moved = by_name["model.layers.1.self_attn.q_proj.weight"]
    assert moved.block == "model.layers.1"
    assert moved.part == "attention"
    old = base.model.layers[1].self_attn.q_proj.weight.detach()
    assert moved.relative == pytest.approx(float((q.detach() - old).norm() / old.norm()), rel=1e-5)
    assert moved.effective_rank == pytest.approx(1, abs=1e-3)
    assert by_name["model.norm.weight"].relative == pytest.approx(1)
    assert by_name["model.norm.weight"].part == "norm"
    assert by_name["model.embed_tokens.weight"].part == "embedding"
    assert by_name["lm_head.weight"].part == "head"
    still = [t for t in found.tensors if t.name not in (moved.name, "model.norm.weight")]
    assert all(t.change == 0 and t.effective_rank is None for t in still)


def test_groups_add_up_as_one_vector(make_llama, save):
    base, tuned = make_llama(0), make_llama(1)
    found = movement(save(base, "base"), save(tuned, "tuned"), ranks=False)
    before = dict(base.named_parameters())
    for name, group in found.by("block").items():
        names = [n for n in before if n.startswith(f"{name}.")]
        old = torch.cat([before[n].detach().flatten() for n in names])
        new = torch.cat([dict(tuned.named_parameters())[n].detach().flatten() for n in names])
        assert group.relative == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5)
        assert group.shape == (len(old),)
    assert all(tensor.effective_rank is None for tensor in found.tensors)
    assert set(found.by("part")) == {"attention", "feedforward", "norm", "embedding", "head"}


def test_tensors_of_one_side_or_of_another_shape_are_listed(make_llama, save):
    found = movement(
        save(make_llama(), "base"),
        save(make_llama(vocab_size=44, num_hidden_layers=3), "tuned"),
        ranks=False,
    )
    text = "\n".join(found.unmatched)
    assert "model.embed_tokens.weight is [42, 32]" in text
    assert "model.layers.2.mlp.up_proj.weight is only in" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapters_movement_is_that_of_the_merged_model(make_llama, save, dtype):
    from peft import LoraConfig, get_peft_model

    base = make_llama()
    config = LoraConfig(
        target_modules=["q_proj", "down_proj"], r=2, lora_alpha=6, modules_to_save=["lm_head"]
    )
    model = get_peft_model(copy.deepcopy(base), config).to(dtype)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight += 0.1 * torch.randn(weight.shape, generator=draw).to(dtype)
    found = adapter_movement(model)
    assert len(found.tensors) == 5
    if dtype != torch.float32:
        return
    merged = copy.deepcopy(model).merge_and_unload()
    full = movement(save(base, "base"), save(merged, "merged"))
    expected = {t.name: t for t in full.tensors if t.change > 0}
    assert {t.name for t in found.tensors} == set(expected)
    for tensor in found.tensors:
        twin = expected[tensor.name]
        assert tensor.change == pytest.approx(twin.change, rel=1e-4)
        assert tensor.norm == pytest.approx(twin.norm, rel=1e-6)
        assert (tensor.block, tensor.part) == (twin.block, twin.part)
        if "proj" in tensor.name:
            assert tensor.effective_rank <= 2 + 1e-6
            assert tensor.effective_rank == pytest.approx(twin.effective_rank, rel=0.02)


def test_adapters_that_add_no_matrices_are_refused(make_llama):
    from peft import IA3Config, LoraConfig, get_peft_model

    ia3 = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    for config, kind in (
        (ia3, "IA3"),
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "DoRA"),
    ):
        with pytest.raises(UsageError, match=kind):
            adapter_movement(get_peft_model(make_llama(), config))


def test_an_encoder_decoder_is_placed_too(make_t5, save, tokenizer):
    places = anatomy(save(make_t5(), "t5"))
    assert places["decoder.block.1.layer.1.EncDecAttention.q.weight"][1] == "cross_attention"
    assert places["encoder.block.0.layer.0.SelfAttention.q.weight"] == (
        "encoder.block.0",
        "attention",
    )
    assert places["shared.weight"][1] == "embedding"


@pytest.mark.data
def test_the_real_model_is_placed_whole(stories: Path):
    found = movement(stories, stories)
    assert {tensor.part for tensor in found.tensors} == {
        "attention",
        "feedforward",
        "norm",
        "embedding",
    }
    assert len(found.by("block")) == 5
    assert all(tensor.change == 0 for tensor in found.tensors)
