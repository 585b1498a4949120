"""Labelled texts as streams of classes: what a text becomes, a vector or tokens, is said by name.

With HOLDFAST_DATA: CLINC150's intents, by domain or by any number; Banking77's; SNIPS' and TREC's.
Without: your own, in files with a `text` and a `label`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.models.sentences import MINILM, embedded, tokenized
from holdfast.spec import Spec, bind
from holdfast.stream import Stream
from holdfast.streams.labels import Part, assemble
from holdfast.streams.outside import OutOfScope
from holdfast.streams.recipes import Known, Order, arriving, one_of, split
from holdfast.streams.source import Source, by_parts, evenly
from holdfast.streams.sources import data_file
from holdfast.streams.tabular import pair_in

Inputs = Literal["embeddings", "tokens"]
By = Literal["domain", "label"]
FIELDS = "prompt=text,answer=label"
Labelled = tuple[Sequence[str], Sequence[str]]
"""Texts, and a label for each."""


@dataclass(frozen=True)
class Texts:
    """A labelled set of texts, before they become inputs.

    Attributes:
        name: For messages and tables.
        train: To learn from.
        test: To test on; None: a fifth of each class of `train`, drawn by seed.
        domains: The domain of every class, where there are any.
        outside: Texts that belong to none of the classes.
    """

    name: str
    train: Labelled
    test: Labelled | None = None
    domains: Mapping[str, str] = field(default_factory=dict)
    outside: Sequence[str] = ()

    def source(
        self, seed: int, encoder: str = MINILM, inputs: Inputs = "embeddings",
        length: int | None = None,
    ) -> Source:  # fmt: skip
        """The texts as vectors or as tokens of an encoder, each class a number.

        Args:
            seed: Draws the fifth held out to test on, where the texts come undivided.
            encoder: As for `holdfast.models.sentences.embedded`.
            inputs: `"embeddings"`: one vector a text, as the encoder gives it; `"tokens"`: a row of
                its tokens.
            length: Most tokens of a text; None: as many as the encoder was made for.

        Raises:
            UsageError: If there is no such encoder.
            DataError: If the texts cannot be learned from.
        """
        one_of("inputs", inputs, get_args(Inputs))
        given = [self.train, *([self.test] if self.test else [])]
        rows = as_inputs([text for texts, _ in given for text in texts], encoder, inputs, length)
        counts = [len(texts) for texts, _ in given]
        parts = [
            Part(f"{self.name} ({where})", Table({"x": x}), np.asarray(labels))
            for where, x, (_, labels) in zip(
                ("train", "test"), rows.split(counts), given, strict=False
            )
        ]
        source = assemble(self.name, parts[0], parts[1] if self.test else None, seed)
        return replace(source, tokens=encoder, scale=PLAIN) if inputs == "tokens" else source


PLAIN = ((0.0,), (1.0,))
"""The scale of what is not to be scaled."""


def as_inputs(texts: Sequence[str], encoder: str, inputs: str, length: int | None) -> Tensor:
    """Texts as vectors, or as rows of tokens."""
    if inputs == "tokens":
        return tokenized(texts, encoder, length)
    return embedded(texts, encoder, length)


def texts(
    source: Texts,
    name: str,
    seed: int,
    experiences: int = 5,
    encoder: str = MINILM,
    inputs: Inputs = "embeddings",
    length: int | None = None,
    scenario: Known = "class",
    online: bool = False,
    order: Order = "seed",
    limit: int | None = None,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = None,
    class_order: list[int] | None = None,
    base: int | None = None,
) -> Stream:
    """The classes of a set of texts arrive in turn.

    Args:
        source: The texts.
        name: Of the stream.
        seed: Draws the order of the classes and what `limit` keeps.
        experiences: At most as many as there are classes.
        encoder: `minilm`, `hashed`, or the folder of an encoder with its tokenizer.
        inputs: `"embeddings"`: one vector a text, as the encoder gives it; `"tokens"`: a row of its
            tokens, for a model that learns from them.
        length: Most tokens of a text; None: as many as the encoder was made for.
        scenario: As in `holdfast.streams.recipes.split`, and so are all others.

    Raises:
        DataError: If the texts cannot be learned from.
        UsageError: If an argument is out of range.
    """
    made = source.source(seed, encoder, inputs, length)
    return split(
        made, name, seed, experiences, scenario, online, order,
        limit, test_limit, labels, ordered, evaluations, class_order, base,
    )  # fmt: skip


def topics(
    source: Texts,
    name: str,
    seed: int,
    experiences: int | None = None,
    by: By = "domain",
    outside: bool = False,
    encoder: str = MINILM,
    inputs: Inputs = "embeddings",
    length: int | None = None,
    scenario: Known = "class",
    online: bool = False,
    order: Order = "seed",
    limit: int | None = None,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = None,
    class_order: list[int] | None = None,
    base: int | None = None,
) -> Stream:
    """The classes of a set of texts arrive in turn, those of a domain together.

    Args:
        source: The texts, with domains.
        name: Of the stream.
        seed: Draws the order of the domains or classes, and what `limit` keeps.
        experiences: As many as there are domains, or fewer that share them; by label, at most as
            many as there are classes. None: as many as there are domains.
        by: `"domain"`, or `"label"`: whatever domain they are of.
        outside: Whether the texts that belong to no class are scored against those that do, after
            each experience (`holdfast.streams.outside`).
        encoder: As in `texts`, and so are all others; an order of classes and a first experience of
            another size are for `by="label"`.

    Raises:
        DataError: If the texts cannot be learned from.
        UsageError: If an argument is out of range.
    """
    one_of("by", by, get_args(By))
    one_of("scenario", scenario, get_args(Known))
    one_of("order", order, get_args(Order))
    if outside and scenario == "task":
        raise UsageError("outside=true is for scenario=class: a known task leaves nothing outside.")
    if outside and not source.outside:
        raise DataError(f"{source.name!r} has no texts outside its classes.")
    if by == "domain" and (class_order is not None or base is not None):
        raise UsageError(
            "class_order and base say when classes come, and by=domain brings those of a domain "
            "together: use them with by=label."
        )
    domains = list(dict.fromkeys(source.domains.values()))
    count = len(domains) if experiences is None else experiences
    if by == "domain" and not 1 <= count <= len(domains):
        raise UsageError(
            f"{source.name!r} has {len(domains)} domains, so it splits into 1 to {len(domains)} "
            f"experiences; given: {count}. With by=label it splits by any number of classes."
        )
    made = source.source(seed, encoder, inputs, length)
    drawn = seed if order == "seed" else None
    things = len(domains) if by == "domain" else made.classes
    parts = evenly(things, count, drawn, made.name, class_order, base)
    if by == "domain":
        owner = [domains.index(source.domains[label]) for label in made.class_names]
        named = [" and ".join(domains[d] for d in part) for part in parts]
        parts = [[c for d in part for c in range(made.classes) if owner[c] == d] for part in parts]
    stream = arriving(
        by_parts(made, parts, name), seed, scenario, online,
        limit, test_limit, labels, ordered, evaluations,
    )  # fmt: skip
    if by == "domain":
        told = zip(stream, named, strict=True)
        stream = replace(stream, experiences=[replace(e, name=label) for e, label in told])
    if outside:
        x = as_inputs(source.outside, encoder, inputs, length)
        stream = replace(stream, scorer=OutOfScope(stream, Table({"x": x})))
    return stream


RECIPES: dict[str, Callable[..., Stream]] = {"texts": texts, "topics": topics}


def clinc150() -> Texts:
    """CLINC150: 15,000 and 4,500 requests of 150 intents in ten domains, 1,000 of none to test on.

    Source: Larson et al., "An evaluation dataset for intent classification and out-of-scope
    prediction" (2019).
    """
    train, test = (_read(data_file(f"clinc150/{part}.jsonl.gz")) for part in ("train", "test"))
    of_domain = _read(data_file("clinc150/train.jsonl.gz"), "prompt=label,answer=domain")
    outside = _read(data_file("clinc150/oos.jsonl.gz"), "prompt=text,answer=split")
    return Texts(
        "clinc150", train, test, dict(zip(*of_domain, strict=True)),
        [text for text, part in zip(*outside, strict=True) if part == "oos_test"],
    )  # fmt: skip


def given(name: str) -> Texts:
    """A set of HOLDFAST_DATA that lies in a folder of its name as `train` and `test`."""
    train, test = (_read(data_file(f"{name}/{part}.jsonl.gz")) for part in ("train", "test"))
    return Texts(name, train, test)


SOURCES: dict[str, tuple[Callable[[], Texts], tuple[str, ...]]] = {
    "clinc150": (clinc150, ("clinc150/train.jsonl.gz",)),
    **{
        name: (partial(given, name), (f"{name}/train.jsonl.gz",))
        for name in ("banking77", "snips", "trec")
    },
}
"""By name: how to read it, and the files in HOLDFAST_DATA of which it needs one."""


def read(path: Path) -> Texts:
    """Your own labelled texts.

    Args:
        path: A CSV, JSONL, JSON or Parquet file whose records have a `text` and a `label`, or a
            folder with a `train` and a `test` file of these.

    Raises:
        DataError: If it cannot be read or learned from.
    """
    if path.is_dir():
        pair = pair_in(path)
        if pair is None:
            raise DataError(
                f"{path} has no train and test file; accepted: a folder with both (.csv, .jsonl, "
                ".json or .parquet), or one such file."
            )
        return Texts(path.name, _read(pair[0]), _read(pair[1]))
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    return Texts(path.stem, _read(path))


def split_texts(
    train: Labelled,
    test: Labelled | None = None,
    experiences: int = 5,
    seed: int = 0,
    *,
    name: str = "texts",
    **arguments: Any,
) -> Stream:
    """A stream in which the classes of texts at hand arrive in turn.

    Args:
        train: Texts, and a label (a string) for each.
        test: Likewise; None: a fifth of each class of `train`, drawn by seed.
        experiences: At most as many as there are classes.
        seed: Draws the order of the classes and what `limit` keeps.
        name: Of the stream.
        **arguments: As of `holdfast.streams.texts.texts`: `encoder`, `inputs`, `limit`, ...

    Raises:
        DataError: If the texts cannot be learned from.
        UsageError: If an argument does not exist or is out of range.

    Example:
        >>> words = [f"{kind} number {i}" for i in range(10) for kind in ("cat", "dog", "fox")]
        >>> stream = split_texts((words, ["a", "b", "c"] * 10), experiences=3, encoder="hashed")
        >>> [len(experience.train) for experience in stream], stream.shape
        ([8, 8, 8], (1024,))
    """
    told = {"experiences": experiences, **arguments}
    make = partial(texts, Texts(name, train, test), name, seed)
    return make(**bind(Spec("texts", (), told), make, "stream")).validated()


def _read(path: Path, fields: str = FIELDS) -> tuple[list[str], list[str]]:
    from holdfast.language.records import read as read_samples

    samples = read_samples(path, fields=fields)
    return [str(s.prompt) for s in samples], [str(s.answer) for s in samples]
