"""Likeness of representations."""

from __future__ import annotations

import pytest
import torch

from holdfast.language.fields import Sample
from holdfast.language.probe import questions_of
from holdfast.language.representation import compare, hidden_states, linear_cka, mean_cosine

SAMPLES = [Sample(text="ab cd"), Sample(text="0123456789" * 4), Sample(text="xyz")]


def test_cka_is_the_normalised_hsic_of_linear_kernels():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 5, generator=draw), torch.randn(20, 7, generator=draw)
    centre = torch.eye(20) - 1 / 20

    def hsic(x, y):
        return torch.trace(x @ x.T @ centre @ y @ y.T @ centre)

    expected = hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt()
    assert linear_cka(a, b) == pytest.approx(float(expected), rel=1e-4)


def test_cka_does_not_see_rotation_scale_and_shift_and_the_cosine_does():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(30, 6, generator=draw)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw))
    assert linear_cka(a, 3 * a @ rotation + 1) == pytest.approx(1, abs=1e-6)
    assert mean_cosine(a, 3 * a) == pytest.approx(1)
    assert mean_cosine(a, -a) == pytest.approx(-1)
    assert mean_cosine(a, a @ rotation) < 0.9
    assert linear_cka(a, torch.ones(30, 2)) is None
    assert mean_cosine(a, torch.zeros(30, 6)) is None
    assert mean_cosine(a, torch.ones(30, 2)) is None


def test_states_are_those_of_the_rows_alone_at_evenly_spread_places(make_llama, tokenizer):
    model = make_llama()
    questions = questions_of(model, tokenizer, SAMPLES, 64)
    found = hidden_states(model, questions, budget=100_000)
    rows = sorted((q.given + q.asked for q in questions), key=len, reverse=True)
    assert [len(row) for row in rows] == [41, 5, 4]
    with torch.no_grad():
        alone = [
            model(torch.tensor([row]), output_hidden_states=True).hidden_states for row in rows
        ]
    places = [torch.linspace(0, 40, 16).round().long(), torch.arange(5), torch.arange(4)]
    for depth, name in enumerate(("embedding", "layer 1", "layer 2")):
        expected = torch.cat([s[depth][0, p] for s, p in zip(alone, places, strict=True)])
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_a_change_in_one_layer_shows_from_there_on(make_llama, tokenizer):
    base, tuned = make_llama(), make_llama()
    with torch.no_grad():
        tuned.model.layers[1].mlp.down_proj.weight.neg_()
    states = [
        hidden_states(m, questions_of(m, tokenizer, SAMPLES, 64), 4096) for m in (base, tuned)
    ]
    layers = compare(*states)
    assert [layer.name for layer in layers] == ["embedding", "layer 1", "layer 2"]
    assert [layer.cosine for layer in layers[:2]] == pytest.approx([1, 1])
    assert [layer.cka for layer in layers[:2]] == pytest.approx([1, 1])
    assert layers[2].cosine < 0.99
    assert layers[2].cka < 0.99


def test_encoder_and_decoder_are_looked_at_apart(make_t5, tokenizer):
    model = make_t5()
    samples = [Sample(prompt="ab ?", answer="yes"), Sample(prompt="c", answer="no")]
    found = hidden_states(model, questions_of(model, tokenizer, samples, 64), 4096)
    assert {name.split()[0] for name in found} == {"encoder", "decoder"}
    assert all(s == pytest.approx(1) for s in [x.cosine for x in compare(found, found)])
