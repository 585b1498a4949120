"""Small language models that know given answers: trained until they do, then kept.

Edits, and their measures, ask for a model that knows what is to be changed. These begin as a model
of the zoo (`holdfast.models.zoo`) and lie beside it, named after what they know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.language.checkpoints import Loaded, load, save
from holdfast.language.editing import told
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.language.questions import Questioner
from holdfast.learner import Learner, Observer
from holdfast.models import zoo
from holdfast.stream import Experience, Stream

LENGTH = 96
"""Most tokens of a prompt with its answer; a prompt that is longer loses its beginning."""


def model_of(
    samples: Sequence[Sample],
    *,
    family: str = "llama",
    width: int = 96,
    depth: int = 4,
    epochs: int = 20,
    lr: float = 2e-3,
    batch_size: int = 32,
    wanted: float = 1.0,
    seed: int = 0,
    pretrained: bool = True,
    vocabulary: int | None = None,
) -> Loaded:
    """A model of the zoo, trained to answer prompts as the samples do.

    Args:
        samples: Prompts with answers.
        family: `"llama"` or `"gpt2"`.
        width: Of the hidden states.
        depth: Blocks.
        epochs: Most passes over the samples.
        lr: Peak of AdamW's learning rate, which falls by half a cosine.
        batch_size: Rows an update.
        wanted: Share of answers known word for word at which training ends, looked at after each
            pass.
        seed: Of the order of samples.
        pretrained: Whether it has read Python's documentation before; False: weights as they are
            at first, which takes no time.
        vocabulary: Most tokens of a byte-pair tokenizer fitted to the samples, to which most of
            their words are one token, as a large model's are to it; None: the zoo's.

    Raises:
        UsageError: If a model that has read with the zoo's tokenizer is to have another.
    """
    if vocabulary is not None and pretrained:
        raise UsageError("A tokenizer of its own needs a model that has read nothing yet.")
    recipe = zoo.recipe(f"{family}(width={width}, depth={depth})")
    settings = [epochs, lr, batch_size, wanted, seed, pretrained]
    settings += [] if vocabulary is None else [vocabulary]
    content = json.dumps([settings, [[s.prompt, s.answer] for s in samples], torch.__version__])
    digest = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
    home = zoo.folder(recipe) if pretrained else zoo.place(recipe)
    path = home.with_name(f"{home.name}-knowing-{digest}")
    if not path.is_dir():
        if vocabulary is None:
            words = zoo.tokenizer()
        else:
            words = zoo.byte_pairs([f"{s.prompt} {s.answer}" for s in samples], vocabulary)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = zoo.untrained(recipe, words)
        model = load(home).model if pretrained else fresh
        with zoo.alone(path):
            if not path.is_dir():
                _make(model, words, samples, path, epochs, lr, batch_size, wanted, seed)
    return load(path)


def exact_match(model: Any, tokenizer: Any, samples: Sequence[Sample]) -> float:
    """The share of answers of which every token is the likeliest after the prompt."""
    asked = Questioner(tokenizer, LENGTH, overlong="cut").answers(
        samples, [[str(s.answer)] for s in samples]
    )
    return float(told(model, asked).exact.mean())


@dataclass
class _Enough(Observer):
    """Ends training once as much is known as is wanted; looks after each pass.

    Attributes:
        asked: What is looked at.
        wanted: Share.
        updates: Of a pass.
    """

    asked: Any
    wanted: float
    updates: int

    def on_step(self, learner: Learner) -> None:
        if learner.step % self.updates == 0 and self.wanted < 1:
            with undisturbed(learner.model):
                known = float(told(learner.model, self.asked).exact.mean())
            learner.enough = known >= self.wanted


def _make(
    model: Any,
    words: Any,
    samples: Sequence[Sample],
    path: Path,
    epochs: int,
    lr: float,
    batch_size: int,
    wanted: float,
    seed: int,
) -> None:
    table = encode(samples, words, length=LENGTH, overlong="cut", eos=True).table
    experience = Experience(0, table, table.take(slice(0, 1)), (), "answers")
    learner = Learner(
        model,
        optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)),
        epochs=epochs,
        batch_size=batch_size,
        schedule=zoo.WarmCosine(20),
        clip=1.0,
        seed=seed,
        device="cpu",
    )
    some = list(samples)[:: max(1, len(samples) // 500)]
    questions = Questioner(words, LENGTH, overlong="cut").answers(
        some, [[str(s.answer)] for s in some]
    )
    watch = _Enough(questions, wanted, -(-len(table) // batch_size))
    learner.learn(Stream("answers", [experience], "text", 0, ()), [watch])
    with zoo.whole(path) as temporary:
        save(model, words, temporary)
