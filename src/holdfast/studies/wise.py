"""WISE: are edits told, told in other words, and nothing else changed, over a long sequence?

Claim: writing edits into a model's weights breaks other knowledge, and retrieving them as
activations does not reach a rephrase; a side memory with a router, whose edits lie in random parts
of it that are merged, has all three: reliability, generalization and locality.

Source: Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large
Language Models" (2024).

Run: a small Llama learns to name the intent of what is said to an assistant. Then sentences that it
has not seen are each given another intent, one edit after another. A rephrase is the sentence
without one of its words; what must stay is what the model says of other sentences that it has not
seen, and an editor is shown sentences of the training set as unrelated ones. Arms: WISE with one
memory and with several; without masks, without router (the memory answers always) and without
texts before the requests; FT-L and FT-M, GRACE, ROME and MEMIT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast import catalogue, metrics
from holdfast.cost import stored_bytes
from holdfast.evaluation import Scores
from holdfast.language.editing import Edited, Measure
from holdfast.language.fields import Sample
from holdfast.language.requests import Request
from holdfast.learner import Learner
from holdfast.models import knowing
from holdfast.streams.language.edits import edits
from holdfast.studies import text_abilities
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
from holdfast.studies.svg import Panel, Series, draw

MERGE, RETRIEVE = "WISE, merge", "WISE, retrieve"
ROUTED = "WISE, no router"
UNMASKED = "WISE, no masks"
BARE = "WISE, no prefixes"
WISE = {
    "method": "wise",
    "lr": 3.0,
    "steps": 40,
    "prefixes": 4,
    "beta": 1.0,
    "alpha": 0.25,
    "gamma": 0.5,
}
ARMS: dict[str, Mapping[str, Any]] = {
    MERGE: {**WISE, "mode": "merge"},
    RETRIEVE: {**WISE, "mode": "retrieve"},
    UNMASKED: {**WISE, "mode": "merge", "mask": 1.0},
    ROUTED: {**WISE, "mode": "merge", "ratio": 0.0},
    BARE: {**WISE, "mode": "merge", "prefixes": 0},
    "FT-L": {"method": "ft_l", "lr": 5e-4, "steps": 25},
    "FT-M": {"method": "ft_m", "lr": 4e-3, "steps": 25},
    "GRACE": {"method": "grace", "layer": 1, "radius": 2.0, "steps": 100},
    "ROME": {"method": "rome", "prefixes": 5},
    "MEMIT": {"method": "memit", "prefixes": 5},
}
"""The editor of each arm, tuned by the mean of three after 20 edits of seed 100."""

OTHERS = ("FT-L", "FT-M", "GRACE", "ROME", "MEMIT")
NUMBERS = ("reliability", "generalization", "locality", "score")


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, with every arm's editor."""
    quick = scale == "quick"
    base: Settings = {
        "ability": {"data": "intents", "digits": "modules", "quick": "topics"}[scale],
        "answers": 6 if quick else 40,
        "examples": 120 if quick else 4000,
        "epochs": 2 if quick else 12,
        "lr": 2e-3,
        "width": 32 if quick else 96,
        "pretrained": not quick,
        "edits": 3 if quick else 60,
        "unseen": 20 if quick else 300,
        "points": [1, 3] if quick else [1, 10, 30, 60],
        "shard": 1 if quick else 5,
        "merge": 2 if quick else 10,
    }
    return {arm: {**base, "editor": dict(editor)} for arm, editor in ARMS.items()}


def measure(settings: Settings, seed: int) -> Measured:
    """All edits by one editor, measured after numbers of them."""
    found = text_abilities.ability(
        settings["ability"],
        settings["examples"],
        settings["edits"] + settings["unseen"],
        seed,
        settings["answers"],
    )
    loaded = knowing.model_of(
        [replace(s, answer=str(s.answer).strip()) for s in found.train],
        width=settings["width"],
        depth=4,
        epochs=settings["epochs"],
        lr=settings["lr"],
        seed=seed,
        pretrained=settings["pretrained"],
    )
    tested = [replace(s, answer=str(s.answer).strip()) for s in found.test]
    known = knowing.exact_match(loaded.model, loaded.tokenizer, tested)
    chosen, unseen = tested[: settings["edits"]], tested[settings["edits"] :]
    requests = counterfactual(chosen, found.train, list(found.answers), seed)
    model = deepcopy(loaded.model)
    further = [str(sample.prompt) for sample in unseen]
    watch = _Points(
        Measure(model, loaded.tokenizer, requests, further=further, fluency=False),
        settings["points"],
    )
    stream = replace(edits(requests, loaded.tokenizer, name="edits"), scorer=watch)
    learner = Learner(model, method_of(settings), pretrained=True, seed=seed, device="cpu")
    learner.meter.counting = False
    learner.learn(stream)
    return {
        "known": known,
        "way": watch.way,
        **{name: watch.way[-1][name] for name in NUMBERS},
        "seconds": learner.meter.seconds / len(requests),
        "bytes": stored_bytes(learner.method),
    }


def counterfactual(
    chosen: Sequence[Sample], train: Sequence[Sample], answers: Sequence[str], seed: int
) -> list[Request]:
    """Sentences with another answer than their own; the rephrase lacks one of their words."""
    draw = np.random.default_rng(seed)
    plain = [answer.strip() for answer in answers]
    requests = []
    for place, sample in enumerate(chosen):
        prompt, own = str(sample.prompt), str(sample.answer)
        other = str(draw.choice([answer for answer in plain if answer != own]))
        tag, _, rest = prompt.partition(": ")
        body = rest.removesuffix(" =")
        words = body.split()
        left = int(draw.integers(len(words)))
        fewer = " ".join(word for at, word in enumerate(words) if at != left) or body
        requests.append(
            Request(
                prompt,
                other,
                subject=body,
                rephrase=f"{tag}: {fewer} =",
                unrelated=str(train[place].prompt),
                original=own,
            )
        )
    return requests


def method_of(settings: Settings) -> Any:
    """The editor of an arm, with shards of the study's size where it has any."""
    given = dict(settings["editor"])
    name = given.pop("method")
    if name == "wise":
        given |= {"shard": settings["shard"], "merge": settings["merge"]}
    return catalogue.method_class(name)(**given)


class _Points:
    """Measures the edits so far after chosen numbers of them."""

    def __init__(self, measure: Measure, points: Sequence[int]) -> None:
        self.measure, self.points = measure, set(points)
        self.way: list[dict[str, float]] = []

    def score(self, learner: Learner) -> Scores:
        count = learner.index + 1
        if learner.record.initial and count in self.points:
            found: Edited = self.measure.after(learner.model, count)
            self.way.append({"edits": count, **{name: getattr(found, name) for name in NUMBERS}})
        return Scores([0.0], [0.0])

    def subset(self, examples: int, seed: int) -> _Points:
        return self


def _less(what: str, key: str, arm: str, other: str, bound: float) -> Condition:
    return Condition(
        f"{what}: {arm} minus {other}",
        lambda results: results.less(arm, other, key),
        bound,
    )


def _best(results: Results) -> list[float]:
    """By seed, the mean of three of WISE with one memory, minus the best of the other editors."""
    others = np.array([results.values(arm, "score") for arm in OTHERS]).max(0)
    return [a - float(b) for a, b in zip(results.values(MERGE, "score"), others, strict=True)]


CLAIMS = (
    Claim(
        "Training weights breaks other knowledge: what FT-L leaves of other answers is far below "
        "what WISE leaves.",
        (_less("locality after all edits", "locality", MERGE, "FT-L", 0.2),),
    ),
    Claim(
        "Retrieved activations are reliable and do not generalise.",
        (
            Condition(
                "reliability of GRACE after all edits",
                lambda results: results.values("GRACE", "reliability"),
                0.95,
            ),
            _less("generalization", "generalization", MERGE, "GRACE", 0.2),
        ),
    ),
    Claim(
        "WISE has all three: its mean of reliability, generalization and locality is the best.",
        (Condition("mean of three: WISE, merge minus the best of the others", _best, 0.1),),
    ),
    Claim(
        "Its parts are needed: masks, router, texts before the requests.",
        (
            _less("mean of three", "score", MERGE, UNMASKED, 0.0),
            _less("locality", "locality", MERGE, ROUTED, 0.05),
            _less("generalization", "generalization", MERGE, BARE, 0.0),
        ),
    ),
    Claim(
        "With several memories it does as well as with one.",
        (_less("mean of three", "score", RETRIEVE, MERGE, -0.05),),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """What every editor came to after all edits, and the mean of three on the way."""
    final = [
        (
            arm,
            *(shown(results.values(arm, name)) for name in NUMBERS),
            shown(results.values(arm, "seconds"), percent=False),
            f"{np.mean(results.values(arm, 'bytes')) / 1024:,.0f}",
        )
        for arm in results.runs
    ]
    points = [point["edits"] for point in next(iter(results.runs.values()))[0]["way"]]
    known = shown([run["known"] for run in results.runs[MERGE]])
    ways = [
        (
            arm,
            *(shown([run["way"][at]["score"] for run in runs]) for at in range(len(points))),
        )
        for arm, runs in results.runs.items()
    ]
    header = ("editor", "reliability", "generalization", "locality", "mean", "s an edit", "KiB")
    return [
        Grid(
            f"After {points[-1]} edits in sequence, in percent; before them the model names "
            f"{known} % of unseen sentences' intents. Reliability and generalization: share of the "
            "target's tokens that are the likeliest after the prompt, and after it without a word; "
            "locality: share of what was said of other sentences that still is",
            header,
            tuple(final),
        ),
        Grid(
            "Mean of the three after numbers of edits, in percent",
            ("editor", *(str(point) for point in points)),
            tuple(ways),
        ),
    ]


def figures(results: Results) -> list[Figure]:
    """The three measures by number of edits."""
    followed = [MERGE, RETRIEVE, *OTHERS]
    panels = []
    for name in NUMBERS[:3]:
        series = []
        for arm in followed:
            ways = [run["way"] for run in results.runs[arm]]
            found = [metrics.interval([p[name] for p in at]) for at in zip(*ways, strict=True)]
            series.append(
                Series(
                    arm,
                    [point["edits"] for point in ways[0]],
                    [mean for mean, _ in found],
                    [half for _, half in found],
                )
            )
        panels.append(Panel(name, "edits", "share", series, y_range=(0.0, 1.0)))
    return [
        Figure("way", "Three measures by number of edits (mean, 95 %).", draw(panels)),
    ]


STUDY = Study(
    name="wise",
    title="WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language "
    "Models",
    source="Wang et al., 2024",
    claim=(
        "A routed side memory with sharded edits is reliable, general and local at once, over many "
        "edits."
    ),
    minutes={"data": 25, "digits": 25, "quick": 0.5},
    data=("clinc150/train.jsonl.gz",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of half a million weights that names intents of sentences, with 60 edits; the "
        "paper edits facts of models of seven billion weights, up to 3,000 of them.",
        "Shards have 5 edits and merges 10, the paper's 500 and 1,000.",
        "Margins are in units of the layer's mean output; the paper's are fixed for its models.",
        "Requests are also written after four texts of the model's own, not ten.",
        "A rephrase is the sentence without one word, not another wording.",
        "The router sees the prompt alone, in editing and in use.",
    ),
)
