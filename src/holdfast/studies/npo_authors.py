"""The language part of NPO's study: a small model that has learned fictitious authors by heart.

It forgets some of them by every loss, and after its epochs it is held against a model that was
trained on everything else alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
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
from holdfast.studies.npo_worlds import World, wordings, world
from holdfast.studies.study import Measured, Settings

LENGTH = 192
"""Tokens of the longest row."""

ANSWER = 32
"""Tokens of the longest answer that is written."""

ROWS = 16
"""Of what is to be forgotten, in an update."""

OWN = ("method", "lr", "epochs", "looks", "asked")
"""Settings that do not decide what is learned by heart."""


@dataclass(frozen=True)
class Taught:
    """What all arms of a seed begin with.

    Attributes:
        model: Knows everything.
        never: Knows what is to be kept alone.
        words: Their tokenizer.
        streams: The request to forget, by what it holds.
        sets: What is measured.
        strangers: Authors that no model has met.
        logs: Of `never`.
        before: What is measured of `model`.
    """

    model: Any
    never: Any
    words: Any
    streams: dict[str, Stream]
    sets: list[FactSet]
    strangers: FactSet
    logs: Logs
    before: Look

    def look(self, model: Any) -> Look:
        """What is measured of a model that unlearns."""
        return look_at(
            model,
            self.words,
            self.sets,
            self.strangers,
            self.logs,
            max_new_tokens=ANSWER,
            batch_size=64,
        )


def taught(settings: Settings, seed: int) -> Taught:
    """A model that knows everything, and what is known of one that never met some authors."""
    return _taught(_told(settings), seed)


@lru_cache(maxsize=1)  # all arms of a seed forget the same
def _taught(given: tuple[tuple[str, Any], ...], seed: int) -> Taught:
    settings = dict(given)
    made = world(settings, seed)
    base, words = begun(settings, seed)
    passes = settings["memorise"]
    kept = wordings(made.kept)
    model = trained(base, _table([*wordings(made.forget), *kept], words), passes, seed)
    never = trained(base, _table(kept, words), passes, seed)
    sets = [
        FactSet("forget", made.forget, forgotten=True),
        FactSet("retain", made.retain).part(settings["look"]),
        *(one.part(settings["look"]) for one in made.others),
    ]
    strangers = FactSet("strangers", made.strangers)
    look = look_at(never, words, sets, strangers, max_new_tokens=ANSWER, batch_size=64)
    logs = Logs.of(look, sets[0])
    streams = {asked: _request(made, words, asked, seed) for asked in ("both", "answers")}
    found = Taught(model, never, words, streams, sets, strangers, logs, look)
    return replace(found, before=found.look(model))


def begun(settings: Settings, seed: int) -> tuple[Any, Any]:
    """The model that learns by heart, and its tokenizer.

    On TOFU it has read of other authors, and is the same under every seed; else it knows nothing.
    """
    return _begun(_told(settings), 0 if settings["world"] == "tofu" else seed)


@lru_cache(maxsize=1)
def _begun(given: tuple[tuple[str, Any], ...], seed: int) -> tuple[Any, Any]:
    settings = dict(given)
    made = world(settings, seed)
    words = zoo.byte_pairs(_texts(made), settings["vocabulary"])
    recipe = zoo.Recipe(width=settings["width"], depth=settings["depth"], context=LENGTH, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = zoo.untrained(recipe, words)
    if settings["read"]:
        model = trained(model, _table(made.manner, words), settings["read"], seed)
    return model, words


def trained(base: Any, table: Table, passes: int, seed: int) -> Any:
    """A copy of a model, trained on a table."""
    stream = Stream("by heart", [Experience(0, table, table.take(slice(0, 1)), ())], "text", 0, ())
    learner = Learner(
        deepcopy(base),
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95)),
        batch_size=8,
        epochs=passes,
        clip=1.0,
        schedule=zoo.WarmCosine(20),
        seed=seed,
    )
    learner.learn(stream)
    return learner.model.eval()


class Way(Observer):
    """Looks at the model after some epochs.

    Args:
        given: What the arm began with.
        looks: How many, evenly over the epochs.
    """

    def __init__(self, given: Taught, looks: int) -> None:
        self.given, self.looks = given, looks
        self.points = [given.before.point(0.0)]
        self.last = given.before

    def on_step(self, learner: Learner) -> None:
        assert learner.batches is not None
        epochs = learner.batches.epochs
        epoch, within = divmod(learner.step, learner.planned // epochs)
        if within or epoch * self.looks % epochs >= self.looks:
            return
        with learner.serving():
            self.last = self.given.look(learner.model)
        self.points.append(self.last.point(float(epoch)))


def measure(settings: Settings, seed: int) -> Measured:
    """One loss: forget quality and utility on the way, and the audit at the end."""
    given = taught(settings, seed)
    stream = given.streams[settings["asked"]]
    way = Way(given, settings["looks"])
    learner = Learner(
        deepcopy(given.model),
        catalogue.build(settings["method"]),
        optimizer=adamw(settings["lr"], 0.01),
        epochs=settings["epochs"],
        batch_size=ROWS,
        clip=1.0,
        pretrained=True,
        schedule=warmup_constant(warmup=-(-len(stream[0].train) // ROWS)),
        seed=seed,
    )
    learner.learn(stream, [way])
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
        "never_utility": given.logs.utility,
        "before_utility": start["utility"],
        "before_log10_p": start["log10_p"],
        "parts": way.last.parts,
    }


def _told(settings: Settings) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in settings.items() if name not in OWN)


def _plain(point: Mapping[str, Any]) -> dict[str, float]:
    """What the study needs of a point."""
    names = ("epoch", "log10_p", "statistic", "utility", "forget_probability", "forget_extraction")
    return {name: float(point[name]) for name in names}


def _request(made: World, words: Any, asked: str, seed: int) -> Stream:
    """What is to be forgotten, with all that methods use.

    Args:
        made: The world.
        words: The tokenizer.
        asked: `"both"`: every row that was taught, in both wordings; or the `"answers"` alone.
        seed: Of which refusal is taught to which question.
    """
    given = [made.forget, made.retain]
    gone, kept = map(wordings, given) if asked == "both" else given
    forget, retain = _table(gone, words), _table(kept, words)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(made.refusals), (len(gone),), generator=draw).tolist()
    refused = [
        Fact(fact.question, made.refusals[which]) for fact, which in zip(gone, chosen, strict=True)
    ]
    sets = {RETAIN: retain, REFUSAL: _table(refused, words)}
    first = Experience(0, forget, forget, (), "forget", sets)
    return Stream("authors", [first], "text", 0, (), past=retain)


def _table(facts: Sequence[Fact], words: Any) -> Table:
    return encode([fact.sample for fact in facts], words, length=LENGTH).table


def _texts(made: World) -> list[str]:
    """Everything that is asked and answered, in an order that no seed decides."""
    facts = [*made.forget, *made.kept, *made.strangers, *made.manner]
    return sorted(
        f"{fact.question} {answer}"
        for fact in facts
        for answer in (fact.answer, fact.paraphrase or "", *fact.perturbed)
    )
