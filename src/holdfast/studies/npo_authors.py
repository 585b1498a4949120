"""The language part of NPO's study: a small model that has learned fictitious authors by heart.

It forgets a tenth of them by every loss, and after every epoch it is held against a model that was
trained on the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

from holdfast import catalogue
from holdfast.data import Table
from holdfast.language.audit import Logs, Look, look_at
from holdfast.language.encode import encode
from holdfast.language.facts import Fact
from holdfast.language.unlearned import FactSet
from holdfast.learner import Learner, Observer
from holdfast.memory.requests import REFUSAL, RETAIN
from holdfast.models import zoo
from holdfast.optim.adamw import adamw
from holdfast.optim.stages import warmup_constant
from holdfast.stream import Experience, Stream
from holdfast.streams.language.authors import REFUSALS, authors
from holdfast.studies.study import Measured, Settings

LENGTH = 64
"""Tokens of the longest row."""

ANSWER = 16
"""Tokens of the longest answer that is written."""

MEMORISED = ("width", "depth", "authors", "forgotten", "memorise", "look")
"""Settings that decide what is learned by heart."""


@dataclass(frozen=True)
class Taught:
    """What all arms of a seed begin with.

    Attributes:
        model: Knows all authors.
        words: Its tokenizer.
        stream: The request.
        sets: What is measured.
        strangers: Authors that no model has met.
        logs: Of the model that knows the authors to be kept alone.
        before: What is measured of `model`.
    """

    model: Any
    words: Any
    stream: Stream
    sets: list[FactSet]
    strangers: FactSet
    logs: Logs
    before: Look


def taught(settings: Settings, seed: int) -> Taught:
    """A model that knows all authors, and what is known of one that never met some of them."""
    return _taught(tuple((name, settings[name]) for name in MEMORISED), seed)


@lru_cache(maxsize=1)  # all arms of a seed forget the same
def _taught(given: tuple[tuple[str, Any], ...], seed: int) -> Taught:
    settings = dict(given)
    made = authors(settings["authors"], settings["forgotten"], seed, strangers=10)
    words = zoo.byte_pairs(_texts([*made.forget, *made.retain, *made.strangers]), 1024)
    forget = _table(made.forget, words)
    retain = _table(made.retain, words)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(REFUSALS), (len(made.forget),), generator=draw).tolist()
    refused = [
        Fact(fact.question, REFUSALS[which])
        for fact, which in zip(made.forget, chosen, strict=True)
    ]
    sets = {RETAIN: retain, REFUSAL: _table(refused, words)}
    stream = Stream(
        "authors", [Experience(0, forget, forget, (), "forget", sets)], "text", 0, (), past=retain
    )
    measured = [
        FactSet("forget", made.forget, forgotten=True),
        FactSet("retain", made.retain).part(settings["look"]),
    ]
    strangers = FactSet("strangers", made.strangers)
    model = memorise(Table.concat([forget, retain]), words, settings, seed)
    never = memorise(retain, words, settings, seed)
    look = look_at(never, words, measured, strangers, max_new_tokens=ANSWER)
    logs = Logs.of(look, measured[0])
    before = look_at(model, words, measured, strangers, logs, max_new_tokens=ANSWER)
    return Taught(model, words, stream, measured, strangers, logs, before)


def memorise(table: Table, words: Any, settings: Mapping[str, Any], seed: int) -> Any:
    """A small Llama, trained from scratch until it knows a table by heart."""
    recipe = zoo.Recipe(width=settings["width"], depth=settings["depth"], context=128, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = zoo.untrained(recipe, words)
    stream = Stream("by heart", [Experience(0, table, table.take(slice(0, 1)), ())], "text", 0, ())
    learner = Learner(
        model,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95)),
        batch_size=8,
        epochs=settings["memorise"],
        clip=1.0,
        schedule=zoo.WarmCosine(20),
        seed=seed,
    )
    learner.learn(stream)
    return model.eval()


class Way(Observer):
    """Looks at the model after every epoch."""

    def __init__(self, given: Taught) -> None:
        self.given = given
        self.points = [given.before.point(0.0)]
        self.last = given.before

    def on_step(self, learner: Learner) -> None:
        assert learner.batches is not None
        per_epoch = learner.planned // learner.batches.epochs
        if learner.step % per_epoch:
            return
        given = self.given
        with learner.serving():
            self.last = look_at(
                learner.model,
                given.words,
                given.sets,
                given.strangers,
                given.logs,
                max_new_tokens=ANSWER,
            )
        self.points.append(self.last.point(learner.step / per_epoch))


def measure(settings: Settings, seed: int) -> Measured:
    """One loss: forget quality and utility after every epoch, and the audit at the end."""
    given = taught(settings, seed)
    way = Way(given)
    learner = Learner(
        deepcopy(given.model),
        catalogue.build(settings["method"]),
        optimizer=adamw(settings["lr"], 0.01),
        epochs=settings["epochs"],
        batch_size=8,
        clip=1.0,
        pretrained=True,
        schedule=warmup_constant(warmup=-(-len(given.stream[0].train) // 8)),
        seed=seed,
    )
    learner.learn(given.stream, [way])
    points = [_plain(point) for point in way.points]
    start, end = points[0], points[-1]
    usable = [p["log10_p"] for p in points if p["utility"] >= 0.8 * start["utility"]]
    return {
        "way": points,
        # A trial's model has learned nothing, and nothing can be kept.
        "kept": end["utility"] / start["utility"] if start["utility"] else None,
        "log10_p": end["log10_p"],
        "usable": max(usable),
        "forget_probability": end["forget_probability"],
        "extraction": end["forget_extraction"],
        "membership": way.last.membership["loss"],
        "never_membership": given.logs.membership["loss"],
        "before_log10_p": start["log10_p"],
    }


def _plain(point: Mapping[str, Any]) -> dict[str, float]:
    """What the study needs of a point."""
    names = ("epoch", "log10_p", "statistic", "utility", "forget_probability", "forget_extraction")
    return {name: float(point[name]) for name in names}


def _table(facts: list[Fact], words: Any) -> Table:
    return encode([fact.sample for fact in facts], words, length=LENGTH).table


def _texts(facts: list[Fact]) -> list[str]:
    return [
        f"{fact.question} {answer}"
        for fact in facts
        for answer in (fact.answer, fact.paraphrase or "", *fact.perturbed)
    ]
