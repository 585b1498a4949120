"""Half-reset puts back a balanced share of the weights, from none to all."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from holdfast.errors import UsageError
from holdfast.merge.half_reset import half_reset, half_reset_curve

ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def llama(tie=False):
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=4,
            num_attention_heads=2,
            vocab_size=20,
            tie_word_embeddings=tie,
            **ENDS,
        )
    )


@pytest.fixture
def tuned_and_base():
    """A model of ones and the state of zeros that it came from."""

    def make(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
        return model, {name: torch.zeros_like(t) for name, t in model.state_dict().items()}

    return make


def test_half_of_every_blocks_matrices_go_back(tuned_and_base):
    model, base = tuned_and_base(llama())
    state = half_reset(model, base, seed=3)
    for block in range(4):
        prefix = f"model.layers.{block}."
        back = [n for n, t in state.items() if n.startswith(prefix) and not t.any()]
        assert sum("self_attn" in name for name in back) == 2
        assert sum("mlp" in name for name in back) in (1, 2)
        assert sum("norm" in name for name in back) == 1
    feedforward = [t for n, t in state.items() if ".mlp." in n]
    assert sum(t.sum() for t in feedforward) == sum(t.numel() for t in feedforward) / 2
    assert all(p.eq(1).all() for p in model.parameters()), "the model itself is not changed"


def test_parts_of_fused_matrices_go_back_apart(tuned_and_base):
    model, base = tuned_and_base(
        GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=8, n_head=2, vocab_size=16, **ENDS))
    )
    state = half_reset(model, base)
    fused = [state[f"transformer.h.{i}.attn.c_attn.weight"] for i in range(8)]
    kept = [int(tensor.sum()) // 64 for tensor in fused]  # q, k and v have 64 entries each
    assert set(kept) == {1, 2}


@pytest.mark.parametrize("tie", [False, True])
def test_the_ends_are_the_tuned_and_the_base_model(tie, tuned_and_base):
    model, base = tuned_and_base(llama(tie))
    assert all(t.eq(1).all() for t in half_reset(model, base, ratio=0.0).values())
    assert not any(t.any() for t in half_reset(model, base, ratio=1.0).values())


def test_tied_embeddings_go_back_under_both_names(tuned_and_base):
    model, base = tuned_and_base(llama(tie=True))
    for seed in range(8):
        state = half_reset(model, base, seed=seed)
        assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])


def test_the_curve_runs_from_the_tuned_to_the_base_model_and_leaves_the_model_tuned(
    tuned_and_base,
):
    model, base = tuned_and_base(llama())

    def mean(whole):
        return {"kept": sum(p.sum().item() for p in whole.parameters())}

    points = half_reset_curve(model, base, mean, ratios=(0.0, 0.5, 1.0), seeds=(0, 1))
    whole = sum(p.numel() for p in model.parameters())
    assert [(p["ratio"], p["seed"]) for p in points] == [
        (r, s) for r in (0.0, 0.5, 1.0) for s in (0, 1)
    ]
    assert [p["kept"] for p in points[:2]] == [whole] * 2
    assert [p["kept"] for p in points[-2:]] == [0.0] * 2
    assert all(0.3 * whole < p["kept"] < 0.7 * whole for p in points[2:4])
    assert mean(model)["kept"] == whole


def test_the_model_has_its_weights_again_when_evaluation_fails(tuned_and_base):
    model, base = tuned_and_base(llama())

    def fail(whole):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        half_reset_curve(model, base, fail, ratios=(1.0,))
    assert all(p.eq(1).all() for p in model.parameters())


def test_a_base_of_another_shape_is_refused(tuned_and_base):
    model, base = tuned_and_base(llama())
    base["model.norm.weight"] = torch.zeros(8)
    with pytest.raises(UsageError, match=r"model.norm.weight is \(16,\) .* and \(8,\) in the base"):
        half_reset(model, base)
    del base["model.norm.weight"]
    with pytest.raises(UsageError, match="and nothing in the base"):
        half_reset(model, base)
