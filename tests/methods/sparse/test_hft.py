"""Half fine-tuning: half of every block is trained, and the other half keeps its bits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from holdfast import checkpoint
from holdfast.errors import CheckpointError, StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.methods import HFT
from holdfast.testing import check_method
from holdfast.testing.trials import small_llama, small_stream

ENDS = {"bos_token_id": None, "eos_token_id": None}


def llama(blocks=4, **more):
    torch.manual_seed(0)
    arguments = {"intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 256}
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=16, num_hidden_layers=blocks, **arguments, **ENDS, **more)
    )


def gpt2(**more):
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=4, n_head=2, vocab_size=256, **ENDS, **more)
    return GPT2LMHeadModel(config)


def learner_of(model, method, **options):
    options = {
        "optimizer": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        "epochs": 2,
        "batch_size": 16,
        "pretrained": True,
        **options,
    }
    return Learner(model, method, **options)


class Look(Observer):
    """Keeps the weights after every experience, and what was trained in it."""

    def __init__(self, model):
        self.weights = [copies(model)]
        self.trained = []

    def on_experience(self, learner):
        self.weights.append(copies(learner.model))
        self.trained.append([name for name, _ in learner.named])


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def in_blocks(names, key):
    return [sum(f"layers.{b}." in n and key in n for n in names) for b in range(4)]


def test_frozen_matrices_keep_their_bits_and_are_out_of_the_optimizer():
    model, stream = llama(), small_stream("text")
    learner, look = learner_of(model, HFT()), Look(model)
    learner.learn(stream, [look])
    for stage, trained in enumerate(look.trained):
        before, after = look.weights[stage], look.weights[stage + 1]
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert moved == trained
        assert in_blocks(moved, "self_attn") == [2] * 4
        assert sorted(in_blocks(moved, "mlp")) == [1, 1, 2, 2]
        assert in_blocks(moved, "norm") == [1] * 4
    assert len({tuple(names) for names in look.trained}) == 3, "every stage has a half of its own"
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert set(learner.optimizer.state) == {p for p in model.parameters() if p.requires_grad}


def test_the_share_that_is_trained_is_counted_and_noted():
    model = llama()
    method = HFT()
    report = method.freeze(model)
    inside = {n: p for n, p in model.named_parameters() if ".layers." in n}
    trained = sum(p.numel() for p in inside.values() if p.requires_grad)
    assert report["ratio"] == trained / sum(p.numel() for p in inside.values()) == 0.5
    assert report["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report["categories"] == {"attention": 0.5, "feedforward": 0.5, "norm": 0.5}
    assert report["masked_tensors"] == 0
    learner = learner_of(llama(), HFT())
    record = learner.learn(small_stream("text"))
    assert [note["hft"]["ratio"] for note in record.notes] == [0.5] * 3
    assert [note["hft"]["stage"] for note in record.notes] == [0, 1, 2]


def test_parts_of_fused_matrices_keep_their_bits_under_momentum_and_decay():
    model, stream = gpt2(), small_stream("text")
    look = Look(model)
    learner = learner_of(model, HFT(), optimizer_state="keep", clip=0.5, accumulate=2)
    masks = []

    class Masks(Look):
        def on_experience(self, learner):
            super().on_experience(learner)
            masks.append(dict(learner.method.updates.masks))

    look = Masks(model)
    learner.learn(stream, [look])
    named = dict(model.named_parameters())
    for stage, by_parameter in enumerate(masks):
        before, after = look.weights[stage], look.weights[stage + 1]
        assert by_parameter
        for name, parameter in named.items():
            same = before[name] == after[name]
            if parameter in by_parameter:
                mask = by_parameter[parameter].expand(same.shape)
                assert torch.equal(same, ~mask) or same[~mask].all()
                assert not same[mask].all()
            else:
                assert same.all() != (name in look.trained[stage])
    fused = [f"transformer.h.{b}.attn" for b in range(4)]
    for block in fused:  # 2 of the 4: parts of c_attn, and c_proj
        weight = named[f"{block}.c_attn.weight"]
        parts = int(masks[-1].get(weight, torch.zeros(1)).sum()) // 16
        parts = 3 if weight.requires_grad and weight not in masks[-1] else parts
        assert parts + named[f"{block}.c_proj.weight"].requires_grad == 2


def test_biases_go_with_their_weights():
    model = gpt2()
    HFT(seed=1).freeze(model)
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        if ".h." in name and name.endswith("weight"):
            assert named[name.replace("weight", "bias")].requires_grad == parameter.requires_grad


@pytest.mark.parametrize(
    ("embeddings", "expected"), [("train", {3}), ("freeze", {0}), ("draw", {1, 2})]
)
def test_what_lies_outside_blocks_is_trained_frozen_or_drawn(embeddings, expected):
    seen = set()
    for seed in range(10):
        model = llama()
        HFT(embeddings=embeddings, seed=seed).freeze(model)
        outside = [p for n, p in model.named_parameters() if ".layers." not in n]
        seen.add(sum(p.requires_grad for p in outside))
    assert seen == expected


def test_tied_embeddings_count_once():
    model = llama(tie_word_embeddings=True)
    report = HFT().freeze(model)
    assert report["parameters"] == sum(p.numel() for p in model.parameters())


def test_what_was_frozen_before_stays_frozen():
    model = llama()
    model.model.layers[0].requires_grad_(False)
    method = HFT()
    for stage in range(4):
        report = method.freeze(model, stage)
        assert not any(p.requires_grad for p in model.model.layers[0].parameters())
        assert report["ratio"] == pytest.approx(0.5, abs=0.06)  # of three blocks


def test_the_complement_is_exactly_the_other_half():
    model = llama()
    method = HFT(complement=True, embeddings="draw")
    trained = []
    for stage in range(4):
        method.freeze(model, stage)
        trained.append({n for n, p in model.named_parameters() if p.requires_grad})
    everything = {n for n, _ in model.named_parameters()}
    assert trained[1] == everything - trained[0]
    assert trained[3] == everything - trained[2]
    assert trained[2] != trained[0]


def test_in_every_second_epoch_the_complement_is_trained():
    model, method = llama(), HFT(redraw="epoch", complement=True)
    trained = []
    for epoch in range(2):
        method.freeze(model, stage=1, epoch=epoch)
        trained.append({n for n, p in model.named_parameters() if p.requires_grad})
    inside = {n for n, _ in model.named_parameters() if ".layers." in n}
    assert trained[0] & trained[1] & inside == set()
    assert inside <= trained[0] | trained[1]


def test_never_keeps_one_half_and_epoch_draws_one_every_epoch():
    stream = small_stream("text")
    each = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for redraw, turns in (("never", [(0, 0)] * 3), ("epoch", each)):
        model = llama()
        learner, look = learner_of(model, HFT(redraw=redraw)), Look(model)
        learner.learn(stream, [look])
        notes = [note["hft"] for note in learner.record.notes]
        assert [(note["stage"], note["epoch"]) for note in notes] == turns
        drawn = {digest for *_, digest in learner.method.log}
        assert len(drawn) == len(set(turns))


def test_in_an_epoch_nothing_moves_that_is_not_in_its_half():
    """Six passes of a batch an epoch, with one optimizer after another, at the schedule's rate."""
    moved, rates = [], []

    class Watch(Observer):
        def on_step(self, learner):
            now = copies(learner.model)
            moved.append({n for n in now if not torch.equal(now[n], self.last[n])})
            trained = {name for name, _ in learner.named}
            assert moved[-1] == trained
            rates.append(learner.optimizer.param_groups[0]["lr"])
            self.last = now

    model = llama()
    watch = Watch()
    watch.last = copies(model)
    learner = learner_of(
        model, HFT(redraw="epoch"), schedule=lambda epoch, epochs: 1.0 if epoch == 0 else 0.5
    )
    learner.learn(small_stream("text"), [watch])
    assert moved[0] == moved[2] != moved[3] == moved[5]
    assert rates[:6] == [0.01] * 3 + [0.005] * 3


def test_a_run_that_draws_every_epoch_is_resumed_exactly():
    check_method(partial(HFT, redraw="epoch"), only=["exact_resume"])


def test_a_resumed_run_with_parts_of_matrices_ends_with_the_same_bits(tmp_path):
    stream = small_stream("text")

    class Keep(Observer):
        def on_step(self, learner):
            if (learner.index, learner.step) == (1, 4):
                checkpoint.save(tmp_path / "state", learner.state_dict())

    whole = learner_of(gpt2(), HFT(redraw="epoch"))
    whole.learn(stream, [Keep()])
    again = learner_of(gpt2(), HFT(redraw="epoch"))
    again.restore(stream, checkpoint.load(tmp_path / "state"))
    again.learn(stream)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_half_is_refused(tmp_path):
    stream = small_stream("text")
    first = learner_of(llama(), HFT())
    first.learn(stream)
    checkpoint.save(tmp_path / "state", first.state_dict())
    other = learner_of(llama(), HFT(seed=1))
    with pytest.raises(CheckpointError, match="is not the one in the checkpoint"):
        other.restore(stream, checkpoint.load(tmp_path / "state"))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("embeddings", ["train", "freeze"])
def test_checkpointed_blocks_have_the_gradients_of_others(embeddings, reentrant):
    """Also where embeddings are frozen, so that the first block's inputs would want none."""
    tokens = torch.arange(12).view(2, 6)

    def gradients(checkpointed):
        model = llama().train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        HFT(embeddings=embeddings).freeze(model)
        model(tokens, labels=tokens).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], atol=1e-6)


def test_no_hooks_are_left_on_the_model():
    model, seen = llama(), []

    class Count(Observer):
        def on_step(self, learner):
            seen.append(sum(bool(m._forward_hooks) for m in learner.model.modules()))

    learner_of(model, HFT(embeddings="freeze")).learn(small_stream("text"), [Count()])
    assert set(seen) == {1}
    assert not any(m._forward_hooks for m in model.modules())


def test_a_loop_of_ones_own_is_guarded_by_two_lines():
    model = gpt2()
    before = copies(model)
    method = HFT()
    report = method.freeze(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    method.updates.guard(optimizer)
    tokens = torch.arange(12).view(2, 6)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    inside = [n for n in before if ".h." in n]
    named = dict(model.named_parameters())
    moved = sum((named[n] != before[n]).sum() for n in inside)
    entries = sum(before[n].numel() for n in inside)
    assert moved / entries == pytest.approx(report["ratio"], abs=0.001)


def test_the_optimizer_holds_half_the_moments():
    full, half = llama(), llama()
    for model in (full, half):
        model.get_input_embeddings().requires_grad_(False)
        model.lm_head.requires_grad_(False)
    HFT().freeze(half)
    tokens = torch.arange(12).view(2, 6)
    held = []
    for model in (full, half):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        held.append(sum(state["exp_avg"].numel() for state in optimizer.state.values()))
    assert held[1] / held[0] == pytest.approx(0.5, abs=0.01)


def test_models_without_blocks_and_adapters_are_refused():
    from peft import LoraConfig, get_peft_model

    with pytest.raises(UsageError, match="No transformer blocks"):
        HFT().freeze(torch.nn.Linear(2, 2))
    adapted = get_peft_model(small_llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UsageError, match="a PEFT model's are all frozen"):
        HFT().freeze(adapted)
    with pytest.raises(StreamRefused, match="a PEFT model's are all frozen"):
        learner_of(adapted, HFT()).learn(small_stream("text"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"ratio": 1.5}, "ratio must lie between 0 and 1"),
        ({"level": "half"}, "level must be one of category, layer, model"),
        ({"redraw": "step"}, "redraw must be one of stage, epoch, never"),
        ({"embeddings": "half"}, "embeddings must be one of train, freeze, draw"),
        ({"complement": True, "ratio": 0.3}, "ratio must be 0.5; given: 0.3"),
        ({"complement": True, "redraw": "never"}, "redraw is 'never'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        HFT(**arguments)
