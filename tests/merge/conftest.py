"""Small Llamas in folders, with a tokenizer of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

LETTERS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]


def words(extra: tuple[str, ...] = (), letters: list[str] = LETTERS) -> Any:
    """One token a letter, and some more."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {word: i for i, word in enumerate([*letters, *extra])}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def llama(seed: int = 0, **changed: Any) -> Any:
    """A Llama with random weights and grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": len(LETTERS), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changed})).eval()


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Save a model with a tokenizer under a name."""

    def put(name: str, model: Any, tokenizer: Any = None, **options: Any) -> Path:
        model.save_pretrained(tmp_path / name, **options)
        (tokenizer or words()).save_pretrained(tmp_path / name)
        return tmp_path / name

    return put
