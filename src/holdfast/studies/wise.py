"""WISE: are edits told, told in other words, and nothing else changed, over a long sequence?

Claim: writing edits into a model's weights breaks other knowledge, and retrieving them as
activations does not reach a rephrase; a side memory with a router, whose edits lie in random parts
of it that are merged, has all three: reliability, generalization and locality.

Source: Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large
Language Models" (2024).

Run: a small Llama learns to name the intent of what is said to an assistant, and as another kind of
question the module that a sentence of Python's documentation is about. Then sentences of the first
kind that it has not seen are each given another intent, one edit after another. A rephrase is the
sentence without one of its words. As in the paper the editor is shown a question of the other kind
with every edit, and locality is measured on questions of that kind that nobody has seen. What the
paper does not measure: what is still said of other sentences of the edits' own kind. Arms: WISE
with one memory and with several; without masks, without router (the memory answers always) and
without texts before the requests; FT-L and FT-M, GRACE, ROME and MEMIT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast import catalogue
from holdfast.cost import stored_bytes
from holdfast.evaluation import Scores, undisturbed
from holdfast.language.editing import Measure
from holdfast.language.fields import Sample
from holdfast.language.questions import Questioner
from holdfast.language.reading import prompted
from holdfast.language.requests import Request
from holdfast.learner import Learner
from holdfast.models import knowing
from holdfast.models.side_memory import SideMemory
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
WISE = {"method": "wise", "lr": 24.0, "steps": 40, "prefixes": 4, "shard": 30, "merge": 60}
ARMS: dict[str, Mapping[str, Any]] = {
    MERGE: {**WISE, "mode": "merge"},
    RETRIEVE: {**WISE, "mode": "retrieve", "lr": 6.0, "shard": 2, "merge": 4},
    UNMASKED: {**WISE, "mode": "merge", "mask": 1.0},
    ROUTED: {**WISE, "mode": "merge", "ratio": 0.0},
    BARE: {**WISE, "mode": "merge", "prefixes": 0},
    "FT-L": {"method": "ft_l", "lr": 5e-4, "steps": 25},
    "FT-M": {"method": "ft_m", "lr": 6e-3, "steps": 25},
    "GRACE": {"method": "grace", "layer": 1, "radius": 8.0, "steps": 100, "lr": 3.0},
    "ROME": {"method": "rome", "at": "last", "prefixes": 5},
    "MEMIT": {"method": "memit", "at": "last", "prefixes": 5},
}
"""The editor of each arm, tuned by the mean of three after 20 edits of seed 100.

FT-L has its published rate: by that mean it does best where it edits nothing at all.
"""

OTHERS = ("FT-L", "FT-M", "GRACE", "ROME", "MEMIT")
THREE = ("reliability", "generalization", "locality")
NUMBERS = (*THREE, "score", "kin")


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, with every arm's editor."""
    quick = scale == "quick"
    base: Settings = {
        "kinds": {
            "data": ["intents", "modules"],
            "digits": ["topics", "modules"],
            "quick": ["topics", "modules"],
        }[scale],
        "answers": 6 if quick else 40,
        "examples": [60, 60] if quick else [4000, 3000],
        "epochs": 2 if quick else 12,
        "lr": 2e-3,
        "width": 32 if quick else 96,
        "pretrained": not quick,
        "edits": 3 if quick else 60,
        "unseen": 20 if quick else 300,
        "points": [1, 3] if quick else [1, 10, 30, 60],
    }
    small = {"shard": 1, "merge": 2}
    return {
        arm: {
            **base,
            "editor": {**editor, **(small if quick and editor["method"] == "wise" else {})},
        }
        for arm, editor in ARMS.items()
    }


def measure(settings: Settings, seed: int) -> Measured:
    """All edits by one editor, measured after numbers of them."""
    count = settings["edits"]
    own, strange = (
        text_abilities.ability(
            kind, examples, count + settings["unseen"], seed, settings["answers"]
        )
        for kind, examples in zip(settings["kinds"], settings["examples"], strict=True)
    )
    loaded = knowing.model_of(
        [replace(s, answer=str(s.answer).strip()) for s in (*own.train, *strange.train)],
        width=settings["width"],
        depth=4,
        epochs=settings["epochs"],
        lr=settings["lr"],
        seed=seed,
        pretrained=settings["pretrained"],
    )
    tested = [replace(s, answer=str(s.answer).strip()) for s in own.test]
    chosen, kin = tested[:count], [str(sample.prompt) for sample in tested[count:]]
    far = [str(sample.prompt) for sample in strange.test]
    requests = counterfactual(chosen, strange.train, own.answers, seed)
    model = deepcopy(loaded.model)
    watch = _Points(
        Measure(model, loaded.tokenizer, requests, further=far, fluency=False),
        Measure(model, loaded.tokenizer, requests[:1], further=kin, fluency=False),
        settings["points"],
    )
    before = watch.now(model, count)
    stream = replace(edits(requests, loaded.tokenizer, name="edits"), scorer=watch)
    method = method_of(settings)
    learner = Learner(model, method, pretrained=True, seed=seed, device="cpu")
    learner.meter.counting = False
    learner.learn(stream)
    asked = {
        "edits": [request.prompt for request in requests],
        "rephrases": [request.rephrase for request in requests],
        "unrelated": far,
        "own kind": kin,
    }
    memory = getattr(method, "memory", None)
    return {
        "known": knowing.exact_match(loaded.model, loaded.tokenizer, tested),
        "before": before,
        "way": watch.way,
        **{name: watch.way[-1][name] for name in (*NUMBERS, "tokens")},
        "opened": {
            name: opened(model, memory, loaded.tokenizer, prompts)
            for name, prompts in asked.items()
            if isinstance(memory, SideMemory)
        },
        "seconds": learner.meter.seconds / len(requests),
        "bytes": stored_bytes(learner.method),
    }


def counterfactual(
    chosen: Sequence[Sample], strange: Sequence[Sample], answers: Sequence[str], seed: int
) -> list[Request]:
    """Sentences with another answer than their own; the rephrase lacks one of their words.

    Args:
        chosen: The sentences.
        strange: Questions of another kind, of which each edit is shown one.
        answers: All that a sentence can have.
        seed: Of the draws.
    """
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
                unrelated=str(strange[place].prompt),
                original=own,
            )
        )
    return requests


def opened(model: Any, memory: SideMemory, tokenizer: Any, prompts: Sequence[str]) -> float:
    """The share of prompts that the router lets the memory answer."""
    questions = Questioner(tokenizer, knowing.LENGTH, overlong="cut").answers(
        [Sample(prompt=prompt, answer="x") for prompt in prompts], [["x"]] * len(prompts)
    )
    hits = 0
    with undisturbed(model):
        for question in questions:
            prompted(model, [question])
            hits += memory.passing.chosen is not None and int(memory.passing.chosen) >= 0
    return hits / len(questions)


def method_of(settings: Settings) -> Any:
    """The editor of an arm."""
    given = dict(settings["editor"])
    return catalogue.method_class(given.pop("method"))(**given)


class _Points:
    """Measures the edits so far after chosen numbers of them."""

    def __init__(self, measure: Measure, kin: Measure, points: Sequence[int]) -> None:
        self.measure, self.kin, self.points = measure, kin, set(points)
        self.way: list[dict[str, float]] = []

    def score(self, learner: Learner) -> Scores:
        count = learner.index + 1
        if learner.record.initial and count in self.points:
            self.way.append({"edits": count, **self.now(learner.model, count)})
        return Scores([0.0], [0.0])

    def now(self, model: Any, count: int) -> dict[str, float]:
        """All numbers, of the first edits."""
        found, kin = self.measure.after(model, count), self.kin.of(model, [0])
        three = found.exact, found.generalization_exact, found.locality
        return {
            **dict(zip(THREE, three, strict=True)),
            "score": sum(three) / 3,
            "kin": kin.locality,
            "tokens": found.reliability,
        }

    def subset(self, examples: int, seed: int) -> _Points:
        return self


def _less(what: str, key: str, arm: str, other: str, bound: float) -> Condition:
    return Condition(
        f"{what}: {arm} minus {other}",
        lambda results: results.less(arm, other, key),
        bound,
    )


def _opened(which: str) -> Condition:
    return Condition(
        f"share of {which} that the memory of {MERGE} answers, minus that of unrelated prompts",
        lambda results: [
            a - b
            for a, b in zip(
                results.values(MERGE, "opened", which),
                results.values(MERGE, "opened", "unrelated"),
                strict=True,
            )
        ],
        0.5,
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
        "The router tells what an edit is about, in other words too, from what it is not about.",
        (
            _opened("edits"),
            _opened("rephrases"),
        ),
    ),
    Claim(
        "With several memories it does as well as with one.",
        (_less("mean of three", "score", RETRIEVE, MERGE, -0.05),),
        by="us",
    ),
    Claim(
        "The router also keeps facts of the edits' own kind.",
        (_less("own kind still told", "kin", MERGE, ROUTED, 0.05),),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """What every editor came to after all edits, and the mean of three on the way."""
    final = [
        (
            arm,
            *(shown(results.values(arm, name)) for name in NUMBERS),
            shown(results.values(arm, "tokens")),
            shown(results.values(arm, "seconds"), percent=False),
            f"{np.mean(results.values(arm, 'bytes')) / 1024:,.0f}",
        )
        for arm in results.runs
    ]
    points = [point["edits"] for point in next(iter(results.runs.values()))[0]["way"]]
    start = results.runs[MERGE]
    known = shown([run["known"] for run in start])
    untouched = [shown([run["before"][name] for run in start]) for name in (*NUMBERS, "tokens")]
    final = [("before any edit", *untouched, "-", "-"), *final]
    ways = [
        (
            arm,
            *(shown([run["way"][at]["score"] for run in runs]) for at in range(len(points))),
        )
        for arm, runs in results.runs.items()
    ]
    header = (
        "editor",
        "reliability",
        "generalization",
        "locality",
        "mean of three",
        "own kind",
        "by tokens",
        "s an edit",
        "KiB",
    )
    places = tuple(results.runs[MERGE][0]["opened"])
    doors = [
        (arm, *(shown(results.values(arm, "opened", place)) for place in places))
        for arm, runs in results.runs.items()
        if runs[0]["opened"]
    ]
    return [
        Grid(
            f"After {points[-1]} edits in sequence, in percent",
            header,
            tuple(final),
            f"The model names {known} % of unseen sentences' intents. Reliability and "
            "generalization: share of targets that it would write token for token after the "
            "prompt, and after it without a word. Locality and own kind: share of the tokens of "
            "what was said before any edit, of unseen questions of the other kind and sentences "
            "of the edits' own, that still are the likeliest. By tokens: reliability as a share of "
            "tokens.",
        ),
        Grid(
            "Share of prompts that a memory answers, in percent", ("editor", *places), tuple(doors)
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
    for name in THREE:
        series = []
        for arm in followed:
            ways = [run["way"] for run in results.runs[arm]]
            means = [float(np.mean([p[name] for p in at])) for at in zip(*ways, strict=True)]
            series.append(Series(arm, [point["edits"] for point in ways[0]], means))
        panels.append(Panel(name, "edits", "share", series, y_range=(0.0, 1.0)))
    return [
        Figure(
            "way",
            "Three measures by number of edits (means over seeds; intervals are in the tables).",
            draw(panels),
        ),
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
    minutes={"data": 30, "digits": 30, "quick": 0.5},
    data=("zsre/edits.jsonl.gz",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of half a million weights that names intents of sentences, with 60 edits; the "
        "paper edits facts of models of seven billion weights, up to 3,000 of them.",
        "A target counts when every token is right. The paper counts tokens, of which a model "
        "foresees many from the target's first: without any edit it has most of them.",
        "With one memory shards have 30 edits and there is one merge, in the paper's proportion "
        "(500 of 1,000); with several there are 2 edits to a shard and 4 to a memory.",
        "Margins are in units of the layer's mean output; the paper's are fixed for its models.",
        "Requests are also written after four texts of the model's own, not ten.",
        "A rephrase is the sentence without one word, not another wording.",
        "The router sees the prompt alone, in editing and in use.",
    ),
)
