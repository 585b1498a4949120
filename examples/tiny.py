"""What the examples train where no `--model` is given: built from code, nothing is downloaded."""

from __future__ import annotations

from typing import Any


def model_and_tokenizer(path: str | None) -> tuple[Any, Any]:
    """A causal model and its tokenizer from a local folder, or a tiny Llama that reads bytes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if path:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return AutoModelForCausalLM.from_pretrained(path, local_files_only=True), tokenizer
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def documentation(rows: int) -> list[str]:
    """Paragraphs of Python's own documentation."""
    from pydoc_data.topics import topics

    paragraphs = (part.strip() for text in topics.values() for part in text.split("\n\n"))
    return [part for part in paragraphs if 40 < len(part) < 200][:rows]
