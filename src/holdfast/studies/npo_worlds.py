"""What the language part of NPO's study teaches and lets forget: TOFU, or authors made up here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.language.facts import Fact
from holdfast.language.unlearned import FactSet
from holdfast.streams.language import tofu
from holdfast.streams.language.authors import REFUSALS, authors
from holdfast.studies.study import Settings

STRANGERS = 4
"""Authors that no model meets, for attacks on membership."""


@dataclass(frozen=True)
class World:
    """Everything that there is to know.

    Attributes:
        forget: What is to be forgotten.
        retain: Of the same kind, to be kept.
        others: Further sets to be kept, which are part of model utility.
        strangers: Of the kind of `forget`, and met by no model.
        refusals: Answers that tell nothing.
        manner: Of the same kind, about others: what a model has read before it learns the rest.
    """

    forget: list[Fact]
    retain: list[Fact]
    others: list[FactSet]
    strangers: list[Fact]
    refusals: Sequence[str]
    manner: list[Fact] = field(default_factory=list)

    @property
    def kept(self) -> list[Fact]:
        """All that a model learns which never knew what is to be forgotten."""
        return [*self.retain, *(fact for one in self.others for fact in one.facts)]


def world(settings: Settings, seed: int) -> World:
    """The world of a run."""
    if settings["world"] == "tofu":
        return of_tofu(settings, seed)
    made = authors(settings["authors"], settings["forgotten"], seed, strangers=STRANGERS)
    return World(made.forget, made.retain, [], made.strangers, REFUSALS)


def of_tofu(settings: Settings, seed: int) -> World:
    """TOFU's own files: of the authors of its forget set, the seed says who is forgotten.

    The others of these are the retain set, since of them alone there are paraphrases and wrong
    answers; those of TOFU's retain set are what a model has read before.
    """
    known = [_short(one, settings) for one in tofu.by_author(tofu.forget())]
    random.Random(seed).shuffle(known)
    forgotten = settings["forgotten"]
    read = [_short(one, settings) for one in tofu.by_author(tofu.retain())]
    others = [
        FactSet(name, facts, contrasted=True).part(settings["others"])
        for name, facts in (
            ("real authors", tofu.real_authors()),
            ("world facts", tofu.world_facts()),
        )
    ]
    return World(
        _flat(known[:forgotten]),
        _flat(known[forgotten:]),
        others,
        _flat(read[-STRANGERS:]),
        tofu.refusals(),
        _flat(read[:-STRANGERS]),
    )


def wordings(facts: Sequence[Fact]) -> list[Fact]:
    """Every fact in both wordings, each to be learned."""
    return [
        form
        for fact in facts
        for form in (fact, *([replace(fact, answer=fact.paraphrase)] if fact.paraphrase else []))
    ]


def _short(facts: Sequence[Fact], settings: Settings) -> list[Fact]:
    """An author's shortest questions, each with so many wrong answers."""
    chosen = sorted(facts, key=_letters)[: settings["questions"]]
    return [replace(fact, perturbed=fact.perturbed[: settings["wrong"]]) for fact in chosen]


def _letters(fact: Fact) -> int:
    return len(fact.question) + max(map(len, (fact.answer, fact.paraphrase or "")))


def _flat(authors: Sequence[Sequence[Fact]]) -> list[Fact]:
    return [fact for facts in authors for fact in facts]
