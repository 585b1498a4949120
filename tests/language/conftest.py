"""Small language models built from code, and a tokenizer of words, saved as ordinary folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

VOCABULARY = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", *"0123456789", ".", "?", ":"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token per letter, digit and mark, spaces dropped; begins with <s>, has no padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")]
    )
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture
def make_llama() -> Callable[..., Any]:
    """A Llama with random weights, over the vocabulary of `tokenizer`."""

    def make(seed: int = 0, **changed: Any) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        settings = {
            "vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
            "tie_word_embeddings": False,
            "initializer_range": 0.3,  # so that answers differ from prompt to prompt
        }  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**{**settings, **changed})).eval()

    return make


@pytest.fixture
def make_t5() -> Callable[..., Any]:
    """A T5 with random weights, over the vocabulary of `tokenizer`."""

    def make(seed: int = 0) -> Any:
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(
            vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
            pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return T5ForConditionalGeneration(config).eval()

    return make


@pytest.fixture
def save(tmp_path: Path, tokenizer: Any) -> Callable[..., Path]:
    """Put a model and the tokenizer into a folder."""

    def put(model: Any, name: str, words: Any = tokenizer) -> Path:
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        return tmp_path / name

    return put


@pytest.fixture
def stories(data_folder: Path) -> Path:
    """The folder of the real pre-trained Llama."""
    folder = data_folder / "weights" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    return folder
