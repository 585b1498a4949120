"""Adapters: where they go, what they leave alone, and that what is saved is what was used."""

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models import adapters
from holdfast.testing.trials import small_llama

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def small_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


def small_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64, n_positions=32)
    return GPT2LMHeadModel(config)


def adapted(rank=2, alpha=6.0, wanted="attention", seed=0):
    return adapters.adapted(small_llama(), rank, alpha, 0.0, wanted, seed)


def learned(model, seed=1):
    """The model with chance in place of the trained adapter's zeros."""
    draw = torch.Generator().manual_seed(seed)
    for layer in adapters.lora_layers(model, adapters.trained(model)):
        for factor in (layer.lora_A, layer.lora_B):
            weight = factor[adapters.trained(model)].weight
            weight.data.normal_(generator=draw).mul_(0.3)
    return model.eval()


def logits(model):
    return model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize(
    ("make", "wanted", "found"),
    [
        (small_llama, "all-linear", "all-linear"),
        (small_llama, "attention", [f"self_attn.{kind}_proj" for kind in "koqv"]),
        (small_llama, "q,v", ["self_attn.q_proj", "self_attn.v_proj"]),
        (small_llama, "up, down", ["mlp.down_proj", "mlp.up_proj"]),
        (small_gpt2, "q,v", ["attn.c_attn"]),
        (small_gpt2, "attention", ["attn.c_attn", "attn.c_proj"]),
        (
            small_t5,
            "q,v",
            [
                "layer.0.SelfAttention.q",
                "layer.0.SelfAttention.v",
                "layer.1.EncDecAttention.q",
                "layer.1.EncDecAttention.v",
            ],
        ),
    ],
)
def test_targets_are_found_by_what_matrices_do_in_any_architecture(make, wanted, found):
    assert adapters.targets(make(), wanted) == found


def test_an_unknown_target_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"no target 'attentio'\. Did you mean 'attention'"):
        adapters.targets(small_llama(), "attentio")
    with pytest.raises(UsageError, match="GPT2LMHeadModel has no linear layer that is 'gate'"):
        adapters.targets(small_gpt2(), "gate")


@pytest.mark.parametrize("make", [small_llama, small_gpt2, small_t5])
def test_only_the_adapter_is_trained_and_it_changes_nothing_at_first(make):
    plain, model = make().eval(), adapters.adapted(make(), 2, 4.0, 0.0, "attention").eval()
    given = {"input_ids": IDS}
    if plain.config.is_encoder_decoder:
        given["labels"] = IDS
    torch.testing.assert_close(model(**given).logits, plain(**given).logits)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_A.default" in name or ".lora_B.default" in name for name in trained)


def test_the_adapter_adds_alpha_over_rank_times_b_a_to_a_weight():
    model = learned(adapted(rank=2, alpha=6.0))
    plain = small_llama().eval()
    for layer, block in zip(
        adapters.lora_layers(model, "default"),
        [
            getattr(block.self_attn, f"{kind}_proj")
            for block in plain.model.layers
            for kind in ("q", "k", "v", "o")
        ],
        strict=True,
    ):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        block.weight.data += 6.0 / 2 * b @ a
    torch.testing.assert_close(logits(model), logits(plain))
    torch.testing.assert_close(logits(model.merge_and_unload()), logits(plain))


def test_a_is_drawn_by_its_seed_alone_and_leaves_global_chance_as_it_was():
    before = torch.get_rng_state()
    one = adapters.weights(adapted(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    same, other = adapters.weights(adapted(seed=5)), adapters.weights(adapted(seed=6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_an_adapter_that_the_model_brings_stays_with_its_own_settings():
    from peft import LoraConfig, get_peft_model

    own = get_peft_model(
        small_llama(), LoraConfig(r=3, target_modules=["q_proj"]), adapter_name="mine"
    )
    model = adapters.adapted(own, rank=8, alpha=16.0, dropout=0.0, wanted="all-linear")
    assert model is own
    assert adapters.trained(model) == "mine"
    assert {tuple(w.shape) for n, w in adapters.weights(model).items() if "lora_A" in n} == {
        (3, 16)
    }


def test_an_adapter_loaded_for_use_only_is_trained_when_a_method_asks_for_it(tmp_path):
    from peft import PeftModel

    adapters.save(learned(adapted()), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(small_llama(), tmp_path / "adapter")
    assert not any(p.requires_grad for p in loaded.parameters())
    adapters.adapted(loaded, 8, 16.0, 0.0, "all-linear")
    names = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert names == set(adapters.weights(loaded))


def test_folding_keeps_what_the_model_does_and_begins_a_new_adapter():
    model = learned(adapted(rank=2))
    whole, first = logits(model), adapters.weights(model)
    adapters.fold(model, seed=3)
    torch.testing.assert_close(logits(model), whole)
    now = adapters.weights(model)
    assert all(not w.any() for name, w in now.items() if "lora_B" in name)
    assert not any(torch.equal(now[n], first[n]) for n in now if "lora_A" in n)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(now)
    learned(model, seed=4)
    whole = logits(model)
    adapters.fold(model, seed=5)
    torch.testing.assert_close(logits(model), whole)
    past = adapters.weights(model, adapters.PAST)
    assert {len(w) for name, w in past.items() if "lora_A" in name} == {4}
    for name, w in first.items():
        rows = past[name.replace("default", "past")]
        torch.testing.assert_close(rows[:2] if "lora_A" in name else rows[:, :2], w)


def test_what_is_saved_of_a_folded_model_is_one_adapter_that_does_the_same(tmp_path):
    from peft import PeftModel

    model = learned(adapted(rank=2))
    adapters.fold(model, seed=3)
    learned(model, seed=4)
    before = logits(model), {n: p.requires_grad for n, p in model.named_parameters()}
    with adapters.whole(model):
        torch.testing.assert_close(logits(model), before[0])
        adapters.save(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(model), before[0], rtol=0, atol=0)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before[1]
    assert model.peft_config["default"].r == 2
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    loaded = PeftModel.from_pretrained(small_llama(), tmp_path / "adapter").eval()
    assert loaded.peft_config["default"].r == 4
    torch.testing.assert_close(logits(loaded), before[0])


def test_an_adapter_with_a_name_of_its_own_is_saved_in_the_folder_itself(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(r=2, target_modules=["v_proj"])
    model = learned(get_peft_model(small_llama(), config, adapter_name="mine"))
    adapters.save(model, tmp_path)
    loaded = PeftModel.from_pretrained(small_llama(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_activating_adapters_changes_nothing_of_what_is_trained():
    model = learned(adapted())
    adapters.fold(model)
    switches = {name: p.requires_grad for name, p in model.named_parameters()}
    adapters.activate(model, ["past"])
    assert model.active_adapters == ["past"]
    assert {name: p.requires_grad for name, p in model.named_parameters()} == switches
    model.base_model.set_adapter(["past"])  # what PEFT itself does
    assert {name: p.requires_grad for name, p in model.named_parameters()} != switches


def test_what_stands_in_for_weights_leaves_them_as_they_were_also_after_a_failure():
    layer = nn.Linear(3, 2)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    places = [p.data_ptr() for p in layer.parameters()]
    others = [torch.ones(2, 3), torch.ones(2)]
    with adapters.standing_in(list(layer.parameters()), others):
        assert layer(torch.ones(1, 3)).tolist() == [[4.0, 4.0]]

    def fails():
        with adapters.standing_in(list(layer.parameters()), others):
            layer(torch.ones(1, 5))

    with pytest.raises(RuntimeError, match="shapes"):
        fails()
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())
    assert [p.data_ptr() for p in layer.parameters()] == places


def test_gradients_of_a_pass_before_are_right_although_others_stood_in_meanwhile():
    layer = nn.Linear(3, 2, bias=False)
    inputs = torch.tensor([[1.0, 2.0, 3.0]])
    squares = layer(layer(inputs) @ torch.ones(2, 3)).square().sum()
    (expected,) = torch.autograd.grad(squares, [layer.weight], retain_graph=True)
    with adapters.standing_in([layer.weight], [torch.zeros(2, 3)]), torch.no_grad():
        layer(inputs)
    squares.backward()
    torch.testing.assert_close(layer.weight.grad, expected)


def test_what_cannot_be_adapted_is_refused_with_a_sentence():
    from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

    assert "Linear is none" in adapters.refusal("LoRA", nn.Linear(2, 2))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "learned prompt" in adapters.refusal("LoRA", get_peft_model(small_llama(), prompt))
    inside = adapted().get_base_model()
    assert "the inside of a model that has adapters already" in adapters.refusal("LoRA", inside)
    two = adapted()
    two.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    two.base_model.set_adapter(["default", "second"])
    assert "2 are active in the model given: default, second" in adapters.refusal("LoRA", two)
    ia3 = get_peft_model(
        small_llama(), IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    )
    assert adapters.refusal("LoRA", ia3) is None
    assert "of the kind IA3" in adapters.fold_refusal("O-LoRA", ia3)
    dora = get_peft_model(small_llama(), LoraConfig(target_modules=["q_proj"], use_dora=True))
    assert "is not: use_dora" in adapters.fold_refusal("O-LoRA", dora)
    assert adapters.fold_refusal("O-LoRA", adapted()) is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((0, 16.0, 0.0), "rank must be at least 1; given: 0."),
        ((8, 0.0, 0.0), "alpha must be above 0; given: 0.0."),
        ((8, 16.0, 1.0), "dropout must be at least 0 and below 1; given: 1.0."),
    ],
)
def test_numbers_out_of_range_are_refused(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        adapters.check(*given)
