"""Whether checkpoints fit together: families, names and shapes of tensors, tokens.

Only configurations, tokenizers and the headers of weights are read. What does not fit is refused by
the first thing that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.language import edited
from holdfast.language.checkpoints import load_tokenizer
from holdfast.language.folders import BUFFERS, configuration, existing, is_adapter
from holdfast.language.tensors import Tensors

LIKE = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "activation_function", "feed_forward_proj",
)  # fmt: skip
"""Settings of an architecture that shapes alone may not tell."""
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
REAL = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Model:
    """A checkpoint that takes part.

    Attributes:
        path: Its folder.
        config: Its configuration.
        tensors: In its files.
        tokens: Token to number; None without a tokenizer.
        names: From the names that all have in common to those in its files.
    """

    path: Path
    config: Any
    tensors: Tensors
    tokens: dict[str, int] | None
    names: dict[str, str]

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embedding."""
        return getattr(self.config.get_text_config(), "vocab_size", None)

    @property
    def tied(self) -> bool:
        """Whether input and output embeddings are one."""
        return bool(getattr(self.config, "tie_word_embeddings", False))


def read(path: str | Path, trust_remote_code: bool) -> Model:
    folder = existing(path)
    if is_adapter(folder):
        raise UsageError(
            f"{folder} is a PEFT adapter; whole models are merged. Put it into its base first: "
            "`from peft import AutoPeftModelForCausalLM`, then AutoPeftModelForCausalLM"
            ".from_pretrained(adapter).merge_and_unload().save_pretrained(folder)."
        )
    if (folder / edited.MEMORY).is_file():
        raise UsageError(
            f"{folder} has edits in a memory beside its weights ({edited.MEMORY}), which no rule "
            "merges; give the model from before the edits."
        )
    config = configuration(folder, trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise UsageError(
            f"{folder} is quantised, and its weights cannot be added; give the model in float32, "
            "bfloat16 or float16."
        )
    try:
        tokens = load_tokenizer(folder, trust_remote_code=trust_remote_code).get_vocab()
    except UsageError as error:
        if "has no tokenizer" not in str(error):
            raise
        tokens = None
    tensors = Tensors(folder)
    odd = next(
        (n for n, e in tensors.entries.items() if e.dtype.startswith("F") and not e.real), ""
    )
    if odd:
        raise UsageError(
            f"{folder} stores {odd} as {tensors.entries[odd].dtype}, which cannot be added; "
            f"accepted: {', '.join(REAL)}."
        )
    return Model(folder, config, tensors, tokens, {name: name for name in tensors})


def tied_head(model: Model) -> dict[str, str]:
    """The output layer of a model that stores it as its embedding only, by its usual name."""
    if not model.tied or any(name in HEADS for name in model.tensors):
        return {}
    rows = model.vocabulary
    tables = [
        name
        for name in model.tensors
        if len(model.tensors.shape(name)) == 2
        and model.tensors.shape(name)[0] == rows
        and re.search(r"embed|wte|shared", name)
    ]
    return {HEADS[0]: tables[0]} if tables else {}


def names_in(wanted: Iterable[str], model: Model, prefix: str | None) -> dict[str, str]:
    """From the reference's names to the model's, which may have a component more.

    Within a multimodal checkpoint the language model's tensors are called
    `language_model.model.layers...` or `model.language_model.layers...`.
    """
    candidates = [prefix] if prefix is not None else [""]
    if prefix is None:
        parts = (component for name in model.tensors for component in name.split(".")[:2])
        candidates += [part for part in dict.fromkeys(parts) if not part.isdigit()]
    names, best = list(wanted), dict[str, str]()
    for candidate in candidates:
        found = {_without(name, candidate): name for name in model.tensors}
        hits = {name: found[name] for name in names if name in found}
        if len(hits) > len(best):
            best = hits
    return best


def _without(name: str, component: str) -> str:
    """A name without the first of its first two components that is `component`."""
    component = component.strip(".")
    if name.startswith(f"{component}."):
        return name[len(component) + 1 :]
    parts = name.split(".")
    if component and len(parts) > 1 and parts[1] == component:
        return ".".join([parts[0], *parts[2:]])
    return name


def refuse_other_architecture(reference: Model, model: Model) -> list[str]:
    """Refuse models whose numbers mean something else; notes of what differs and may."""
    one, other = (m.config.get_text_config() for m in (reference, model))
    if one.model_type != other.model_type and not _text_of(one, other):
        raise UsageError(
            f"{reference.path} is a {one.model_type} and {model.path} a {other.model_type}; only "
            "models of one architecture can be merged."
        )
    for name in LIKE:
        before, after = getattr(one, name, None), getattr(other, name, None)
        if before != after and None not in (before, after):
            raise UsageError(
                f"{reference.path} and {model.path} are of different architectures: {name} is "
                f"{before} in the first and {after} in the second."
            )
    _refuse_other_names(reference, model)
    notes = []
    for name in ("rope_parameters", "rope_theta", "rms_norm_eps", "layer_norm_epsilon"):
        before, after = getattr(one, name, None), getattr(other, name, None)
        if before != after:
            notes.append(f"{name} is {before} in {reference.path} and {after} in {model.path}.")
    return notes


def _text_of(one: Any, other: Any) -> bool:
    """Whether one family is the text part of the other, as `qwen2_vl_text` is of `qwen2`."""
    short, long = sorted((one.model_type, other.model_type), key=len)
    return bool(long.startswith(short) and long.endswith("_text"))


def _refuse_other_names(reference: Model, model: Model) -> None:
    tied = {head for head in HEADS if reference.tied or model.tied}
    lacking = [
        name
        for name in reference.tensors
        if name not in model.names and name not in tied and not name.endswith(BUFFERS)
    ]
    if lacking:
        raise UsageError(
            f"{model.path} has no tensor {lacking[0]}, which {reference.path} has"
            f"{f' (the first of {len(lacking)})' if len(lacking) > 1 else ''}; only models of one "
            "architecture can be merged."
        )
    taken = set(model.names.values())
    inside = all(name == stored for name, stored in model.names.items())
    beside = [
        name
        for name in model.tensors
        if name not in taken and name not in HEADS and not name.endswith(BUFFERS)
    ]
    if beside and inside and not hasattr(model.config, "vision_config"):
        raise UsageError(
            f"{model.path} has a tensor {beside[0]}, which {reference.path} has not"
            f"{f' (the first of {len(beside)})' if len(beside) > 1 else ''}; only models of one "
            "architecture can be merged."
        )


def common_shapes(
    reference: Model, models: Sequence[Model], common_rows: bool
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shape of every tensor that is merged, which all have in common."""
    shapes: dict[str, tuple[int, ...]] = {}
    notes = []
    for name, stored in reference.names.items():
        if any(name not in model.names for model in models) or name.endswith(BUFFERS):
            continue
        entries = [m.tensors.entries[m.names[name]] for m in (reference, *models)]
        if not all(entry.real for entry in entries):
            continue
        shape = reference.tensors.shape(stored)
        for model in models:
            other = model.tensors.shape(model.names[name])
            if other == shape:
                continue
            if not _is_vocabulary(reference, model, stored, other):
                raise UsageError(
                    f"{name} is {list(reference.tensors.shape(stored))} in {reference.path} and "
                    f"{list(other)} in {model.path}; only models of one architecture can be merged."
                )
            if not common_rows:
                raise UsageError(
                    f"The vocabularies differ: {name} has {shape[0]} rows in {reference.path} "
                    f"and {other[0]} in {model.path}. To merge the rows that both have and keep "
                    "the others of the first model: --common-rows (common_rows=True)."
                )
            shape = (min(shape[0], other[0]), *shape[1:])
        rows = models[0].tensors.shape(models[0].names[name])[0] if shape else 0
        if shape and rows > shape[0]:
            notes.append(
                f"{name}: the first {shape[0]} rows are merged, {rows - shape[0]} are those of "
                f"{models[0].path}."
            )
        shapes[name] = shape
    return shapes, notes


def _is_vocabulary(reference: Model, model: Model, stored: str, other: tuple[int, ...]) -> bool:
    """Whether a tensor is as long as the vocabulary in both models, and else alike."""
    shape = reference.tensors.shape(stored)
    return (
        bool(shape and other)
        and shape[1:] == other[1:]
        and (shape[0], other[0]) == (reference.vocabulary, model.vocabulary)
    )


def refuse_other_tokens(reference: Model, models: Sequence[Model], common_rows: bool) -> list[str]:
    notes = []
    for model in models:
        if reference.tokens is None or model.tokens is None:
            lacking = reference if reference.tokens is None else model
            notes.append(f"{lacking.path} has no tokenizer, so that its tokens were not compared.")
            continue
        before, after = (
            {number: token for token, number in tokens.items()}
            for tokens in (reference.tokens, model.tokens)
        )
        numbers = set(before) & set(after) if common_rows else set(before) | set(after)
        first = min((i for i in numbers if before.get(i) != after.get(i)), default=None)
        if first is not None:
            shown = [
                repr(words[first]) if first in words else "nothing" for words in (before, after)
            ]
            hint = "" if first in before and first in after else (
                " To merge the rows that both have: --common-rows (common_rows=True)."
            )  # fmt: skip
            raise UsageError(
                f"The vocabularies differ: token {first} is {shown[0]} in {reference.path} and "
                f"{shown[1]} in {model.path}.{hint}"
            )
    return notes
