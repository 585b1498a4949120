"""Gradients of single examples at both ends of a language model."""

import copy

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.language.objective import CausalLM, Seq2SeqLM
from holdfast.optim.example_gradients import Ends


def llama(tied=False, seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
            initializer_range=0.3,
            pad_token_id=0,
        )
    )


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=2, initializer_range=0.3)
    )


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=40,
            d_model=24,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            d_kv=8,
            decoder_start_token_id=0,
        )
    )


def batch_of_text(rows=5, width=12, encoder_decoder=False):
    """Rows of different lengths, with repeated tokens, asked for in their second half."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 12, (rows, width), generator=draw)
    lengths = torch.arange(width, width - rows, -1)
    real = torch.arange(width) < lengths[:, None]
    asked = real & (torch.arange(width) >= 4)
    batch = {
        "input_ids": torch.where(real, ids, 0),
        "attention_mask": real.long(),
        "labels": torch.where(asked, ids, -100),
    }
    if encoder_decoder:
        answers = torch.randint(1, 12, (rows, 6), generator=draw)
        kept = torch.arange(6) < torch.arange(6, 6 - rows, -1)[:, None]
        batch["labels"] = torch.where(kept, answers, -100)
    return batch


def untied(model):
    """The same function with a matrix of its own at either end."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return model


def one_by_one(model, objective, batch):
    """Norms by backward passes of single examples, through the weights themselves."""
    model = untied(model).eval().requires_grad_(True)
    norms = []
    for row in range(len(batch["input_ids"])):
        single = {name: column[row : row + 1] for name, column in batch.items()}
        model.zero_grad()
        objective.losses(objective.forward(model, single), single).sum().backward()
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        norms.append([float(end.weight.grad.norm()) for end in ends])
    return torch.tensor(norms).T


def batched(model, objective, batch):
    model.eval()
    with Ends(model) as ends:
        return ends.norms(objective.losses(objective.forward(model, batch), batch).sum())


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (llama, CausalLM()),
        (lambda: llama(tied=True), CausalLM()),
        (gpt2, CausalLM()),
        (t5, Seq2SeqLM()),
    ],
    ids=["llama", "tied-llama", "gpt2", "t5"],
)
def test_batched_norms_are_those_of_backward_passes_of_single_examples(make, objective):
    model = make()
    batch = batch_of_text(encoder_decoder=isinstance(objective, Seq2SeqLM))
    embedding, head = one_by_one(model, objective, batch)
    found = batched(model, objective, batch)
    torch.testing.assert_close(found.embedding, embedding, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.head, head, rtol=1e-4, atol=0)


def test_tied_ends_are_kept_apart():
    model = llama(tied=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    batch = batch_of_text()
    found = batched(model, CausalLM(), batch)
    single = {name: column[:1] for name, column in batch.items()}
    CausalLM().loss(CausalLM().forward(model, single), single).backward()
    whole = model.lm_head.weight.grad.norm()
    assert not torch.isclose(found.head[0], whole, rtol=0.01)
    assert not torch.isclose(found.embedding[0], whole, rtol=0.01)


def test_a_frozen_model_has_the_same_norms():
    model, batch = llama(), batch_of_text()
    free = batched(model, CausalLM(), batch)
    frozen = batched(model.requires_grad_(False), CausalLM(), batch)
    torch.testing.assert_close(free, frozen)


def test_under_adapters_the_norms_are_those_of_the_model_with_the_adapters_folded_in():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    batch = batch_of_text()
    found = batched(adapted, CausalLM(), batch)
    folded = adapted.merge_and_unload()
    embedding, head = one_by_one(folded, CausalLM(), batch)
    torch.testing.assert_close(found.embedding, embedding, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.head, head, rtol=1e-4, atol=0)


def test_the_error_is_the_mean_distance_of_probabilities_from_the_token():
    model, batch = llama(), batch_of_text()
    found = batched(model, CausalLM(), batch)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    for row, labels in enumerate(batch["labels"]):
        places = [t for t in range(1, len(labels)) if labels[t] != -100]
        distances = []
        for t in places:
            wrong = logits[row, t - 1].softmax(0)
            wrong[labels[t]] -= 1
            distances.append(wrong.norm())
        torch.testing.assert_close(found.error[row], torch.stack(distances).mean())


def test_scoring_leaves_no_gradients_and_no_hooks():
    model = llama()
    batched(model, CausalLM(), batch_of_text())
    assert all(parameter.grad is None for parameter in model.parameters())
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    assert not any(end._forward_hooks for end in ends)


def test_watching_a_backward_pass_gives_its_norms_and_the_share_that_was_descended():
    model, batch, seen = llama(), batch_of_text(), []
    objective = CausalLM()
    with Ends(model) as ends:
        loss = objective.losses(objective.forward(model, batch), batch).sum()
        ends.watch(loss, lambda norms, share: seen.append((norms, share)))
        (0.25 * loss).backward()
    (norms, share), expected = seen[0], batched(model, objective, batch)
    assert float(share) == 0.25
    torch.testing.assert_close(norms.head, 0.25 * expected.head)
    torch.testing.assert_close(norms.embedding, 0.25 * expected.embedding)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_model_that_does_not_tell_its_ends_is_refused():
    with pytest.raises(UsageError, match="Linear does not tell by get_input_embeddings"):
        Ends(nn.Linear(2, 2))
