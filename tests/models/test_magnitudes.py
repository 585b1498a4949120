"""Output magnitudes are sums over real positions of all passes, once each, and shares of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from holdfast.errors import UsageError
from holdfast.models.anatomy import linears
from holdfast.models.magnitudes import (
    Magnitudes,
    Source,
    above,
    magnitude_profile,
    profile_cosine,
    profile_overlap,
)

ENDS = {"bos_token_id": None, "eos_token_id": None}


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=30,
            **ENDS,
        )
    )


def sources(model):
    return [Source(w.name, w.module) for w in linears(model)]


def outputs_by_hand(model, **inputs):
    """Every linear layer's outputs in one pass, by hooks of the test's own."""
    seen = {}
    handles = [
        w.module.register_forward_hook(lambda m, i, o, n=w.name: seen.update({n: o.detach()}))
        for w in linears(model)
    ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def test_sums_are_over_all_positions_of_all_passes():
    model = llama().train()
    first, second = torch.arange(10).view(2, 5), torch.arange(6).view(1, 6)
    parts = [outputs_by_hand(model, input_ids=ids) for ids in (first, second)]
    watch = Magnitudes(model, sources(model))
    model(input_ids=first)
    model(input_ids=second)
    for name, total in watch.sums.items():
        expected = sum(part[name].abs().sum((0, 1)) for part in parts)
        assert torch.allclose(total, expected, rtol=1e-5)
        assert total.dtype == torch.float32
        assert not total.requires_grad
    watch.clear()
    assert not watch.sums


def test_padding_counts_nothing_unless_asked():
    model = llama().train()
    ids = torch.arange(10).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    seen = outputs_by_hand(model, input_ids=ids, attention_mask=mask)
    for ignored, weight in ((True, mask), (False, torch.ones_like(mask))):
        watch = Magnitudes(model, sources(model), ignore_padding=ignored)
        model(input_ids=ids, attention_mask=mask)
        for name, total in watch.sums.items():
            expected = (seen[name].abs() * weight.unsqueeze(-1)).sum((0, 1))
            assert torch.allclose(total, expected, rtol=1e-5)
        watch.remove()


def test_encoder_and_decoder_have_paddings_of_their_own_even_at_one_width():
    config = T5Config(
        d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2, vocab_size=30,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).train()
    ids = torch.arange(8).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    labels = torch.tensor([[5, 6, -100, -100], [5, 6, 7, -100]])
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    torch.manual_seed(1)
    seen = outputs_by_hand(model, **inputs)
    torch.manual_seed(1)  # dropout
    watch = Magnitudes(model, sources(model))
    model(**inputs)
    decoded = (labels != -100).long()
    for name, total in watch.sums.items():
        of_encoder = name.startswith("encoder.") or "EncDecAttention.k" in name
        of_encoder = of_encoder or "EncDecAttention.v" in name
        real = mask if of_encoder else decoded
        expected = (seen[name].abs() * real.unsqueeze(-1)).sum((0, 1))
        assert torch.allclose(total, expected, rtol=1e-5), name


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_repeated_by_checkpointing_counts_once(reentrant):
    ids = torch.arange(10).view(2, 5)

    def sums(checkpointed):
        model = llama().train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        watch = Magnitudes(model, sources(model))
        model(input_ids=ids, labels=ids).loss.backward()
        return watch.sums

    plain, checkpointed = sums(False), sums(True)
    assert plain.keys() == checkpointed.keys()
    for name, total in plain.items():
        assert torch.allclose(total, checkpointed[name])


def test_evaluation_counts_nothing():
    model = llama().eval()
    watch = Magnitudes(model, sources(model))
    model(input_ids=torch.arange(4).view(1, 4))
    assert not watch.sums


def test_sums_of_half_precision_are_in_single():
    """Of 5,000 ones in bfloat16, a sum in bfloat16 would stop at 256."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    watch = Magnitudes(layer, [Source("layer", layer)])
    for _ in range(5):
        layer(torch.ones(1000, 1, dtype=torch.bfloat16))
    assert watch.sums["layer"].item() == 5000


def test_removing_takes_all_hooks_off():
    model = llama()
    Magnitudes(model, sources(model)).remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_profile_sums_to_one_and_leaves_the_model_as_it_was():
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=30, **ENDS))
    model.train()
    batches = [{"input_ids": torch.arange(i, i + 6).view(2, 3)} for i in range(3)]
    profile = magnitude_profile(model, batches)
    assert set(profile) == {w.name for w in linears(model)}
    assert len(profile["transformer.h.0.attn.c_attn"]) == 24
    assert all(share.sum().item() == pytest.approx(1) for share in profile.values())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(UsageError, match="at least one batch"):
        magnitude_profile(model, [])


def test_profiles_are_compared_by_angle_and_by_their_largest_units():
    one = {"a": torch.tensor([3.0, 0.0, 4.0, 0.0]), "b": torch.ones(2)}
    other = {"a": torch.tensor([0.0, 1.0, 1.0, 0.0]), "c": torch.ones(2)}
    assert profile_cosine(one, other) == {"a": pytest.approx(4 / (5 * 2**0.5))}
    assert profile_overlap(one, other, quantile=0.5) == {"a": 0.5}
    assert profile_overlap(one, one, quantile=0.7) == {"a": 1.0, "b": 1.0}


def test_clusters_are_chosen_by_their_sums():
    shares = torch.tensor([[5.0, 0.0, 2.0, 2.0, 0.0, 3.0]])
    assert above(shares, 0.7).tolist() == [[True, False, False, False, False, True]]
    assert above(shares, 0.5, clusters=3).tolist() == [[True, True, True, True, False, False]]
    assert above(shares, 0.5, clusters=9).tolist() == above(shares, 0.5).tolist()
