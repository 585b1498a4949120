"""Model folders, looked at without loading their weights.

What cannot or must not be loaded is refused here: a folder that is none of a model, weights that
are pickled (loading these can run any code), code that came with the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.language.weights import first_line, headers, read_json, weight_files

BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq", "final_logits_bias")
"""Endings of tensors that checkpoints hold beside their parameters."""
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}


@dataclass(frozen=True)
class Description:
    """A checkpoint, from its configuration and the headers of its weights.

    Attributes:
        path: Its folder.
        kind: `"causal"` or `"seq2seq"`.
        architecture: The class in transformers.
        model_type: The family in transformers.
        parameters: Weights in all, tied ones once; without those of an adapter.
        bytes: Of the weights as stored.
        dtype: Of most of them, as in torch: `"float32"`, `"bfloat16"`, ...
        context: Most tokens of a row; None where the model sets no limit.
        vocabulary: Rows of the embedding.
        tied: Whether input and output embeddings are one.
        layers: Blocks, of encoder and decoder together.
        hidden: Width of the residual stream.
        inner: Width of the feed-forward layers.
        heads: Attention heads of a block.
        key_width: Width of all keys of a block; less than `hidden` where queries share them.
        adapter: The adapter's folder; None without one.
        adapter_parameters: Weights of the adapter.
    """

    path: Path
    kind: str
    architecture: str
    model_type: str
    parameters: int
    bytes: int
    dtype: str
    context: int | None
    vocabulary: int
    tied: bool
    layers: int
    hidden: int
    inner: int
    heads: int
    key_width: int
    adapter: Path | None = None
    adapter_parameters: int = 0


def describe(
    path: str | Path, *, base: str | Path | None = None, trust_remote_code: bool = False
) -> Description:
    """What a model folder, or an adapter's with its base, holds; no weights are loaded.

    Args:
        path: The folder.
        base: For an adapter: the folder of its base, if not where the adapter says.
        trust_remote_code: Whether code that came with the checkpoint may run.

    Raises:
        UsageError: If it is no folder of a language model, or one that is refused.
        CheckpointError: If it is damaged.
    """
    folder = existing(path)
    if is_adapter(folder):
        found = describe(base_of(folder, base), trust_remote_code=trust_remote_code)
        weights = headers(weight_files(folder, "adapter_model"))
        count = sum(math.prod(entry["shape"]) for entry in weights.values())
        return Description(
            **{**vars(found), "path": folder, "adapter": folder, "adapter_parameters": count}
        )
    config = configuration(folder, trust_remote_code)
    kind, architecture = kind_of(config, folder, trust_remote_code)
    weights = headers(weight_files(folder, "model"))
    text = config.get_text_config()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    counted = {
        name: entry
        for name, entry in weights.items()
        if not name.endswith(BUFFERS) and not (tied and name == "lm_head.weight")
    }
    sizes: dict[str, int] = {}
    for entry in counted.values():
        sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + math.prod(entry["shape"])
    heads = int(getattr(text, "num_attention_heads", None) or 1)  # Mamba has none
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    layers = int(text.num_hidden_layers)
    if kind == "seq2seq":
        layers += int(getattr(text, "num_decoder_layers", None) or text.decoder_layers)
    return Description(
        path=folder,
        kind=kind,
        architecture=architecture,
        model_type=config.model_type,
        parameters=sum(sizes.values()),
        bytes=sum(count * _BYTES.get(dtype, 1) for dtype, count in sizes.items()),
        dtype=_torch_name(max(sizes, key=lambda dtype: sizes[dtype])),
        context=getattr(text, "max_position_embeddings", None),
        vocabulary=int(text.vocab_size),
        tied=tied,
        layers=layers,
        hidden=int(text.hidden_size),
        inner=_inner(text),
        heads=heads,
        key_width=width * int(getattr(text, "num_key_value_heads", None) or heads),
    )


def existing(path: str | Path) -> Path:
    """The folder at `path`.

    Raises:
        UsageError: If there is none.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UsageError(f"{path} is a file; accepted: a model's folder, with config.json in it.")
    raise UsageError(
        f"There is no folder {path}. Models are not looked up by name and never downloaded: "
        "give the folder of one that is on this machine."
    )


def is_adapter(folder: Path) -> bool:
    """Whether the folder is of a PEFT adapter."""
    whole = ("model.safetensors", "model.safetensors.index.json")
    return (folder / "adapter_config.json").is_file() and not any(
        (folder / name).is_file() for name in whole
    )


def base_of(folder: Path, given: str | Path | None) -> Path:
    """The folder of an adapter's base.

    Raises:
        UsageError: If it is not on this machine.
    """
    if given is not None:
        return existing(given).resolve()
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    for place in (Path(named), folder / named) if named else ():
        if place.is_dir():
            return place.resolve()
    raise UsageError(
        f"The adapter {folder} is for the base {named!r}, which is no folder here; give base= with "
        "the folder of its base."
    )


def configuration(folder: Path, trust_remote_code: bool) -> Any:
    """The model's configuration.

    Raises:
        UsageError: If there is none, if it is of an unknown kind, or if it asks to run code that
            came with it and this is not trusted.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a model's folder: it has no config.json.")
    config = read_json(folder / "config.json")
    if not trust_remote_code:
        for name in ("config.json", "tokenizer_config.json"):
            if (folder / name).is_file() and "auto_map" in read_json(folder / name):
                raise UsageError(
                    f"{folder} brings code of its own ('auto_map' in {name}), which is not run. "
                    "If you have read it and trust it, say trust_remote_code=True "
                    "(--trust-remote-code); if transformers knows the model without it, take "
                    f"'auto_map' out of {name}."
                )
    if "model_type" not in config:
        raise UsageError(f"{folder} is not a model's folder: config.json has no 'model_type'.")
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise UsageError(
            f"{folder}: transformers cannot read the configuration of a model of type "
            f"{config['model_type']!r}: {first_line(error)}"
        ) from error


def kind_of(config: Any, folder: Path, trust_remote_code: bool) -> tuple[str, str]:
    """Whether a model is causal or encoder-decoder, and its class.

    Raises:
        UsageError: If it is not a language model that writes text.
    """
    from transformers.models.auto import modeling_auto as auto

    seq2seq = bool(getattr(config, "is_encoder_decoder", False))
    table = (
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if seq2seq
        else auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    known = table.get(config.model_type, ())
    names = (known,) if isinstance(known, str) else tuple(known)
    said = tuple(getattr(config, "architectures", None) or names)
    if not (trust_remote_code or set(said) & set(names)):
        raise UsageError(
            f"{folder} holds {', '.join(said) or repr(config.model_type)}, which does not write "
            "text; accepted: causal and encoder-decoder language models, with their heads."
        )
    return "seq2seq" if seq2seq else "causal", said[0] if said else config.model_type


def refuse_no_tokenizer(folder: Path) -> None:
    """Raise `UsageError` if the folder has no vocabulary."""
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UsageError(
            f"{folder} has no tokenizer (none of {', '.join(_VOCABULARIES)}); save the model's "
            "tokenizer into it with tokenizer.save_pretrained(folder)."
        )


def _inner(config: Any) -> int:
    for name in ("intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim", "ffn_dim"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return 4 * int(config.hidden_size)


def _torch_name(dtype: str) -> str:
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return names.get(dtype, dtype.lower())
