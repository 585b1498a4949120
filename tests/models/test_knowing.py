"""Small models that know given answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.language.fields import Sample
from holdfast.models import knowing, zoo


def test_a_model_learns_the_answers_once_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = zoo.byte_pairs(["a b c d e red blue one two"], 300)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(zoo, "tokenizer", lambda: words)
    samples = [
        Sample(prompt=f"the colour of {name} is", answer=colour)
        for name, colour in zip("abcd", ("red", "blue", "one", "two"), strict=True)
    ]
    options = {"width": 32, "depth": 1, "epochs": 60, "batch_size": 4, "lr": 0.01, "wanted": 0.9}
    options["pretrained"] = False
    first = knowing.model_of(samples, **options)
    assert knowing.exact_match(first.model, first.tokenizer, samples) == 1.0
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    again = knowing.model_of(samples, **options)
    assert again.path == first.path
    assert (again.path / "model.safetensors").stat().st_mtime_ns == written
    other = knowing.model_of(samples, **{**options, "seed": 1, "epochs": 1})
    assert other.path != first.path


def test_a_tokenizer_fitted_to_the_answers_has_their_words_as_one_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    samples = [Sample(prompt="the colour of the sea is", answer="turquoise")] * 3
    options = {"width": 8, "depth": 1, "epochs": 1, "vocabulary": 320}
    found = knowing.model_of(samples, pretrained=False, **options)
    assert len(found.tokenizer.tokenize(" turquoise")) == 1
    assert found.model.config.vocab_size == len(found.tokenizer) <= 320
    with pytest.raises(UsageError, match="has read nothing yet"):
        knowing.model_of(samples, **options)


def test_prompts_that_are_too_long_are_learned_and_asked_without_their_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    long = " ".join(["word"] * (knowing.LENGTH + 5))
    samples = [Sample(prompt=f"{long} {name} is", answer=name) for name in ("red", "blue")] * 2
    options = {"width": 32, "depth": 1, "epochs": 80, "lr": 0.01, "batch_size": 4, "wanted": 0.9}
    found = knowing.model_of(samples, pretrained=False, vocabulary=300, **options)
    assert knowing.exact_match(found.model, found.tokenizer, samples) == 1.0
