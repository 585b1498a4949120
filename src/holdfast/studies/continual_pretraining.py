"""Continual pre-training: do a re-warmed learning rate and a little replay match starting afresh?

Claim: when a trained language model meets a new corpus, re-warming the learning rate, decaying it
again and replaying a little old data end where training from scratch on everything ends, for a
weak and for a strong shift, at a fraction of the compute; an "infinite" schedule does so without
knowing the budget.

Source: Ibrahim et al., "Simple and scalable strategies to continually pre-train large language
models" (2024).

Run: a small Llama learns English documentation from scratch (the first corpus), then as many tokens
of program code (strong shift), of other documentation (weak shift) or of the first corpus again (no
shift). Losses on held-out text of both are followed all the way. The union of both corpora is
learned from scratch with the tokens of both stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, lru_cache, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from holdfast.data import Table
from holdfast.evaluation import mean_loss
from holdfast.learner import Learner
from holdfast.method import Method
from holdfast.methods import Finetune, Replay
from holdfast.models import zoo
from holdfast.optim.schedules import StepSchedule
from holdfast.optim.stages import Infinite, warmup_cosine
from holdfast.pretraining import adaptation_forgetting
from holdfast.stream import Experience, Stream
from holdfast.streams.language import python
from holdfast.streams.language.corpora import corpora
from holdfast.studies.controls import (
    Watch,
    cut_at_equal_new_loss,
    cut_at_equal_updates,
)
from holdfast.studies.study import (
    Claim,
    Condition,
    Figure,
    Grid,
    Measured,
    Results,
    Scale,
    Settings,
    Study,
    shown,
)
from holdfast.studies.svg import Panel, Series, draw, over_seeds

FLOOR, WARMUP, ANNEALED = 0.1, 0.05, 0.2
"""Ends of decays; length of warm-ups and of the annealing, as shares of a stage."""

PLAIN, QUARTER = "re-warm, re-decay", "+ 25 % replay"
SHIFTS = {"strong": "code", "weak": "other documentation", "none": "the same"}

ARMS: dict[str, Mapping[str, Any]] = {
    "no re-warm": {"rewarm": False},
    "re-warm, no decay": {"redecay": False},
    PLAIN: {},
    "half the peak": {"peak": 0.5},
    "optimizer reset": {"optimizer_state": "reset"},
    "+ 5 % replay": {"fraction": 0.05},
    QUARTER: {"fraction": 0.25},
    "+ 25 % of its own text": {"fraction": 0.25, "source": "self"},
    "infinite": {"infinite": True},
    "infinite + 25 % replay": {"infinite": True, "fraction": 0.25},
    "union": {"kind": "union"},
    "only the new corpus": {"kind": "new"},
    "weak: no re-warm": {"shift": "weak", "rewarm": False},
    "weak: re-warm, re-decay": {"shift": "weak"},
    "weak: + 5 % replay": {"shift": "weak", "fraction": 0.05},
    "weak: union": {"shift": "weak", "kind": "union"},
    "none: no re-warm": {"shift": "none", "rewarm": False},
    "none: re-warm, re-decay": {"shift": "none"},
}
"""What each arm changes of re-warming and re-decaying without replay under the strong shift."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The preset at a scale, changed by every arm."""
    base: Settings = {
        "kind": "continue",
        "shift": "strong",
        "rewarm": True,
        "redecay": True,
        "peak": 1.0,
        "fraction": 0.0,
        "source": "past",
        "infinite": False,
        "optimizer_state": "keep",
        "updates": {"data": 560, "digits": 560, "quick": 12}[scale],
        "rows": {"data": 4, "digits": 4, "quick": 2}[scale],
        "length": 128,
        "width": {"data": 64, "digits": 64, "quick": 16}[scale],
        "depth": {"data": 3, "digits": 3, "quick": 1}[scale],
        "rate": 4e-3,
        "test_rows": {"data": 64, "digits": 64, "quick": 8}[scale],
    }
    found = {arm: {**base, **changes} for arm, changes in ARMS.items()}
    return {
        arm: {"stream": f"documentation, then {SHIFTS[settings['shift']]}", **settings}
        for arm, settings in found.items()
    }


def measure(settings: Settings, seed: int) -> Measured:
    """One run: both losses along the way and at its end, and the tokens that it took."""
    old, new = corpus("old", settings, seed), corpus(settings["shift"], settings, seed)
    updates = settings["updates"]
    if settings["kind"] != "continue":
        both = Table.concat([old.train, new.train])
        table = both if settings["kind"] == "union" else new.train
        one = replace(new, index=0, train=table)
        learner = learner_of(settings, seed, Finetune(), warmup_cosine(WARMUP, FLOOR), [one])
        learner.learn(stream_of([one]))
        losses = {"old": mean_loss(learner, old.test), "new": mean_loss(learner, new.test)}
        return {**losses, **_cost(learner), "way": [], "forgetting": None, "transient": None}
    experiences = [old, replace(new, index=1)]
    stream = replace(stream_of(experiences), past=old.train)
    learner = learner_of(settings, seed, _method(settings), _second(settings), experiences)
    state = deepcopy(first_stage(_shared(settings), seed))
    learner.restore(stream, {**state, "method": learner.method.state_dict()})
    if settings["source"] == "self":
        learner.method.inherit(learner)  # the first stage was learned without it
    watch = Watch({"old": old.test, "new": new.test}, every=max(1, updates // 12))
    watch.look(learner)
    learner.learn(stream, [watch])
    told = adaptation_forgetting(watch.way)
    return {
        "old": told.old_after,
        "new": told.new_after,
        "forgetting": told.forgetting,
        "transient": told.transient,
        "way": watch.way,
        "replayed": [n["replayed_share"] for n in learner.record.notes if "replayed_share" in n],
        **_cost(learner),
    }


def _cost(learner: Learner) -> Measured:
    """Of both stages, the first included."""
    return {"updates": learner.updates, "seconds": learner.record.cost["seconds"]}


def _method(settings: Settings) -> Method:
    if not settings["fraction"]:
        return Finetune()
    tokens = settings["updates"] * settings["rows"] * settings["length"]
    if settings["source"] == "self":
        return Replay(settings["fraction"], "self", self_rows=4 * settings["test_rows"])
    return Replay(settings["fraction"], "past", capacity=tokens)


def _first(settings: Mapping[str, Any]) -> StepSchedule:
    if not settings["infinite"]:
        return warmup_cosine(WARMUP, FLOOR)
    updates = settings["updates"]
    return Infinite(round(WARMUP * updates), round(0.6 * updates), floor=FLOOR)


def _second(settings: Settings) -> StepSchedule:
    """The same over the first stage; then as the arm has it."""
    if settings["infinite"]:
        updates, over = settings["updates"], round(ANNEALED * settings["updates"])
        first = _first(settings)
        assert isinstance(first, Infinite)
        return first.annealed(2 * updates - over, over)
    return warmup_cosine(
        WARMUP,
        FLOOR,
        rewarm=settings["rewarm"],
        redecay=settings["redecay"],
        peaks=(1.0, settings["peak"]),
    )


def _shared(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """What the first stage depends on."""
    names = ("updates", "rows", "length", "width", "depth", "rate", "test_rows", "infinite")
    return tuple((name, settings[name]) for name in names)


@lru_cache(maxsize=2)
def first_stage(shared: tuple[tuple[str, Any], ...], seed: int) -> dict[str, Any]:
    """A learner's state after the first corpus, which most arms begin from."""
    settings: Settings = {**dict(shared), "optimizer_state": "keep"}
    experiences = [corpus("old", settings, seed)]
    learner = learner_of(settings, seed, Finetune(), _first(settings), experiences)
    learner.learn(stream_of(experiences))
    return deepcopy(learner.state_dict())


def learner_of(
    settings: Settings,
    seed: int,
    method: Method,
    schedule: StepSchedule,
    experiences: Sequence[Experience],
) -> Learner:
    """A learner of the study's small Llama, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = zoo.untrained(
            zoo.Recipe(
                width=settings["width"], depth=settings["depth"], context=settings["length"]
            ),
            zoo.tokenizer(),
        )
    return Learner(
        model,
        method,
        optimizer=partial(
            torch.optim.AdamW, lr=settings["rate"], betas=(0.9, 0.95), weight_decay=0.1
        ),
        batch_size=settings["rows"],
        clip=1.0,
        pretrained=True,
        optimizer_state=settings["optimizer_state"],
        schedule=schedule,
        seed=seed,
    )


def stream_of(experiences: Sequence[Experience]) -> Stream:
    width = experiences[0].train["input_ids"].shape[1]
    return Stream("continual-pretraining", experiences, "text", 0, (width,))


def corpus(which: str, settings: Settings, seed: int) -> Experience:
    """A corpus as an experience: as many training rows as a stage takes."""
    if which == "none":
        return corpus("old", settings, seed)
    rows = settings["updates"] * settings["rows"]
    read = {"old": lambda: _documents(0), "weak": lambda: _documents(1), "strong": _code}[which]
    stream = corpora(
        [(which, read)],
        zoo.tokenizer(),
        seed=seed,
        length=settings["length"],
        limit=rows,
        test_limit=settings["test_rows"],
    )
    return stream[0]


@cache
def _documents(half: int) -> list[python.Document]:
    """Documentation in two parts, by the name of each text."""

    def side(name: str) -> int:
        return blake2b(name.encode(), digest_size=2, person=b"halves").digest()[0] % 2

    return [d for d in python.documentation() if side(d.name) == half]


def _code() -> list[python.Document]:
    return python.source()


def _worse(arm: str, other: str, what: str) -> Condition:
    words = {"new": "loss on the new corpus", "forgetting": "forgetting"}[what]
    return Condition(
        f"{words} (nats): {arm} minus {other}",
        lambda results: results.less(arm, other, what),
        percent=False,
    )


def _average(results: Results, arm: str) -> list[float]:
    pairs = zip(results.values(arm, "old"), results.values(arm, "new"), strict=True)
    return [(a + b) / 2 for a, b in pairs]


def _above(arm: str, other: str, most: float) -> Condition:
    """The mean loss over both corpora, relative to another arm's."""
    return Condition(
        f"mean loss of both corpora: {arm} over {other}, relative",
        lambda results: [
            a / b - 1 for a, b in zip(_average(results, arm), _average(results, other), strict=True)
        ],
        bound=most,
        side="below",
    )


def _relative(arm: str, other: str, most: float) -> Condition:
    return Condition(
        f"loss on the new corpus: {arm} over {other}, relative",
        lambda results: [
            a / b - 1
            for a, b in zip(results.values(arm, "new"), results.values(other, "new"), strict=True)
        ],
        bound=most,
        side="below",
    )


def _avoided(results: Results, arm: str) -> list[float]:
    pairs = zip(results.values(arm, "forgetting"), results.values(PLAIN, "forgetting"), strict=True)
    return [1 - mine / plain for mine, plain in pairs]


CLAIMS = (
    Claim(
        "Without re-warming, a model adapts worst to the new corpus.",
        (_worse("no re-warm", PLAIN, "new"), _worse("weak: no re-warm", f"weak: {PLAIN}", "new")),
    ),
    Claim(
        "Re-warming alone hurts what was known, even without any shift, before the decay mends it.",
        (
            Condition(
                "highest rise of the loss on the first corpus along the way (nats), no shift: with "
                "re-warming minus without",
                lambda results: results.less(f"none: {PLAIN}", "none: no re-warm", "transient"),
                percent=False,
            ),
        ),
    ),
    Claim(
        "Re-warming forgets more than not re-warming, if nothing is replayed.",
        (_worse(PLAIN, "no re-warm", "forgetting"),),
    ),
    Claim(
        "Decaying again helps: both corpora end lower than without.",
        (
            _worse("re-warm, no decay", PLAIN, "new"),
            _worse("re-warm, no decay", PLAIN, "forgetting"),
        ),
    ),
    Claim(
        "A quarter of replay takes away most of the forgetting at almost no cost.",
        (
            Condition(
                f"share of the forgetting avoided by {QUARTER}",
                lambda results: _avoided(results, QUARTER),
                bound=0.6,
            ),
            _relative(QUARTER, PLAIN, 0.03),
        ),
    ),
    Claim(
        "With replay, half the compute ends where training from scratch on everything does.",
        (
            _above(QUARTER, "union", 0.03),
            _above("weak: + 5 % replay", "weak: union", 0.03),
        ),
    ),
    Claim(
        "The infinite schedule with annealing does as well without knowing the budget.",
        (_above("infinite + 25 % replay", QUARTER, 0.02), _above("infinite", PLAIN, 0.02)),
    ),
    Claim(
        "Replay forgets less for an interesting reason: also at equal loss on the new corpus, and "
        "also than a smaller learning rate.",
        (
            Condition(
                f"share of the forgetting of half the peak avoided by {QUARTER}, at equal new loss",
                lambda results: cut_at_equal_new_loss(results, QUARTER, "half the peak"),
            ),
            Condition(
                f"share of plain forgetting avoided by {QUARTER}, at equal new loss",
                lambda results: cut_at_equal_new_loss(results, QUARTER, PLAIN),
            ),
            Condition(
                f"share of plain forgetting avoided by {QUARTER}, after equal updates",
                lambda results: cut_at_equal_updates(results, QUARTER, PLAIN),
            ),
        ),
        by="us",
    ),
    Claim(
        "Text that the model samples from itself does for replay where no old data are left.",
        (
            Condition(
                "share of the forgetting avoided by 25 % of its own text",
                lambda results: _avoided(results, "+ 25 % of its own text"),
                bound=0.3,
            ),
        ),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """Losses, forgetting and compute of every arm."""
    return [
        Grid(
            "Held-out losses in nats a token, and what they took",
            ("arm", "first corpus", "new corpus", "mean", "forgetting", "highest rise", "updates"),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "old"), percent=False),
                    shown(results.values(arm, "new"), percent=False),
                    shown(_average(results, arm), percent=False),
                    shown(results.values(arm, "forgetting"), percent=False),
                    shown(results.values(arm, "transient"), percent=False),
                    f"{np.mean(results.values(arm, 'updates')):.0f}",
                )
                for arm in results.runs
            ),
        ),
    ]


def figures(results: Results) -> list[Figure]:
    """Both losses through the second stage."""
    shown_arms = ("no re-warm", "re-warm, no decay", PLAIN, QUARTER, "infinite + 25 % replay")
    return [
        Figure(
            f"{name}",
            f"Loss on the {words} through the second stage under the strong shift (mean over "
            "seeds, 95 % intervals); the dashed line is the union, learned from scratch.",
            draw(
                [
                    Panel(
                        f"loss on the {words}",
                        "update of the second stage",
                        "nats a token",
                        [_line(results, arm, key) for arm in shown_arms],
                        y_range=_span(results, shown_arms, key),
                        level=float(np.mean(results.values("union", key))),
                    )
                ]
            ),
        )
        for name, key, words in (("old", "old", "first corpus"), ("new", "new", "new corpus"))
    ]


def _line(results: Results, arm: str, key: str) -> Series:
    ways = [run["way"] for run in results.runs[arm]]
    begun = ways[0][0]["update"]
    points = [[way[i][key] for way in ways] for i in range(len(ways[0]))]
    return over_seeds(arm, [point["update"] - begun for point in ways[0]], points)


def _span(results: Results, chosen: Sequence[str], key: str) -> tuple[float, float]:
    found = [p[key] for arm in chosen for run in results.runs[arm] for p in run["way"]]
    found += results.values("union", key)
    return min(found) - 0.1, max(found) + 0.1


STUDY = Study(
    name="continual-pretraining",
    title="Simple and scalable strategies to continually pre-train large language models",
    source="Ibrahim et al., 2024",
    claim=(
        "Re-warming, re-decaying and a little replay match training from scratch on everything, "
        "for less compute; an infinite schedule needs no budget known beforehand."
    ),
    minutes={"data": 18, "digits": 18, "quick": 1},
    data=(),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of 0.2 million parameters, 0.29 million tokens a stage and English documentation "
        "before Python code; the paper has 405 million and 10 billion parameters, hundreds of "
        "billions of tokens, and English before German.",
        "Nothing is evaluated but held-out loss.",
        "The second stage keeps the optimizer's moments, as a run of one's own does; an arm that "
        "drops them stands beside it.",
        "The infinite schedule's constant level (0.55 of the peak) and cool-down (to 60 % of the "
        "first stage) are read off the paper's figures; it is annealed over the last fifth of the "
        "second stage, inside that stage's budget.",
        "The weak shift is from one half of the documentation's texts to the other.",
    ),
)
