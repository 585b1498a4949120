"""The matrices of a block are found in every layout, and each entry belongs to one of them."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn

from holdfast.errors import UsageError
from holdfast.models.anatomy import blocks, linears

BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = {**BASE, "num_key_value_heads": 2}
SMALL_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
EXPERTS = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 3}
FALCON = {k: v for k, v in BASE.items() if k != "intermediate_size"}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 50,
    "decoder_start_token_id": 0,
    **ENDS,
}
T5 = {
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 50,
}
OPT = {**BASE, "ffn_dim": 48, "word_embed_proj_dim": 32}
del OPT["intermediate_size"]

NEW_FALCON = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
BIGCODE = {**SMALL_GPT, **ENDS}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, **ENDS}
DISTILBERT = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 50}

MODELS = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "mistral": ("MistralForCausalLM", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 8}),
    "olmo": ("OlmoForCausalLM", BASE),
    "gpt2": ("GPT2LMHeadModel", {**SMALL_GPT, **ENDS}),
    "gptj": ("GPTJForCausalLM", {**SMALL_GPT, **ENDS, "rotary_dim": 4}),
    "neox": ("GPTNeoXForCausalLM", BASE),
    "bloom": ("BloomForCausalLM", BLOOM),
    "falcon": ("FalconForCausalLM", NEW_FALCON),
    "falcon-7b": ("FalconForCausalLM", {**FALCON, "multi_query": True}),
    "bigcode": ("GPTBigCodeForCausalLM", BIGCODE),
    "bigcode-heads": ("GPTBigCodeForCausalLM", {**BIGCODE, "multi_query": False}),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "opt": ("OPTForCausalLM", OPT),
    "t5": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "relu"}),
    "flan-t5": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", BART),
    "bert": ("BertForMaskedLM", BASE),
    "roberta": ("RobertaForMaskedLM", BASE),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "mixtral": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 3}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", {**GROUPED, **EXPERTS}),
    "gpt-oss": ("GptOssForCausalLM", {**GROUPED, "head_dim": 8, "num_local_experts": 3}),
}
ATTENTION = ["q", "k", "v", "o"]
GATED, PLAIN = ["gate", "up", "down"], ["fc1", "fc2"]
FEEDFORWARD = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo", "phi3"), GATED),
    **dict.fromkeys(("gpt2", "gptj", "neox", "bloom", "falcon", "falcon-7b", "bigcode"), PLAIN),
    **dict.fromkeys(("bigcode-heads", "opt", "t5", "bart", "bert", "roberta"), PLAIN),
    "distilbert": PLAIN,
    "flan-t5": GATED,
    "mixtral": GATED * 3,
    "qwen2-moe": GATED * 4,
    "gpt-oss": GATED * 3,
}
NORMS = {"qwen3": 4, "gemma2": 4, "olmo": 0, "gptj": 1, "falcon-7b": 1}
ENCODED = ("t5", "flan-t5", "bart")


@pytest.fixture(scope="module")
def model():
    built = {}

    def make(name):
        if name not in built:
            torch.manual_seed(0)
            kind, arguments = MODELS[name]
            made = getattr(tf, kind)
            built[name] = made(made.config_class(**arguments)).eval()
        return built[name]

    return make


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_has_its_attention_feed_forward_and_norms(name, model):
    found = blocks(model(name))
    assert len(found) == (4 if name in ENCODED else 2)
    for block, units in found.items():
        decodes = name in ENCODED and "decoder" in block
        kinds = {
            category: sorted(unit.kind for unit in units if unit.category == category)
            for category in ("attention", "cross_attention", "feedforward")
        }
        assert kinds["attention"] == sorted(ATTENTION)
        assert kinds["cross_attention"] == (sorted(ATTENTION) if decodes else [])
        assert kinds["feedforward"] == sorted(FEEDFORWARD[name])
        norms = [unit for unit in units if unit.category == "norm"]
        assert len(norms) == NORMS.get(name, 3 if decodes else 2)


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_of_a_block_belongs_to_one_unit(name, model):
    whole = model(name)
    parameters = dict(whole.named_parameters())
    found = blocks(whole)
    times = {
        parameter: torch.zeros(tensor.shape)
        for parameter, tensor in parameters.items()
        if any(parameter.startswith(f"{block}.") for block in found)
    }
    for unit in (unit for units in found.values() for unit in units):
        for part in unit.parts:
            shape = times[part.parameter].shape
            mask = part.mask(shape).expand(shape)
            times[part.parameter] += mask
            assert mask.sum() == part.count(shape)
    assert times
    assert all((count == 1).all() for count in times.values())


@pytest.mark.parametrize("name", MODELS)
def test_biases_go_with_their_weights(name, model):
    """A unit has as many entries of bias as its weight has outputs."""
    whole = model(name)
    parameters = dict(whole.named_parameters())
    for unit in (unit for units in blocks(whole).values() for unit in units):
        stem = unit.weight.parameter.removesuffix(".weight")
        has = any(f"{stem}{end}" in parameters for end in (".bias", "_bias"))
        assert bool(unit.biases) == has
        if has and unit.category in ("attention", "feedforward"):
            shape = parameters[unit.weight.parameter].shape
            inputs = {"gpt2": shape[0], "gpt-oss": shape[1] if len(shape) == 3 else shape[-1]}
            outputs = unit.weight.count(shape) // inputs.get(name, shape[-1])
            (bias,) = unit.biases
            assert bias.count(parameters[bias.parameter].shape) == outputs


FUSED = ["gpt2", "neox", "bloom", "falcon", "falcon-7b", "bigcode", "bigcode-heads", "phi3"]


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_matrix_is_split_where_the_model_splits_it(name, model):
    """Changing q leaves the cached keys and values as they were; k and v change their own only."""
    whole = model(name)
    tokens = torch.arange(1, 7).view(1, 6)  # 0 is padding, whose embedding may be 0

    def cached():
        layer = whole(tokens, use_cache=True).past_key_values.layers[0]
        return layer.keys.clone(), layer.values.clone()

    first = next(iter(blocks(whole).values()))
    parameters = dict(whole.named_parameters())
    with torch.no_grad():
        before = whole(tokens).logits
        keys, values = cached()
        for kind in ("q", "k", "v"):
            (unit,) = [u for u in first if u.kind == kind]
            assert not unit.weight.whole
            weight = parameters[unit.weight.parameter]
            was = weight.clone()
            weight.add_(unit.weight.mask(weight.shape) * torch.randn(weight.shape))
            changed_keys, changed_values = cached()
            assert not torch.allclose(whole(tokens).logits, before)
            weight.copy_(was)
            assert torch.equal(changed_keys, keys) == (kind != "k")
            assert torch.equal(changed_values, values) == (kind != "v")
            moved = (changed_keys != keys) if kind == "k" else (changed_values != values)
            assert kind == "q" or moved.all(), "all heads of the kind belong to it"


def test_the_up_half_of_a_fused_feed_forward_scales_what_leads_out(model):
    """silu(gate) * up: twice `up` is twice the product, twice `gate` is not."""
    whole = model("phi3")
    units = next(iter(blocks(whole).values()))
    mlp, x = whole.model.layers[0].mlp, torch.randn(1, 3, 32)
    weight = mlp.gate_up_proj.weight
    with torch.no_grad():
        before, was = mlp(x), weight.clone()
        for kind, doubles in (("up", True), ("gate", False)):
            (unit,) = [u for u in units if u.kind == kind]
            weight.mul_(1 + unit.weight.mask(weight.shape).float())
            assert torch.allclose(mlp(x), 2 * before, atol=1e-5) == doubles
            weight.copy_(was)


@pytest.mark.parametrize(("name", "expert"), [("mixtral", 1), ("gpt-oss", 2)])
def test_units_of_stacked_experts_are_those_of_one_expert(name, expert, model):
    """Without its gate an expert answers nothing (its bias), and the others as before."""
    whole = model(name)
    units = [u for u in next(iter(blocks(whole).values())) if u.expert.endswith(f".{expert}")]
    assert [u.kind for u in units] == ["gate", "up", "down"]
    experts, x = whole.model.layers[0].mlp.experts, torch.randn(3, 32)
    parameters = dict(whole.named_parameters())

    def answers():
        chosen = torch.arange(3).view(3, 1)  # token i to expert i
        return experts(x, chosen, torch.ones(3, 1))

    with torch.no_grad():
        before = answers()
        for part in units[0].parts:
            tensor = parameters[part.parameter]
            tensor.mul_(~part.mask(tensor.shape))
        after = answers()
    others = [i for i in range(3) if i != expert]
    assert torch.allclose(after[others], before[others])
    bias = getattr(experts, "down_proj_bias", torch.zeros(3, 32))[expert]
    assert torch.allclose(after[expert], bias)
    assert not torch.allclose(before[expert], bias)


def test_experts_in_a_list_of_modules_are_told_apart():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, nn.Linear(8, 8))

    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)
            self.w3 = nn.Linear(8, 12, bias=False)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.moe = Attention(), nn.Module()
            self.moe.gate, self.moe.experts = nn.Linear(8, 2), nn.ModuleList([Expert(), Expert()])

    units = blocks(nn.ModuleList([Block()]))["0"]
    kinds = {(u.expert, u.kind): u.weight.parameter for u in units if u.category == "feedforward"}
    for expert in ("moe.experts.0", "moe.experts.1"):
        assert kinds[expert, "gate"] == f"0.{expert}.w1.weight"
        assert kinds[expert, "up"] == f"0.{expert}.w3.weight"
        assert kinds[expert, "down"] == f"0.{expert}.w2.weight"
    assert [u.kind for u in units if u.category == "other"] == ["router"]


def test_tied_embeddings_and_heads_stay_outside_blocks(model):
    names = {u.weight.parameter for units in blocks(model("gpt2")).values() for u in units}
    assert not any("wte" in name or "lm_head" in name or "ln_f" in name for name in names)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_linear_layers_are_given_with_the_dimension_of_their_outputs(name, model):
    whole = model(name)
    found = {watched.name: watched for watched in linears(whole)}
    tokens = torch.arange(4).view(1, 4)
    seen = {}
    handles = [
        w.module.register_forward_hook(lambda m, i, o, n=n: seen.update({n: o.shape[-1]}))
        for n, w in found.items()
    ]
    whole(input_ids=tokens, **({"labels": tokens} if name == "t5" else {}))
    assert seen == {n: w.module.weight.shape[w.dim] for n, w in found.items()}
    assert ("transformer.h.0.attn.c_attn" in seen) == (name == "gpt2")
    for handle in handles:
        handle.remove()


def test_a_model_without_blocks_is_refused_with_the_classes_it_has():
    mamba = tf.MambaForCausalLM(tf.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=9))
    with pytest.raises(UsageError, match=r"No transformer blocks .* MambaBlock, .*\.$"):
        blocks(mamba)
    with pytest.raises(UsageError, match=r"in Linear: .* its modules are Linear\.$"):
        blocks(nn.Linear(2, 2))
