"""Small pre-trained language models: built once by a recorded recipe, then kept.

They learn English prose of one kind, Python's own documentation, which is on every machine: little,
but really known, so that what fine-tuning makes them forget is real too. A model is an ordinary
Hugging Face folder under `HOLDFAST_CACHE` (or `~/.cache/holdfast`), named after its recipe, the
text it learned and the versions that decide its bits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast import cache
from holdfast.cache import alone, whole
from holdfast.checkpoint import write_atomically
from holdfast.errors import UsageError, unknown
from holdfast.language.checkpoints import Loaded, load, save
from holdfast.learner import Learner, Observer
from holdfast.optim.schedules import StepSchedule
from holdfast.spec import bind, parse_one
from holdfast.stream import Stream
from holdfast.streams.language import python
from holdfast.streams.language.corpora import corpora

SIZES = {"0.5M": 96, "1M": 128, "1.5M": 160}
"""Hidden width by size."""
FAMILIES = ("llama", "gpt2")
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"


@dataclass(frozen=True)
class Recipe:
    """Everything that a small model is made from; two equal recipes give one model.

    Attributes:
        family: `"llama"` or `"gpt2"`.
        width: Of the hidden states.
        depth: Blocks.
        heads: Of attention.
        context: Tokens.
        vocabulary: Of the byte-level BPE tokenizer.
        rows: Training rows of `context` tokens, gone through once.
        batch_size: Rows an update.
        lr: Peak of AdamW's learning rate.
        weight_decay: Of AdamW.
        warmup: Updates over which the rate rises; it then falls by half a cosine to a tenth.
        clip: Largest norm of a gradient.
        threads: That compute it: they decide the order of sums, and so the last bits.
        seed: Of weights, documents and batches.
    """

    family: str = "llama"
    width: int = 128
    depth: int = 4
    heads: int = 4
    context: int = 256
    vocabulary: int = 1024
    rows: int = 2200
    batch_size: int = 4
    lr: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 40
    clip: float = 1.0
    threads: int = 1
    seed: int = 0


def small_llama(size: str = "1M", seed: int = 0) -> Loaded:
    """A Llama that knows Python's documentation; pre-trained in about a minute, the first time.

    Args:
        size: `"0.5M"`, `"1M"` or `"1.5M"` parameters.
        seed: Of everything.

    Raises:
        UsageError: If there is no such size.
    """
    return load(folder(Recipe("llama", _width(size), seed=seed)))


def small_gpt2(size: str = "1M", seed: int = 0) -> Loaded:
    """The same with the architecture of GPT-2.

    Args:
        size: `"0.5M"`, `"1M"` or `"1.5M"` parameters.
        seed: Of everything.

    Raises:
        UsageError: If there is no such size.
    """
    return load(folder(Recipe("gpt2", _width(size), seed=seed)))


def recipe(spec: str) -> Recipe:
    """The recipe behind `llama`, `gpt2`, `llama(width=96, depth=2, context=512, seed=1)`.

    Whatever the context, as many tokens are read in about as many updates.

    Raises:
        UsageError: If there is no such model or argument, or if a number is out of range.
    """
    wanted = parse_one(spec)
    if wanted.name not in FAMILIES:
        raise unknown("model", wanted.name, FAMILIES)

    def takes(width: int = 128, depth: int = 4, context: int = 256, seed: int = 0) -> Recipe:
        if width < 8 or width % 8 or depth < 1 or not 32 <= context <= 4096 or seed < 0:
            raise UsageError(
                f"{wanted.name} takes a width that 8 divides, a depth from 1, a context from 32 to "
                f"4096 and a seed from 0; given: {spec}."
            )
        rows = Recipe.rows * Recipe.context // context
        batch = max(1, Recipe.batch_size * Recipe.context // context)
        sizes = {"context": context, "rows": rows, "batch_size": batch}
        return Recipe(wanted.name, width, depth, **sizes, seed=seed)

    return takes(**bind(wanted, takes, "model"))


def folder(recipe: Recipe, observers: Sequence[Observer] = ()) -> Path:
    """Where the model of a recipe is, built if it is not there yet.

    Two processes that ask at once get the same: one builds, the other waits.

    Args:
        observers: Look on while it is built.

    Raises:
        RunError: If the cache cannot be written.
    """
    path = place(recipe)
    if path.is_dir():
        return path
    with alone(path):
        if not path.is_dir():
            _make(recipe, path, observers)
    return path


def place(recipe: Recipe) -> Path:
    """Where the model of a recipe is kept, whether or not it is there yet."""
    name = f"{recipe.family}-{recipe.width}x{recipe.depth}-{_digest(recipe)}"
    return cache.root() / "zoo" / name


def tokenizer(vocabulary: int = Recipe.vocabulary) -> Any:
    """The zoo's byte-level BPE tokenizer, alike for all its models; built in a second or two."""
    root = cache.root() / "zoo"
    text = python.digest()[:12]
    path = root / f"tokenizer-{vocabulary}-{text}-{_version('tokenizers')}"
    if not path.is_dir():
        with alone(path):
            if not path.is_dir():
                with whole(path) as temporary:
                    byte_pairs(_training_texts(), vocabulary).save_pretrained(temporary)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def spoken(path: Path, rows: int, length: int, seed: int = 0) -> list[str]:
    """Texts that a checkpoint says by itself: what it knows, where nobody has what it learned.

    Kept in the cache, since sampling takes a while.

    Args:
        path: The checkpoint's folder.
        rows: How many.
        length: Tokens of each.
        seed: Of the draws.
    """
    from holdfast.language.generate import sample_tokens

    weights = hashlib.blake2b((path / "model.safetensors").read_bytes(), digest_size=6)
    name = f"spoken-{weights.hexdigest()}-{rows}x{length}-{seed}-{torch.__version__}"
    kept = cache.root() / "zoo" / f"{name}.json"
    if not kept.is_file():
        with alone(kept):
            if not kept.is_file():
                loaded = load(path)
                ids = sample_tokens(loaded.model, rows, length, seed=seed, batch_size=128)
                texts = loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)
                write_atomically(kept, json.dumps(texts, indent=0).encode())
    found: list[str] = json.loads(kept.read_text(encoding="utf-8"))
    return found


class WarmCosine(StepSchedule):
    """A rise in a straight line, then half a cosine down to a floor.

    Args:
        warmup: Updates of the rise.
        floor: The factor at the end.
    """

    def __init__(self, warmup: int, floor: float = 0.1) -> None:
        self.warmup, self.floor = warmup, floor

    def factor(self, update: int, updates: int, life: int, stage: int) -> float:
        if update < self.warmup:
            return (update + 1) / self.warmup
        share = (update - self.warmup) / max(1, updates - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


def _make(recipe: Recipe, path: Path, observers: Sequence[Observer]) -> None:
    words = tokenizer(recipe.vocabulary)
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = untrained(recipe, words)
        record = pretrain(model, _documentation(recipe, words), recipe, observers).record
    finally:
        torch.set_num_threads(threads)
    told = {
        "recipe": asdict(recipe),
        "text": python.digest(),
        "loss": [row[0] for row in record.measures["loss"]],
        "seconds": record.cost["seconds"],
    }
    with whole(path) as temporary:
        save(model, words, temporary)
        (temporary / "recipe.json").write_text(json.dumps(told, indent=1) + "\n")


def pretrain(
    model: Any, stream: Stream, recipe: Recipe, observers: Sequence[Observer] = ()
) -> Learner:
    """Train a model on a stream as the recipe says, from scratch."""
    learner = Learner(
        model,
        optimizer=partial(
            torch.optim.AdamW, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
        ),
        batch_size=recipe.batch_size,
        schedule=WarmCosine(recipe.warmup),
        clip=recipe.clip,
        seed=recipe.seed,
        device="cpu",
    )
    learner.learn(stream, observers)
    return learner


def _documentation(recipe: Recipe, words: Any) -> Stream:
    return corpora(
        [("docs", python.documentation)],
        words,
        f"documentation for {recipe.family}",
        recipe.seed,
        length=recipe.context,
        limit=recipe.rows,
        test_limit=64,
    )


def untrained(recipe: Recipe, words: Any) -> Any:
    """The model of a recipe as it is before training, for the tokenizer `words`."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    shared: dict[str, Any] = {
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": True,
    }
    if recipe.family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=recipe.width,
                n_layer=recipe.depth,
                n_head=recipe.heads,
                n_positions=recipe.context,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **shared,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=recipe.width,
            num_hidden_layers=recipe.depth,
            num_attention_heads=recipe.heads,
            intermediate_size=-(-recipe.width * 8 // 3 // 8) * 8,
            max_position_embeddings=recipe.context,
            **shared,
        )
    )


def byte_pairs(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of so many tokens, which puts its begin token before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def _training_texts() -> list[str]:
    return [document.text for document in python.documentation() if not document.held_out]


def _digest(recipe: Recipe) -> str:
    told = {
        **asdict(recipe),
        "text": python.digest(),
        "torch": torch.__version__,
        "tokenizers": _version("tokenizers"),
    }
    content = json.dumps(told, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _width(size: str) -> int:
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    return SIZES[size]
