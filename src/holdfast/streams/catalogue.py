"""Streams by name: `split-digits`, `permuted-mnist(experiences=10)`, `split:photos`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError, unknown
from holdfast.spec import Spec, bind, parse_one
from holdfast.stream import Stream
from holdfast.streams.arrival import ARRIVAL
from holdfast.streams.corruptions import CORRUPTIONS
from holdfast.streams.language import catalogue as language
from holdfast.streams.own import read
from holdfast.streams.recipes import RECIPES as PLAIN
from holdfast.streams.recurrence import RECURRENCE
from holdfast.streams.sources import SOURCES, present
from holdfast.streams.text_sequence import cl15, sequence
from holdfast.streams.texts import RECIPES as OF_TEXTS
from holdfast.streams.texts import SOURCES as TEXTS
from holdfast.streams.texts import read as read_texts

RECIPES = {**PLAIN, **RECURRENCE, **ARRIVAL}
TEXT: dict[str, Callable[..., Stream]] = {**OF_TEXTS, "sequence": sequence}
"""Recipes of labelled texts."""
_MAKE = {**RECIPES, **TEXT}
_SOURCES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    **SOURCES,
    **TEXTS,
    "cl15-classes": (cl15, ("cl15/labels.json",)),
}
DOMAINS = ("permuted", "rotated", "corrupted", "rehearsed", "mixed")
"""Recipes whose experiences have all classes, unless they are told otherwise."""
_ARGUMENTS = re.compile(r"\w+=[^?&=]*(?:&\w+=[^?&=]*)*")


@dataclass(frozen=True)
class Named:
    """A stream that has a name of its own: a recipe applied to a source."""

    recipe: str
    source: str
    summary: str
    experiences: int | None = 5


STREAMS: dict[str, Named] = {
    "split-digits": Named("split", "digits", "Scikit-learn's handwritten digits, class by class."),
    "permuted-digits": Named("permuted", "digits", "Scikit-learn's digits, their pixels permuted."),
    "rotated-digits": Named("rotated", "digits", "Scikit-learn's digits, turned step by step."),
    "split-mnist": Named("split", "mnist", "MNIST's handwritten digits, class by class."),
    "permuted-mnist": Named("permuted", "mnist", "MNIST, its pixels permuted."),
    "rotated-mnist": Named("rotated", "mnist", "MNIST, turned step by step."),
    "split-fashion-mnist": Named("split", "fashion-mnist", "Fashion-MNIST, class by class."),
    "split-cifar10": Named("split", "cifar10", "CIFAR-10's colour pictures, class by class."),
    "corrupted-digits": Named(
        "corrupted", "digits", "Scikit-learn's digits, clean, then under fifteen corruptions.", None
    ),
    "corrupted-mnist": Named(
        "corrupted", "mnist", "MNIST, clean, then under fifteen corruptions.", None
    ),
    "corrupted-fashion-mnist": Named(
        "corrupted", "fashion-mnist", "Fashion-MNIST, clean, then under fifteen corruptions.", None
    ),
    "corrupted-cifar10": Named(
        "corrupted", "cifar10", "CIFAR-10, clean, then under fifteen corruptions.", None
    ),
    "omniglot": Named("split", "omniglot", "Omniglot's 242 characters, 22 at a time.", 11),
    "omniglot-1000": Named(
        "split", "omniglot-1000", "A thousand characters: Omniglot's, turned and mirrored.", 100
    ),
    "recurring-digits": Named(
        "recurring", "digits", "Scikit-learn's digits, two classes at a time, again and again.", 100
    ),
    "recurring-mnist": Named(
        "recurring", "mnist", "MNIST, two classes at a time, again and again.", 100
    ),
    "recurring-fashion-mnist": Named(
        "recurring", "fashion-mnist", "Fashion-MNIST, two classes at a time, again and again.", 100
    ),
    "recurring-cifar10": Named(
        "recurring", "cifar10", "CIFAR-10, two classes at a time, again and again.", 100
    ),
    "rehearsed-digits": Named(
        "rehearsed", "digits", "Digits permuted, earlier permutations less often as time goes by."
    ),
    "rehearsed-mnist": Named(
        "rehearsed", "mnist", "MNIST permuted, earlier permutations less often as time goes by."
    ),
    "mixed-digits": Named("mixed", "digits", "Digits permuted, all tasks in every experience."),
    "mixed-mnist": Named("mixed", "mnist", "MNIST permuted, all tasks in every experience."),
    "blurry-digits": Named("blurry", "digits", "Digits, class by class with blurred boundaries."),
    "blurry-mnist": Named("blurry", "mnist", "MNIST, class by class with blurred boundaries."),
    "blurry-cifar10": Named(
        "blurry", "cifar10", "CIFAR-10, class by class with blurred boundaries."
    ),
    "gaussian-digits": Named(
        "gaussian", "digits", "Digits whose classes come and go gradually, each seen once.", 100
    ),
    "gaussian-mnist": Named(
        "gaussian", "mnist", "MNIST whose classes come and go gradually, each seen once.", 100
    ),
    "long-tailed-digits": Named(
        "long-tailed", "digits", "Digits, class by class, some of them rare."
    ),
    "long-tailed-cifar10": Named(
        "long-tailed", "cifar10", "CIFAR-10, class by class, some of them rare."
    ),
    "few-shot-omniglot": Named(
        "few-shot", "omniglot", "Omniglot: half of the characters, then few of each.", 11
    ),
    "clinc150": Named(
        "topics", "clinc150", "CLINC150's 150 intents as sentence embeddings, by domain.", 10
    ),
    "banking77": Named(
        "texts", "banking77", "Banking77's 77 intents as sentence embeddings, 11 at a time.", 7
    ),
    "snips": Named("texts", "snips", "SNIPS' 7 intents as sentence embeddings, in turn.", 7),
    "trec": Named("texts", "trec", "TREC's 6 kinds of questions as sentence embeddings.", 3),
    "cl15-classes": Named(
        "sequence", "cl15-classes", "The fifteen-task benchmark as classes, without Yahoo.", 14
    ),
}
OWN: dict[str, str] = {
    "split": "Your own data, class by class.",
    "permuted": "Your own data, their pixels or features permuted.",
    "rotated": "Your own images, turned step by step.",
    "corrupted": "Your own images, clean, then under fifteen corruptions.",
    "recurring": "Your own data, a few classes at a time, again and again.",
    "rehearsed": "Your own data permuted, earlier tasks less often as time goes by.",
    "mixed": "Your own data permuted, all tasks in every experience.",
    "blurry": "Your own data, class by class with blurred boundaries.",
    "gaussian": "Your own data, whose classes come and go gradually.",
    "long-tailed": "Your own data, class by class, some of them made rare.",
    "few-shot": "Your own data: half of the classes, then few examples of each.",
    "texts": "Your own labelled texts, class by class, as embeddings or as tokens.",
}
"""What `RECIPE:PATH` does, by recipe."""
CORRUPTED = 1 + len(CORRUPTIONS)
"""Experiences of a corrupted stream without arguments."""


@dataclass(frozen=True)
class Entry:
    """A stream in the catalogue.

    Attributes:
        name: As in spec strings; `split:PATH` and its like stand for a user's own data.
        summary: One sentence.
        scenario: `"class"`, `"task"`, `"domain"` or `"text"`, as it is without arguments.
        experiences: As many as there are without arguments; 0: as many as one's own data have.
        arguments: Argument to default.
        needs_data: Whether it is found through HOLDFAST_DATA.
        present: Whether it can be built here: its data came with the installation, or are in the
            folder that HOLDFAST_DATA names. A user's own data count as present.
    """

    name: str
    summary: str
    scenario: str
    experiences: int
    arguments: dict[str, Any]
    needs_data: bool
    present: bool


def is_language(text: str) -> bool:
    """Whether a spec string names a stream of language."""
    name = re.split(r"[(:]", text.strip(), maxsplit=1)[0].strip()
    return name in (language.OWN if ":" in text.partition("(")[0] else language.STREAMS)


def is_encoded(text: str) -> bool:
    """Whether a spec string names a stream of texts that an encoder makes its inputs of."""
    name = re.split(r"[(:]", text.strip(), maxsplit=1)[0].strip()
    recipe = STREAMS[name].recipe if name in STREAMS else name
    return recipe in TEXT


def build(
    text: str, seed: int = 0, experiences: int | None = None, *, tokenizer: Any = None
) -> Stream:
    """A stream from a spec string, checked.

    Args:
        text: A name with optional arguments, `split-digits(scenario=task, limit=100)`; or
            `split:PATH`, `permuted:PATH` or `rotated:PATH` for data of one's own, with arguments
            as in `split:PATH?scenario=task&limit=100`. A path that exists as it stands is taken
            whole, question marks and all.
        seed: Draws the order of classes, the permutations, and every selection of examples.
        experiences: How many; None: what the spec says, or the stream's default.
        tokenizer: Of the model that is to learn a stream of language; None: that of the zoo.

    Raises:
        UsageError: If a name or an argument does not exist, or if `experiences` contradicts the
            spec.
        DataError: If the data cannot be read or cannot be learned from.

    Example:
        >>> stream = build("split-digits(order=natural)", experiences=2)
        >>> [experience.classes for experience in stream]
        [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    """
    recipe, colon, path = text.strip().partition(":")
    if is_language(text):
        return _build_language(text.strip(), seed, experiences, tokenizer)
    if colon and "(" not in recipe:
        if recipe not in OWN:
            raise unknown("kind of stream", recipe, [*OWN, *language.OWN])
        return _build_own(recipe, path, seed, experiences)
    return _build_named(text, seed, experiences)


def entry(name: str) -> Entry:
    """The catalogue's entry for a name.

    Raises:
        UsageError: If there is no such stream; the nearest name is offered.
    """
    for found in entries():
        if found.name == name:
            return found
    raise unknown("stream", name, (found.name for found in entries()))


def entries() -> Iterator[Entry]:
    """All entries: what comes with the installation, what HOLDFAST_DATA holds, and one's own."""
    for name, named in STREAMS.items():
        files = _SOURCES[named.source][1]
        arguments = _defaults(named.recipe) | {"experiences": named.experiences}
        yield Entry(
            name=name,
            summary=named.summary,
            scenario=_scenario(named.recipe),
            experiences=named.experiences or CORRUPTED,
            arguments=arguments,
            needs_data=bool(files),
            present=not files or any(present(file) for file in files),
        )
    for name, text in language.STREAMS.items():
        yield _language_entry(name, text)
    for name, text in language.OWN.items():
        yield _language_entry(f"{name}:PATH", text)
    for recipe, summary in OWN.items():
        arguments = _defaults(recipe)
        yield Entry(
            name=f"{recipe}:PATH",
            summary=summary,
            scenario=_scenario(recipe),
            experiences=arguments["experiences"] or CORRUPTED,
            arguments=arguments,
            needs_data=False,
            present=True,
        )


def _build_named(text: str, seed: int, experiences: int | None) -> Stream:
    try:
        spec = parse_one(text)
    except UsageError:
        _refuse_bare_path(text)
        raise
    if spec.name not in STREAMS:
        _refuse_bare_path(text)
        own = (f"{recipe}:PATH" for recipe in (*OWN, *language.OWN))
        raise unknown("stream", spec.name, [*STREAMS, *language.STREAMS, *own])
    named = STREAMS[spec.name]
    # Arguments are checked before any data are read.
    arguments = _arguments(spec, named.recipe, experiences)
    source = _SOURCES[named.source][0]()
    shown = Spec(spec.name + source.name.removeprefix(named.source), (), arguments)
    arguments = {"experiences": named.experiences} | arguments
    return _MAKE[named.recipe](source, str(shown), seed, **arguments).validated()


def _build_own(recipe: str, location: str, seed: int, experiences: int | None) -> Stream:
    path, arguments = _location(recipe, location)
    arguments = _arguments(Spec(recipe, (), arguments), recipe, experiences)
    name = _own_name(f"{recipe}:{path}", arguments)
    place = path.expanduser()
    source: Any = read_texts(place) if recipe in TEXT else read(place, seed)
    return _MAKE[recipe](source, name, seed, **arguments).validated()


def _build_language(text: str, seed: int, experiences: int | None, tokenizer: Any) -> Stream:
    if tokenizer is None:
        from holdfast.models import zoo

        tokenizer = zoo.tokenizer()
    kind, colon, location = text.partition(":")
    if colon and "(" not in kind:
        path, given = _location(kind, location)
        spec, text_stream = Spec(kind, (), given), language.OWN[kind]
        make: Callable[..., Stream] = partial(text_stream.build, path.expanduser())
    else:
        spec = parse_one(text)
        text_stream = language.STREAMS[spec.name]
        make = text_stream.build
    arguments = bind(spec, partial(make, None, "", 0), "stream")
    if colon and "(" not in kind:
        name = _own_name(f"{kind}:{path}", arguments)
    else:
        name = str(Spec(spec.name, (), arguments))
    stream = make(tokenizer, name, seed, **arguments).validated()
    if experiences is None:
        return stream
    if not 1 <= experiences <= len(stream):
        raise UsageError(
            f"{name} has {len(stream)} experiences, of which the first ones can be taken; "
            f"given: {experiences}."
        )
    return replace(stream, experiences=stream.experiences[:experiences])


def _own_name(name: str, arguments: Mapping[str, Any]) -> str:
    shown = "&".join(str(Spec("", (), {k: v}))[1:-1] for k, v in arguments.items())
    return name + (f"?{shown}" if shown else "")


def _language_entry(name: str, text: language.Text) -> Entry:
    own = name.endswith(":PATH")
    parameters = inspect.signature(
        partial(text.build, None, None, "", 0) if own else partial(text.build, None, "", 0)
    ).parameters
    return Entry(
        name=name,
        summary=text.summary,
        scenario="text",
        experiences=text.experiences,
        arguments={key: parameter.default for key, parameter in parameters.items()},
        needs_data=bool(text.files),
        present=all(present(file) for file in text.files),
    )


def _location(recipe: str, location: str) -> tuple[Path, dict[str, Any]]:
    """The path and the arguments after its last question mark, if it does not exist whole."""
    if not location:
        raise UsageError(f"{recipe}: needs a path, as in {recipe}:data.npz.")
    whole = Path(location)
    before, mark, after = location.rpartition("?")
    if whole.expanduser().exists() or not (mark and before and _ARGUMENTS.fullmatch(after)):
        return whole, {}
    spec = parse_one(f"{recipe}({after.replace('&', ', ')})")
    return Path(before), dict(spec.named)


def _arguments(spec: Spec, recipe: str, experiences: int | None) -> dict[str, Any]:
    """The arguments of a spec by name, `experiences` from outside among them."""
    takes = partial(_MAKE[recipe], None, "", 0)
    arguments = bind(spec, takes, "stream")
    if experiences is not None:
        if arguments.get("experiences", experiences) != experiences:
            raise UsageError(
                f"{spec} asks for {arguments['experiences']} experiences, and {experiences} were "
                "asked for beside it; give one of the two."
            )
        arguments["experiences"] = experiences
    return arguments


def _defaults(recipe: str) -> dict[str, Any]:
    parameters = inspect.signature(partial(_MAKE[recipe], None, "", 0)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _scenario(recipe: str) -> str:
    if recipe == "sequence":
        return "task"
    return "domain" if recipe in DOMAINS else "class"


def _refuse_bare_path(text: str) -> None:
    if text and Path(text).expanduser().exists():
        raise UsageError(
            f"{text} is a path; say what to do with it: split:{text}, permuted:{text}, "
            f"rotated:{text}, recurring:{text} and more (holdfast streams)."
        )
