"""Neuron-Fusion keeps whole neurons over all their matrices, and attenuates the others."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from tests.merge.conftest import llama
from tests.models.test_anatomy import MODELS

from holdfast.merge import build, changes, merge_states
from holdfast.merge.changes import Held, Inputs
from holdfast.merge.locating import locate


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(changes, "PIECE", 100)


@pytest.fixture
def pair():
    return llama(0).state_dict(), llama(1).state_dict()


def factors(pair, spec, model=None):
    """By what each entry's change was multiplied."""
    base, tuned = pair
    merged = merge_states(spec, [tuned], base, model or llama())
    return {
        name: (merged[name].double() - base[name]) / (tuned[name].double() - base[name])
        for name in base
    }


def near(found, *values):
    """Whether all known entries are one of some values."""
    known = found[~found.isnan()]
    gaps = torch.stack([(known - value).abs() for value in values])
    return bool((gaps.amin(0) < 1e-3).all())


MLP = "model.layers.{}.mlp.{}_proj.weight"
ATTENTION = "model.layers.{}.self_attn.{}_proj.weight"


def test_feed_forward_neurons_keep_their_change_in_all_three_matrices(pair):
    found = factors(pair, "neuron_fusion(share=0.25, keep=1.0, rest=0.2)")
    base, tuned = pair
    for layer in range(2):
        gate, up, down = (MLP.format(layer, name) for name in ("gate", "up", "down"))
        delta = [tuned[n] - base[n] for n in (gate, up, down)]
        score = delta[0].square().sum(1) + delta[1].square().sum(1) + delta[2].square().sum(0)
        top = set(score.topk(6).indices.tolist())
        for neuron in range(24):
            wanted = 1.0 if neuron in top else 0.2
            assert near(found[gate][neuron], wanted)
            assert near(found[up][neuron], wanted)
            assert near(found[down][:, neuron], wanted)


def test_heads_keep_queries_and_outputs_and_the_keys_that_any_of_their_group_needs(pair):
    found = factors(pair, "neuron_fusion(share=0.25, rest=0.0, score=l1)")
    base, tuned = pair
    q, k, v, o = (ATTENTION.format(0, name) for name in "qkvo")
    delta = {n: (tuned[n] - base[n]).abs() for n in (q, k, v, o)}
    own = [
        delta[q][4 * h : 4 * h + 4].sum() + delta[o][:, 4 * h : 4 * h + 4].sum() for h in range(4)
    ]
    shared = [
        (delta[k][4 * g : 4 * g + 4].sum() + delta[v][4 * g : 4 * g + 4].sum()) / 2
        for g in range(2)
    ]
    best = max(range(4), key=lambda h: own[h] + shared[h // 2])
    for head in range(4):
        rows = slice(4 * head, 4 * head + 4)
        assert near(found[q][rows], float(head == best))
        assert near(found[o][:, rows], float(head == best))
    for group in range(2):
        rows = slice(4 * group, 4 * group + 4)
        assert near(found[k][rows], float(group == best // 2))
        assert near(found[v][rows], float(group == best // 2))


def test_tokens_are_neurons_and_norms_go_with_the_others(pair):
    found = factors(pair, "neuron_fusion(share=0.2, rest=0.5)")
    embedding, head = found["model.embed_tokens.weight"], found["lm_head.weight"]
    kept = [row for row in range(29) if near(embedding[row], 1.0)]
    assert len(kept) == 6
    assert all(near(head[row], 1.0 if row in kept else 0.5) for row in range(29))
    base, tuned = pair
    base["model.norm.weight"], tuned["model.norm.weight"] = torch.ones(16), torch.full((16,), 2.0)
    mean = 0.2 * 1.0 + 0.8 * 0.5
    assert near(factors(pair, "neuron_fusion(share=0.2, rest=0.5)")["model.norm.weight"], mean)
    alone = factors(pair, "neuron_fusion(share=0.2, embeddings=whole, others=0.1)")
    assert near(alone["model.norm.weight"], 0.1)
    assert near(alone["model.embed_tokens.weight"], 0.1)


@pytest.mark.parametrize("name", ["gpt2", "neox", "phi3", "opt", "mixtral", "qwen2-moe", "gpt-oss"])
def test_every_layout_keeps_as_many_entries_as_the_share_says(name):
    architecture, settings = MODELS[name]
    cls = getattr(tf, architecture)
    torch.manual_seed(0)
    model = cls(cls.config_class(**settings))
    base = {n: t.clone() for n, t in model.state_dict().items()}
    tuned = {n: t + torch.randn_like(t) if t.is_floating_point() else t for n, t in base.items()}
    merged = merge_states("neuron_fusion(share=0.25, rest=0.0, others=0.0)", [tuned], base, model)
    inside = [
        n for n in base if ("mlp" in n or "attn" in n or "attention" in n) and base[n].dim() > 1
    ]
    kept = sum(int((merged[n] != base[n]).sum()) for n in inside if base[n].is_floating_point())
    total = sum(base[n].numel() for n in inside)
    assert 0.2 < kept / total < 0.4, "a quarter, and keys and values of half of the groups"


def test_scopes_rank_within_a_layer_over_layers_or_over_all():
    base, tuned = llama(0).state_dict(), llama(0).state_dict()
    tuned = {n: t.clone() for n, t in tuned.items()}
    for part in ("gate", "up", "down"):
        tuned[MLP.format(1, part)] += 0.5
        tuned[MLP.format(0, part)] += 0.01 * torch.rand_like(tuned[MLP.format(0, part)])

    def kept(scope):
        inputs = Inputs(
            [Held(tuned)], Held(base), {n: tuple(t.shape) for n, t in base.items()}, lambda: llama()
        )
        found = locate(inputs, share=0.25, scope=scope)
        return {
            (place.name, place.kind): int(chosen.sum())
            for place, chosen in zip(found.places, found.chosen, strict=True)
        }

    mlp = [("model.layers.0", "feedforward"), ("model.layers.1", "feedforward")]
    assert [kept("layer")[at] for at in mlp] == [6, 6]
    assert [kept("type")[at] for at in mlp] == [0, 12]
    assert kept("model")["model.layers.1", "feedforward"] == 21  # a quarter of all 85 neurons


def test_relative_scores_are_measured_by_the_weights_before(pair):
    base, tuned = ({n: t.clone() for n, t in side.items()} for side in pair)
    for part, at in (("gate", 3), ("up", 3), ("down", (slice(None), 3))):
        name = MLP.format(0, part)
        base[name][at] *= 1e-3  # so small that its change is large beside it, and small by itself
        tuned[name][at] = 6 * base[name][at]
    spec = "neuron_fusion(share=0.04, rest=0.0, relative={})"
    gate = MLP.format(0, "gate")
    plain = factors((base, tuned), spec.format("false"))[gate]
    relative = factors((base, tuned), spec.format("true"))[gate]
    assert not near(plain[3], 1.0)
    assert near(relative[3], 1.0)


def test_controls_choose_the_opposite_neurons_chance_or_single_entries(pair):
    gate = MLP.format(0, "gate")

    def rows(spec):
        found = factors(pair, f"neuron_fusion(share=0.25, rest=0.0, {spec})")[gate]
        return {row for row in range(24) if near(found[row], 1.0)}

    large, small, chance = rows("choose=large"), rows("choose=small"), rows("choose=random")
    assert len(large) == len(small) == len(chance) == 6
    assert not large & small
    assert chance == rows("choose=random")
    assert chance != rows("choose=random, seed=1")
    base, tuned = pair
    found = factors(pair, "neuron_fusion(share=0.25, rest=0.0, unit=entry)")
    kept = (found[gate] - 1).abs() < 1e-3
    order = (tuned[gate] - base[gate]).abs().flatten().argsort(descending=True)
    assert set(kept.flatten().nonzero().flatten().tolist()) == set(order[:96].tolist())
    for choose in ("small", "random"):
        other = factors(pair, f"neuron_fusion(share=0.25, rest=0.0, unit=entry, choose={choose})")
        share = float(((other[gate] - 1).abs() < 1e-3).double().mean())
        assert share == pytest.approx(0.25, abs=0.08)


def test_rescaling_keeps_each_tensors_sum_of_magnitudes_up_to_the_cap(pair):
    base, tuned = pair
    spec = "neuron_fusion(share=0.5, rest=0.4, rescale=true, cap={})"
    for name in (MLP.format(0, "gate"), MLP.format(1, "down"), ATTENTION.format(0, "q")):
        before = (tuned[name] - base[name]).abs().sum()
        merged = merge_states(spec.format(10), [tuned], base, llama())[name]
        torch.testing.assert_close((merged - base[name]).abs().sum(), before, rtol=1e-4, atol=0)
        capped = factors(pair, spec.format(1.1))[name]
        assert near(capped, 1.1, 0.4)


def test_equal_factors_are_an_average_and_one_is_the_tuned_model(pair):
    base, tuned = pair
    half = merge_states("neuron_fusion(keep=0.5, rest=0.5)", [tuned], base, llama())
    whole = merge_states("neuron_fusion(keep=1.0, rest=1.0)", [tuned], base, llama())
    for name, tensor in merge_states("wise_ft(alpha=0.5)", [tuned], base).items():
        torch.testing.assert_close(half[name], tensor, rtol=0, atol=1e-6)
        torch.testing.assert_close(whole[name], tuned[name], rtol=0, atol=1e-6)


def test_what_was_located_is_told_by_place(pair):
    base, tuned = pair
    shapes = {n: tuple(t.shape) for n, t in base.items()}
    found = locate(Inputs([Held(tuned)], Held(base), shapes, lambda: llama()))
    rows = found.by_place()
    assert [row["kind"] for row in rows] == [*("attention", "feedforward") * 2, "vocabulary"]
    assert sum(row["share"] for row in rows if row["kind"] == "attention") == pytest.approx(1)
    delta = tuned[MLP.format(0, "gate")] - base[MLP.format(0, "gate")]
    others = [tuned[MLP.format(0, n)] - base[MLP.format(0, n)] for n in ("up", "down")]
    cells = torch.cat([delta[0], others[0][0], others[1][:, 0]])
    torch.testing.assert_close(found.scores[1][0], cells.square().mean().sqrt())


def test_the_rule_says_what_it_was_given():
    assert str(build("neuron_fusion( 0.1, rest=0.25 )").spec) == (
        "neuron_fusion(share=0.1, rest=0.25)"
    )
