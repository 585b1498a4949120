"""Neurons span matrices: every layout deals the same entries to the same neurons."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from tests.models.test_anatomy import MODELS

from holdfast.errors import UsageError
from holdfast.models.neurons import neurons


def meta(name):
    architecture, settings = MODELS[name]
    cls = getattr(tf, architecture)
    with torch.device("meta"):
        return cls(cls.config_class(**settings))


def feedforward(name):
    return next(n for n in neurons(meta(name)) if n.kind == "feedforward")


@pytest.mark.parametrize("name", MODELS)
def test_no_entry_belongs_to_two_places_and_all_matrices_of_blocks_are_covered(name):
    model = meta(name)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    seen = {n: torch.zeros(s, dtype=torch.int32) for n, s in shapes.items()}
    for found in neurons(model):
        for member in found.members:
            tensor = seen[member.parameter]
            dim = member.dim
            if member.expert is not None:
                tensor, dim = tensor[member.expert], dim - 1
            tensor.index_add_(
                dim,
                member.entries,
                torch.ones_like(tensor).index_select(dim, member.entries),
            )
            assert member.place.max() + 1 == found.count // member.share
    assert all(tensor.max() <= 1 for tensor in seen.values())
    inside = [
        n for n, s in shapes.items() if ".weight" in n and len(s) > 1 and "gate.weight" not in n
    ]
    matrices = [n for n in inside if any(w in n for w in ("attn", "attention", "mlp"))]
    odd = ("relative", "router", "shared_expert_gate", "mlp.gate.")
    for matrix in matrices:
        if not any(word in matrix for word in odd):
            assert seen[matrix].all(), f"{matrix} has entries without a neuron"


def test_a_feed_forward_neuron_is_a_row_of_gate_and_up_and_a_column_of_down():
    found = feedforward("llama")
    places = {m.parameter.split(".")[-2]: (m.dim, m.place.tolist()) for m in found.members}
    counted = list(range(48))
    assert places == {"gate_proj": (0, counted), "up_proj": (0, counted), "down_proj": (1, counted)}
    shapes = {n: p.shape for n, p in meta("llama").named_parameters()}
    assert found.sizes(shapes).tolist() == [3.0 * 32] * 48


def test_gated_and_fused_layouts_deal_out_the_same():
    apart = feedforward("llama")
    fused = feedforward("phi3")
    gate, up, down = fused.members
    assert gate.place.tolist() == [*range(48), *[-1] * 48]
    assert up.place.tolist() == [*[-1] * 48, *range(48)]
    assert down.place.tolist() == apart.members[2].place.tolist()


def test_columns_of_a_turned_matrix_are_its_rows():
    members = feedforward("gpt2").members
    found = {m.parameter.split(".", 3)[-1]: m.dim for m in members}
    assert found == {"mlp.c_fc.weight": 1, "mlp.c_fc.bias": 0, "mlp.c_proj.weight": 0}


def test_a_head_holds_its_queries_and_outputs_alone_and_shares_keys_with_its_group():
    found = next(n for n in neurons(meta("llama")) if n.kind == "attention")
    assert found.count == 4
    by_name = {m.parameter.split(".")[-2]: m for m in found.members}
    assert by_name["q_proj"].place.tolist() == [h for h in range(4) for _ in range(8)]
    assert by_name["o_proj"].place.tolist() == by_name["q_proj"].place.tolist()
    assert (by_name["q_proj"].dim, by_name["o_proj"].dim) == (0, 1)
    for name in ("k_proj", "v_proj"):
        assert by_name[name].place.tolist() == [g for g in range(2) for _ in range(8)]
        assert by_name[name].share == 2
    shapes = {n: p.shape for n, p in meta("llama").named_parameters()}
    assert found.sizes(shapes).tolist() == [8 * 32 * (1 + 1 + 0.5 + 0.5)] * 4


def test_heads_of_a_fused_matrix_that_alternates_are_told_apart():
    members = next(n for n in neurons(meta("neox")) if n.kind == "attention").members
    q = next(m for m in members if m.parameter.endswith("query_key_value.weight"))
    assert q.place.tolist() == [head if at < 8 else -1 for head in range(4) for at in range(24)]


def test_rows_of_each_matrix_are_neurons_where_that_is_asked():
    kinds = [(n.kind, n.count) for n in neurons(meta("llama"), attention="row")][:5]
    rows = [("query rows", 32), ("key rows", 16), ("value rows", 16), ("output rows", 32)]
    assert kinds == [*rows, ("feedforward", 48)]


def test_a_token_is_its_rows_of_embedding_and_output_layer():
    found = neurons(meta("llama"))[-1]
    assert (found.kind, found.count) == ("vocabulary", 50)
    assert [m.parameter for m in found.members] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert "vocabulary" not in {n.kind for n in neurons(meta("llama"), vocabulary=False)}


def test_every_expert_has_its_own_neurons():
    names = [n.name for n in neurons(meta("mixtral")) if n.kind == "feedforward"]
    assert len(names) == len(set(names)) == 6


def test_an_attention_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="attention must be one of head, row; given: 'heads'"):
        neurons(meta("llama"), attention="heads")
