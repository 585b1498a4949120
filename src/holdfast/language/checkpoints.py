"""Checkpoints of language models: Hugging Face folders and PEFT adapters, in and out.

Nothing is downloaded, nothing pickled is read, no code of a checkpoint is run unless that is asked
for, and a folder is written wholly or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast.errors import CheckpointError, UsageError, unknown
from holdfast.language import edited
from holdfast.language.folders import (
    Description,
    base_of,
    configuration,
    describe,
    existing,
    is_adapter,
    kind_of,
    refuse_no_tokenizer,
)
from holdfast.language.memory import advice, estimate_memory, free_memory
from holdfast.language.quiet import quietly
from holdfast.language.saving import save
from holdfast.language.weights import first_line, headers, weight_files

__all__ = [
    "Description",
    "Loaded",
    "advice",
    "describe",
    "estimate_memory",
    "free_memory",
    "load",
    "save",
]

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        model: A transformers model in evaluation mode, or a `PeftModel` around one.
        tokenizer: Pads on the right; where it had no pad token, EOS is it.
        kind: `"causal"` or `"seq2seq"`.
        path: The folder.
        adapter: Whether the folder is an adapter's.
    """

    model: Any
    tokenizer: Any
    kind: str
    path: Path
    adapter: bool

    @property
    def context(self) -> int | None:
        """Most tokens of a row; None where the model sets no limit."""
        found: int | None = getattr(
            self.model.config.get_text_config(), "max_position_embeddings", None
        )
        return found


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> Loaded:
    """A model and its tokenizer from a folder, or an adapter on its base.

    A tokenizer without a pad token gets EOS for one (or, without EOS, the token with number 0): no
    row is added to the embedding, and padding is masked in any case.

    Args:
        path: The folder of a model or of a PEFT adapter.
        base: For an adapter: the folder of its base, if not where the adapter says.
        dtype: Of the weights in memory: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for as
            they are stored.
        device: Where the model is put.
        trust_remote_code: Whether code that came with the checkpoint may run.

    Raises:
        UsageError: If it is no folder of a language model, has no tokenizer, holds pickled weights
            or code of its own, or if an adapter is for another base.
        CheckpointError: If it is damaged, or if weights are missing.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    folder = existing(path).resolve()  # an adapter saved later remembers it as its base
    adapter = is_adapter(folder)
    body = base_of(folder, base) if adapter else folder
    if base is not None and not adapter:
        raise UsageError(f"base= was given, but {folder} is not an adapter's folder.")
    if adapter:
        stored = headers(weight_files(folder, "adapter_model"))
    model, kind = _load_model(body, dtype, trust_remote_code)
    tokenizer = load_tokenizer(folder, base=base, trust_remote_code=trust_remote_code)
    if adapter:
        model = _load_adapter(model, folder, body, stored)
    return Loaded(model.to(device).eval(), tokenizer, kind, folder, adapter)


def load_tokenizer(
    path: str | Path, *, base: str | Path | None = None, trust_remote_code: bool = False
) -> Any:
    """The tokenizer that `load` gives for the same folder; an adapter may have its base's.

    Raises:
        UsageError: If there is none, or if it cannot be loaded.
    """
    folder = existing(path)
    adapter = is_adapter(folder)
    home = folder if not adapter or _has_tokenizer(folder) else base_of(folder, base)
    return _load_tokenizer(home, trust_remote_code)


def _load_model(folder: Path, dtype: str, trust_remote_code: bool) -> tuple[Any, str]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = configuration(folder, trust_remote_code)
    kind, _ = kind_of(config, folder, trust_remote_code)
    headers(weight_files(folder, "model"))
    cls: Any = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    try:
        with quietly():
            model, info = cls.from_pretrained(
                folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, ImportError) as error:
        raise CheckpointError(
            f"The model in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise CheckpointError(
            f"{folder} lacks {len(names)} of the weights that config.json asks for ({names[0]}); "
            "they would be random."
        )
    edited.read(model, folder)
    return model, kind


def _has_tokenizer(folder: Path) -> bool:
    try:
        refuse_no_tokenizer(folder)
    except UsageError:
        return False
    return True


def _load_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    refuse_no_tokenizer(folder)
    try:
        with quietly():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UsageError(
            f"The tokenizer in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"
    return tokenizer


def _load_adapter(model: Any, folder: Path, base: Path, stored: dict[str, Any]) -> Any:
    """The adapter on its base, with every stored tensor in its place."""
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with quietly():
            adapted = PeftModel.from_pretrained(
                model, str(folder), is_trainable=True, local_files_only=True
            )
            state = get_peft_model_state_dict(
                adapted, save_embedding_layers=any("embed" in name for name in stored)
            )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _another_base(folder, base, first_line(error)) from error
    placed = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in stored:
        if name not in placed:
            raise _another_base(folder, base, f"the base has no place for {name}.")
        if placed[name] != stored[name]["shape"]:
            raise _another_base(
                folder,
                base,
                f"{name} is {stored[name]['shape']} in the adapter and {placed[name]} in the base.",
            )
    for name in placed:
        if name not in stored:
            raise _another_base(folder, base, f"the adapter has nothing for {name}.")
    return adapted


def _another_base(folder: Path, base: Path, why: str) -> UsageError:
    return UsageError(f"The adapter {folder} does not fit the base {base}: {why}")
