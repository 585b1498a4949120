"""MIGU: rows with the largest outputs on the batch at hand are updated, and no others."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.methods import MIGU
from holdfast.models.anatomy import linears
from holdfast.testing import check_method
from holdfast.testing.trials import small_llama, small_stream

ENDS = {"bos_token_id": None, "eos_token_id": None}


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=256, n_positions=32,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ENDS,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def learner_of(model, method, **options):
    options = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "batch_size": 8,
        "pretrained": True,
        **options,
    }
    return Learner(model, method, **options)


def started(learner, experience=0):
    """The learner at the beginning of an experience."""
    stream = small_stream("text")
    learner.start(stream)
    learner.begin(stream[experience])
    learner.model.train()
    return list(learner.batches)


def reference(model, objective, passes, quantile, hosts=None):
    """Masks and masked gradients of one update, from hooks, autograd and sorting alone.

    `hosts`: at which module each layer's outputs are read, where it is not at itself.
    """
    sums = {}
    layers = {w.name: w for w in linears(model) if w.module.weight.requires_grad}
    handles = []
    for name, layer in layers.items():

        def add(module, inputs, output, name=name):
            real = masks.unsqueeze(-1)
            sums[name] = sums.get(name, 0) + (output.detach().abs() * real).sum((0, 1))

        handles.append((hosts or {}).get(name, layer.module).register_forward_hook(add))
    parameters = dict(model.named_parameters())
    trained = [p for p in parameters.values() if p.requires_grad]
    whole = sum(objective.weight(batch) for batch in passes)
    total = [torch.zeros_like(p) for p in trained]
    for batch in passes:
        masks = batch["attention_mask"]
        loss = objective.loss(objective.forward(model, batch), batch)
        loss = loss * objective.weight(batch) / whole
        for sum_, g in zip(total, torch.autograd.grad(loss, trained), strict=True):
            sum_ += g
    for handle in handles:
        handle.remove()
    gradients = {id(p): g for p, g in zip(trained, total, strict=True)}
    for name, layer in layers.items():
        order = sums[name].sort().values
        place = quantile * (len(order) - 1)
        below, above = order[int(place)], order[min(int(place) + 1, len(order) - 1)]
        threshold = below + (place - int(place)) * (above - below)
        rows = sums[name] >= threshold
        gradient = gradients[id(layer.module.weight)]
        gradient *= rows[None, :] if layer.dim else rows[:, None]
    return {n: gradients[id(p)] for n, p in parameters.items() if p.requires_grad}


def change(model, update):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    update()
    return {n: before[n] - p.detach() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("make", [small_llama, gpt2])
def test_one_update_is_that_of_a_ten_line_reference(make, passes):
    model = make()
    learner = learner_of(model, MIGU(quantile=0.7), accumulate=passes)
    batches = started(learner)[:passes]
    expected = reference(model, learner.objective, batches, 0.7)
    moved = change(model, lambda: learner.update(*batches))
    assert moved.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(moved[name], 0.1 * gradient, atol=1e-6), name


@pytest.mark.parametrize("lora", ["combined", "own"])
def test_rows_of_a_loras_b_go_by_the_combined_output_or_its_own(lora):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = get_peft_model(small_llama(), config)
    learner = learner_of(model, MIGU(lora=lora))
    batches = started(learner)[:1]
    modules = dict(model.named_modules())
    hosts = {
        name: modules[name.split(".lora_B")[0]]
        for name in modules
        if ".lora_B." in name and lora == "combined"
    }
    expected = reference(model, learner.objective, batches, 0.7, hosts)
    moved = change(model, lambda: learner.update(*batches))
    assert {n.split(".")[-3] for n in moved} == {"lora_A", "lora_B"}
    for name, gradient in expected.items():
        assert torch.allclose(moved[name], 0.1 * gradient, atol=1e-6), name
        rows = (moved[name] != 0).any(1).sum().item()
        assert 0 < rows <= -(-0.3 * len(gradient) // 1)


def test_combined_and_own_choose_other_rows():
    config = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
    chosen = []
    for lora in ("combined", "own"):
        torch.manual_seed(0)
        model = get_peft_model(small_llama(), config)
        learner = learner_of(model, MIGU(lora=lora))
        batches = started(learner)
        moved = change(model, lambda b=batches[0], one=learner: one.update(b))
        chosen.append({n: (m != 0).any(1) for n, m in moved.items()})
    assert any(not torch.equal(chosen[0][n], chosen[1][n]) for n in chosen[0] if "lora_B" in n)
    assert all(torch.equal(chosen[0][n], chosen[1][n]) for n in chosen[0] if "lora_A" in n)


def test_the_mask_is_of_this_batch_and_not_of_the_last():
    model = small_llama()
    learner = learner_of(model, MIGU(), optimizer=partial(torch.optim.SGD, lr=0.0))
    masks = []
    original = learner.method.masks
    learner.method.masks = lambda one: masks.append(original(one)) or masks[-1]
    learner._collect_hooks()
    first, second, *_ = started(learner)
    for batch in (first, second, first):
        learner.update(batch)
    same = [
        all(torch.equal(a, b) for (_, a), (_, b) in zip(masks[0], m, strict=True)) for m in masks
    ]
    assert same == [True, False, True]


def test_biases_are_masked_only_when_asked():
    for biases in (False, True):
        model = gpt2()
        learner = learner_of(model, MIGU(biases=biases))
        batch = started(learner)[0]
        moved = change(model, lambda b=batch, one=learner: one.update(b))
        bias = moved["transformer.h.0.mlp.c_fc.bias"]
        assert bias.ne(0).float().mean().item() == pytest.approx(0.3 if biases else 1.0, abs=0.03)


def adam_leak(freeze_update):
    """How far masked rows move in the second update, under Adam with decay."""
    model = small_llama()
    learner = learner_of(
        model,
        MIGU(freeze_update=freeze_update),
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    )
    first, second, *_ = started(learner)
    learner.update(first)
    expected = reference(model, learner.objective, [second], 0.7)
    moved = change(model, lambda: learner.update(second))
    rows = {
        w.name: (expected[f"{w.name}.weight"] == 0).all(1)
        for w in linears(model)
        if w.name != "lm_head"
    }
    return {name: moved[f"{name}.weight"][masked] for name, masked in rows.items()}


def test_old_moments_and_decay_move_masked_rows_unless_the_update_is_frozen():
    assert all((moved != 0).any() for moved in adam_leak(False).values())
    assert not any(moved.any() for moved in adam_leak(True).values())


def test_as_many_rows_are_drawn_at_random_the_same_with_one_seed():
    def rows(seed):
        model = small_llama()
        learner = learner_of(model, MIGU(random_update=True), seed=seed)
        batch = started(learner)[0]
        moved = change(model, lambda: learner.update(batch))
        return (moved["model.layers.0.mlp.up_proj.weight"] != 0).any(1)

    first = rows(0)
    assert first.sum() == 10  # of 32, those above the 70 % quantile
    assert torch.equal(first, rows(0))
    assert not torch.equal(first, rows(1))


@pytest.mark.parametrize(
    ("pretrained", "start_at", "acts"),
    [
        (True, None, [True, True, True]),
        (False, None, [False, True, True]),
        (True, 2, [False, False, True]),
        (False, 0, [True, True, True]),
    ],
)
def test_it_acts_from_an_experience_on(pretrained, start_at, acts):
    seen = []

    class Count(Observer):
        def on_step(self, learner):
            hooks = sum(bool(m._forward_hooks) for m in learner.model.modules())
            seen.append((learner.index, hooks > 0))

    learner = learner_of(small_llama(), MIGU(start_at=start_at), pretrained=pretrained)
    learner.learn(small_stream("text"), [Count()])
    assert sorted(set(seen)) == list(enumerate(acts))


def test_hooks_are_taken_off_at_the_end_and_when_training_fails():
    class Fail(Observer):
        def on_step(self, learner):
            if learner.index == 1:
                raise RuntimeError("stop")

    for observers in ([], [Fail()]):
        model = small_llama()
        learner = learner_of(model, MIGU())
        try:
            learner.learn(small_stream("text"), observers)
        except RuntimeError:
            assert observers
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_only_layers_asked_for_are_masked():
    model = small_llama()
    learner = learner_of(model, MIGU(target="q_proj, v_proj"))
    batch = started(learner)[0]
    moved = change(model, lambda: learner.update(batch))
    zero_rows = {n for n, m in moved.items() if m.dim() == 2 and (m == 0).all(1).any()}
    assert {n.split(".")[-2] for n in zero_rows} - {"embed_tokens"} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    "arguments", [{"freeze_update": True, "clusters": 4}, {"random_update": True}]
)
def test_variants_are_resumed_exactly(arguments):
    check_method(partial(MIGU, start_at=0, **arguments), only=["exact_resume"])


def test_layers_that_are_not_there_are_refused_with_those_that_are():
    learner = learner_of(small_llama(), MIGU(target="query"))
    with pytest.raises(UsageError, match=r"called 'query' in LlamaForCausalLM; .* q_proj"):
        learner.learn(small_stream("text"))


def test_a_stream_without_boundaries_needs_to_be_told_where_to_start():
    from dataclasses import replace

    stream = replace(small_stream("text"), boundaries=False)
    with pytest.raises(StreamRefused, match="give start_at=0"):
        learner_of(small_llama(), MIGU()).learn(stream)
    learner_of(small_llama(), MIGU(start_at=0)).start(stream)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"quantile": 1.0}, r"quantile must lie in \[0, 1\); given: 1.0"),
        ({"lora": "both"}, "lora must be one of combined, own; given: 'both'"),
        ({"clusters": -1}, "clusters must be at least 0"),
        ({"start_at": -1}, "start_at must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        MIGU(**arguments)


def masks_of_one(rank, folder, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learner = learner_of(small_llama(), MIGU())
    batches = started(learner)
    learner.descend(batches[rank])
    results[rank] = torch.cat([mask.flatten() for _, mask in learner.method.masks(learner)])
    dist.destroy_process_group()


@pytest.mark.system
def test_processes_average_their_magnitudes_and_mask_alike(tmp_path):
    import torch.multiprocessing as mp

    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(masks_of_one, (str(tmp_path), results), nprocs=2)
        first, second = results[0], results[1]
    assert torch.equal(first, second)
    learner = learner_of(small_llama(), MIGU())
    batches = started(learner)
    learner.descend(batches[0])
    learner.descend(batches[1])  # magnitudes of both, added
    alone = torch.cat([mask.flatten() for _, mask in learner.method.masks(learner)])
    assert torch.equal(first, alone)
