"""Reading questions: what several have in common is read once, and the numbers stay."""

import random

import numpy as np
import pytest
import torch
import transformers

from holdfast.language.questions import Question
from holdfast.language.reading import read_questions

SMALL = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}

MODELS = {
    "llama": ("Llama", {**SHAPE, **HEADS}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "sliding window": ("Mistral", {**SHAPE, **HEADS, "sliding_window": 8}),
    "two kinds of layers": ("Gemma2", {**SHAPE, **HEADS, "head_dim": 16, "sliding_window": 8}),
    "no cache of keys": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}),
}


def build(name):
    family, given = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SMALL, **given)
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    return getattr(transformers, f"{family}{suffix}")(config).eval()


def multiple_choice(prompts=5, choices=4):
    """Prompts of 5 to 20 tokens, with choices of one to four tokens each."""
    draw = random.Random(0)

    def tokens(low, high):
        return [draw.randrange(3, 96) for _ in range(draw.randrange(low, high))]

    given = [tokens(5, 21) for _ in range(prompts)]
    return [Question(g, tokens(1, 5), 3) for g in given for _ in range(choices)]


def alone(model, question):
    """The log-probability of what is asked, token by token, by the model alone."""
    ids = torch.tensor([question.given + question.asked])
    logprobs = model(ids).logits[0].log_softmax(-1)
    first = len(question.given)
    return sum(float(logprobs[first - 1 + k, t]) for k, t in enumerate(question.asked))


@pytest.mark.parametrize("name", MODELS)
def test_choices_of_one_prompt_are_read_as_if_each_were_alone(name):
    model, questions = build(name), multiple_choice()
    with torch.no_grad():
        found = read_questions(model, questions, 400)
        expected = [alone(model, question) for question in questions]
    assert np.allclose(found.logprob, expected, atol=1e-4)


def test_a_prompt_is_read_once_for_all_its_choices():
    model, questions = build("llama"), multiple_choice(prompts=3, choices=8)
    seen = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, given, output: seen.append(given[0].numel())
    )
    with torch.no_grad():
        read_questions(model, questions, 10**6)
    longest = max(len(question.given) for question in questions)
    assert sum(seen) <= 3 * longest + len(questions) * 4


def test_the_head_is_asked_for_answers_only():
    model = build("llama")
    questions = [Question(list(range(3, 33)), [5, 6], 2), Question(list(range(4, 34)), [7], 1)]
    seen = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, given, output: seen.append(output.shape[1])
    )
    with torch.no_grad():
        found = read_questions(model, questions, 10**6)
        expected = [alone(model, question) for question in questions]
    assert seen[0] == 3
    assert np.allclose(found.logprob, expected, atol=1e-4)
