"""Generation: what comes out, and what it leaves untouched."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.errors import DataError, UsageError
from holdfast.language.generate import generate, sample_tokens

PROMPTS = ["ab", "hello there", "q?", "0123456789", "z"]


def greedy(model, tokenizer, prompt, tokens):
    """One prompt, one token at a time, without cache or padding."""
    ids = tokenizer(prompt)["input_ids"]
    new = []
    for _ in range(tokens):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True)


def test_greedy_text_is_the_likeliest_token_again_and_again(make_llama, tokenizer):
    model = make_llama()
    expected = [greedy(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    for batch_size in (1, 2, 16):
        found = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size)
        assert found == expected
    assert len(set(expected)) > 1


def test_an_end_token_ends_a_text(make_llama, tokenizer):
    model = make_llama()
    plain = generate(model, tokenizer, ["ab"], max_new_tokens=6)[0]
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(plain[2])
    assert generate(model, tokenizer, ["ab"], max_new_tokens=6)[0].rstrip(plain[2]) in plain[:3]
    assert len(generate(model, tokenizer, ["ab"], max_new_tokens=6)[0]) <= 3


def test_text_stops_before_a_given_string(make_llama, tokenizer):
    model = make_llama()
    plain = generate(model, tokenizer, ["ab"], max_new_tokens=8)[0]
    at = next(i for i in range(1, len(plain)) if plain[i] != plain[0])
    stopped = generate(model, tokenizer, ["ab"], max_new_tokens=8, stop=plain[at])[0]
    assert stopped == plain[: plain.index(plain[at])]


def test_a_checkpoints_own_settings_change_nothing(make_llama, tokenizer):
    model = make_llama()
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config.update(
        do_sample=True, temperature=0.3, top_k=2, repetition_penalty=5.0, num_beams=3, max_length=9
    )
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == plain


def test_sampling_is_repeatable_and_independent_of_the_batch_size(make_llama, tokenizer):
    model = make_llama()
    options = {"max_new_tokens": 12, "temperature": 1.0}
    first = generate(model, tokenizer, PROMPTS, seed=3, batch_size=2, **options)
    assert generate(model, tokenizer, PROMPTS, seed=3, batch_size=16, **options) == first
    assert generate(model, tokenizer, PROMPTS, seed=4, **options) != first


def test_a_low_temperature_approaches_greedy(make_llama, tokenizer):
    model = make_llama()
    cold = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1e-6)
    assert cold == generate(model, tokenizer, PROMPTS, max_new_tokens=12)


def test_model_and_chance_are_left_as_they_were(make_llama, tokenizer):
    model = make_llama().train()
    model.model.layers[0].eval()
    modes = [part.training for part in model.modules()]
    config, settings = model.generation_config, copy.deepcopy(model.generation_config.to_dict())
    state = torch.get_rng_state()
    generate(model, tokenizer, PROMPTS, max_new_tokens=4, temperature=1.0)
    sample_tokens(model, 3, 5, seed=0)
    model.register_forward_hook(stop_here)
    with pytest.raises(RuntimeError, match="stop here"):
        generate(model, tokenizer, PROMPTS, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    assert model.generation_config is config
    assert config.to_dict() == settings


def stop_here(*_):
    raise RuntimeError("stop here")


def test_a_sequence_to_sequence_model_answers_with_its_decoder(make_t5, tokenizer):
    model = make_t5()
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=7, batch_size=2)
    for prompt, text in zip(PROMPTS, found, strict=True):
        source = torch.tensor([tokenizer(prompt)["input_ids"]])
        made = [0]
        for _ in range(7):
            with torch.no_grad():
                out = model(input_ids=source, decoder_input_ids=torch.tensor([made]))
            made.append(int(out.logits[0, -1].argmax()))
            if made[-1] == 2:
                break
        assert text == tokenizer.decode(made[1:], skip_special_tokens=True)


def test_an_adapter_is_used_and_left_as_it_was(make_llama, tokenizer):
    from peft import LoraConfig, get_peft_model

    plain = generate(make_llama(), tokenizer, PROMPTS, max_new_tokens=8)
    model = get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj", "o_proj"], r=2))
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == plain
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name:
                weight.fill_(0.3)
    inner = model.get_base_model().generation_config
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) != plain
    assert model.get_base_model().generation_config is inner


def test_prompts_may_be_token_ids(make_llama, tokenizer):
    model = make_llama()
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    found = generate(model, tokenizer, ids, max_new_tokens=8)
    assert found == generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert generate(model, tokenizer, []) == []


def test_prompts_that_cannot_be_answered_are_named(make_llama, tokenizer):
    with pytest.raises(DataError, match=r"Prompt 1 has 61 tokens and 10 new ones .* is 64"):
        generate(make_llama(), tokenizer, ["a", "b" * 60], max_new_tokens=10)
    with pytest.raises(DataError, match="Prompt 0 has no tokens"):
        generate(make_llama(), tokenizer, [[]])
    with pytest.raises(UsageError, match="temperature must be at least 0"):
        generate(make_llama(), tokenizer, ["a"], temperature=-1.0)


def test_free_samples_follow_the_models_distribution(make_llama):
    model = make_llama(num_hidden_layers=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # far from uniform
    rows = sample_tokens(model, 4000, 2, seed=0, batch_size=1000)
    assert rows.shape == (4000, 2)
    assert rows[:, 0].eq(1).all()
    with torch.no_grad():
        expected = model(torch.tensor([[1]])).logits[0, -1].softmax(-1)
    seen = torch.bincount(rows[:, 1], minlength=len(expected)) / 4000
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((seen - expected).abs() <= 4.5 * deviation + 1e-9).all()
    assert expected.max() > 0.1


def test_free_samples_are_repeatable_go_on_past_an_end_and_fit_the_context(make_llama):
    model = make_llama()
    rows = sample_tokens(model, 40, 64, seed=1, batch_size=40)
    assert rows.shape == (40, 64)
    ended = rows.eq(2).int().argmax(1)
    assert (rows[ended > 0].ne(2).sum(1) > 30).all()
    assert torch.equal(rows, sample_tokens(model, 40, 64, seed=1, batch_size=7))
    assert not torch.equal(rows, sample_tokens(model, 40, 64, seed=2))
    with pytest.raises(UsageError, match="length 65 exceeds the model's context of 64"):
        sample_tokens(model, 1, 65, seed=0)
    model.config.bos_token_id = None
    with pytest.raises(UsageError, match="names no begin token"):
        sample_tokens(model, 1, 4, seed=0)
    assert sample_tokens(model, 1, 4, seed=0, begin=5)[0, 0] == 5


@pytest.mark.data
def test_the_real_model_tells_a_story(stories):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(stories)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rows = sample_tokens(model, 8, 60, seed=0)
    assert tokenizer.batch_decode(rows, skip_special_tokens=True)[0].startswith("Once upon a time")
