"""Half fine-tuning: does leaving a random half of the weights alone keep what a model knew?

Claim: setting part of a fine-tuned model's weights back to their old values brings back old
knowledge; so a randomly chosen half of the weights is trained in each stage and the rest is left as
it is, which forgets less than training all of them, learns as much, and takes less time.

Source: Hui et al., "HFT: Half Fine-Tuning for Large Language Models" (2024).

Run: a small Llama that knows Python's documentation (English) learns Python's source, and then a
task of short answers. Arms: all weights, also at half the learning rate; half of them, drawn
balanced over every block's matrices (HFT), over whole blocks, or over matrices wherever they are;
the exact other half in the second stage; all and half of them with the embeddings frozen, which are
a large part of so small a model; and all weights pulled to where they started. Losses are followed
all the way, so that arms are also compared where they have learned as much. From what full
fine-tuning gives after the first stage, more and more is set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.evaluation import mean_loss
from holdfast.learner import Learner, Observer
from holdfast.merge.half_reset import half_reset_curve
from holdfast.method import Method
from holdfast.methods import HFT, L2, Finetune
from holdfast.stream import Experience, Stream
from holdfast.streams.language import python
from holdfast.streams.language.corpora import corpora
from holdfast.studies import text_abilities
from holdfast.studies.controls import Watch, cut_at_equal_new_loss, cut_at_equal_updates
from holdfast.studies.grads import base_model
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

FULL, SLOW, HALF, BOUND = "full", "full, half rate", "HFT", "L2 to the start"

ARMS: dict[str, Mapping[str, Any]] = {
    FULL: {"reset": True},
    SLOW: {"rate": 0.5},
    HALF: {"method": "hft", "timed": True},
    "HFT, whole blocks": {"method": "hft", "level": "layer"},
    "HFT, anywhere": {"method": "hft", "level": "model"},
    "HFT, the other half next": {"method": "hft", "complement": True},
    "full, embeddings frozen": {"embeddings": "freeze"},
    "HFT, embeddings frozen": {"method": "hft", "embeddings": "freeze"},
    BOUND: {"method": "l2"},
}
"""What each arm changes of training all weights; `rate` is a factor."""

RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the weights that are set back."""

BLOCK = 4
"""Updates of one side before the other's turn, when a step is timed."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, changed by every arm.

    Learning rate, sizes of both stages and the strength of the pull were fixed on seed 100, which
    no verdict uses: the rate so that full fine-tuning learns both and clearly forgets, the strength
    so that about as much is learned as with half of the weights.
    """
    quick = scale == "quick"
    task = "intents" if scale == "data" else "topics"
    base: Settings = {
        "stream": f"documentation, then source, then {task}",
        "method": "finetune",
        "level": "category",
        "complement": False,
        "embeddings": "train",
        "strength": 0.01,
        "size": "random" if quick else "0.5M",
        "updates": 4 if quick else 120,
        "rows": 2 if quick else 8,
        "task": task,
        "examples": 24 if quick else 640,
        "epochs": 1 if quick else 2,
        "lr": 1e-3,
        "rate": 1.0,
        "test": 8 if quick else 200,
        "probe": 2 if quick else 32,
        "draws": 1 if quick else 6,
        "pairs": 2 if quick else 8,
        "reset": False,
        "timed": False,
    }
    return {arm: {**base, **changes} for arm, changes in ARMS.items()}


def measure(settings: Settings, seed: int) -> Measured:
    """One arm: losses through both stages, what the task is answered, and what a step took."""
    model, _ = base_model(settings["size"])
    stream, tests = stages(settings, seed)
    tuned = deepcopy(model)
    if settings["embeddings"] == "freeze":
        tuned.get_input_embeddings().requires_grad_(False)
    learner = learner_of(tuned, settings, method_of(settings, seed), seed)
    learner.start(stream)
    planned = sum(len(e.train) * (e.epochs or 1) // settings["rows"] for e in stream)
    watch = Watch(tests, every=max(1, planned // 24))
    watch.look(learner)
    resets = Resets(model.state_dict(), tests, range(settings["draws"] if settings["reset"] else 0))
    record = learner.learn(stream, [watch, resets])
    first = record.steps[0]
    code = [point for point in watch.way if point["update"] <= first]
    task = [point for point in watch.way if point["update"] >= first]
    drawn = [note["hft"] for note in record.notes if "hft" in note]
    return {
        "way": _trade(code, "code"),
        "task_way": _trade(task, "task"),
        "english": code[-1]["english"] - code[0]["english"],
        "english_end": task[-1]["english"] - code[0]["english"],
        "code": code[-1]["code"],
        "code_forgotten": task[-1]["code"] - task[0]["code"],
        "task": text_abilities.exact_match(learner.model, tests["task"]),
        "ratios": [half["ratio"] for half in drawn],
        "trained": [half["trained"] / half["parameters"] for half in drawn],
        "flops": record.cost["flops"] / record.cost["steps"],
        "resets": resets.points,
        "step_time": step_time(model, stream, settings, seed) if settings["timed"] else None,
    }


def stages(settings: Settings, seed: int) -> tuple[Stream, dict[str, Table]]:
    """Source code and then a task, as a stream; what losses are followed on, English included."""
    names = ("size", "updates", "rows", "task", "examples", "epochs", "test", "probe")
    stream, tests = _stages(tuple((name, settings[name]) for name in names), seed)
    return stream, dict(tests)


@lru_cache(maxsize=1)  # all arms of a seed learn the same
def _stages(given: tuple[tuple[str, Any], ...], seed: int) -> tuple[Stream, dict[str, Table]]:
    settings = dict(given)
    _, tokenizer = base_model(settings["size"])
    code = corpora(
        [("code", python.source)],
        tokenizer,
        seed=seed,
        length=128,
        limit=settings["updates"] * settings["rows"],
        test_limit=settings["probe"],
    )[0]
    task = text_abilities.ability(settings["task"], settings["examples"], settings["test"], seed)
    train, test = task.tables(tokenizer)
    second = Experience(1, train, test, (), task.name, epochs=settings["epochs"])
    english = text_abilities.texts(python.documentation, tokenizer, settings["probe"])
    tests = {"english": english, "code": code.test, "task": test}
    return Stream("code, then a task", [code, second], "text", 0, ()), tests


def method_of(settings: Settings, seed: int) -> Method:
    if settings["method"] == "l2":
        return L2(settings["strength"])
    if settings["method"] == "finetune":
        return Finetune()
    return HFT(
        level=settings["level"],
        complement=settings["complement"],
        embeddings=settings["embeddings"],
        seed=seed,
    )


def learner_of(model: Any, settings: Settings, method: Method, seed: int) -> Learner:
    rate = settings["lr"] * settings["rate"]
    return Learner(
        model,
        method,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=0.0),
        batch_size=settings["rows"],
        clip=1.0,
        pretrained=True,
        seed=seed,
    )


class Resets(Observer):
    """Sets more and more of the model back after the first stage, and looks at old and new.

    Args:
        base: Weights from before.
        tests: `english` and `code`.
        draws: Seeds of the draws; none of them: nothing is done.
    """

    def __init__(self, base: Mapping[str, Tensor], tests: Mapping[str, Table], draws: range):
        self.base, self.tests, self.draws = base, tests, draws
        self.points: list[dict[str, float]] = []

    def on_experience(self, learner: Learner) -> None:
        if learner.experience.index or not self.draws:
            return
        self.points = half_reset_curve(
            learner.model,
            self.base,
            lambda _: {n: mean_loss(learner, self.tests[n]) for n in ("english", "code")},
            ratios=RATIOS,
            seeds=self.draws,
        )


def step_time(model: Any, stream: Stream, settings: Settings, seed: int) -> float:
    """Processor seconds of an update with half the weights, by those with all: median of pairs.

    Blocks of a few updates on the same batch take turns in one process, so that whatever else the
    machine does meets both.
    """
    learners = []
    for method in (Finetune(), HFT(seed=seed)):
        learner = learner_of(deepcopy(model), settings, method, seed)
        learner.start(stream)
        learner.begin(stream[0])
        learners.append(learner)
    batch = stream[0].train.take(slice(0, settings["rows"])).columns
    spent: tuple[list[float], list[float]] = ([], [])
    for pair in range(settings["pairs"] + 1):
        for side in (0, 1) if pair % 2 else (1, 0):
            before = time.process_time()
            for _ in range(BLOCK):
                learners[side].update(batch)
            if pair:  # the first is to warm up
                spent[side].append(time.process_time() - before)
    return float(np.median([half / full for full, half in zip(*spent, strict=True)]))


def _trade(way: Sequence[Mapping[str, float]], new: str) -> list[dict[str, float]]:
    """A way as the controls read it: what was known against what is learned."""
    return [{"update": p["update"], "old": p["english"], "new": p[new]} for p in way]


def _cut(arm: str, other: str, equal: str = "loss", bound: float = 0.0) -> Condition:
    rule = cut_at_equal_new_loss if equal == "loss" else cut_at_equal_updates
    words = "at equal loss on code" if equal == "loss" else "after equal updates"
    return Condition(
        f"share of the rise of English loss under {other} that {arm} avoids, {words}",
        lambda results: rule(results, arm, other),
        bound,
    )


def _ratio(what: str, key: str, arm: str, other: str, most: float) -> Condition:
    return Condition(
        f"{what}: {arm} over {other}, relative",
        lambda results: [
            a / b - 1
            for a, b in zip(results.values(arm, key), results.values(other, key), strict=True)
        ],
        most,
        "below",
    )


def _less(what: str, key: str, arm: str, other: str) -> Condition:
    return Condition(
        f"{what} (nats): {other} minus {arm}",
        lambda results: results.less(other, arm, key),
        percent=False,
    )


def _curve(run: Measured, name: str) -> list[float]:
    """Mean loss over draws by share set back."""
    return [float(np.mean([p[name] for p in run["resets"] if p["ratio"] == r])) for r in RATIOS]


def _steps(name: str, sign: int) -> Callable[[Results], list[float]]:
    """By seed, the least change of a loss from one share to the next, in the direction given."""
    return lambda results: [
        float(np.min(sign * np.diff(_curve(run, name)))) for run in results.runs[FULL]
    ]


def _at_half(name: str) -> Callable[[Results], list[float]]:
    """By seed, how far a loss has gone back at about half, from tuned (0) to before (1)."""

    def measured(results: Results) -> list[float]:
        curves = [_curve(run, name) for run in results.runs[FULL]]
        halfway = [float(np.interp(0.5, RATIOS, curve)) for curve in curves]
        return [(c[0] - h) / (c[0] - c[-1]) for c, h in zip(curves, halfway, strict=True)]

    return measured


CLAIMS = (
    Claim(
        "Setting half of the tuned weights back brings old knowledge back, and keeps some of the "
        "new.",
        (
            Condition("share of the lost English that is back at half", _at_half("english"), 0.25),
            Condition(
                "share of the learned code that is gone at half", _at_half("code"), 0.75, "below"
            ),
        ),
    ),
    Claim(
        "The more is set back, the more of the old and the less of the new is there.",
        (
            Condition(
                "least fall of English loss for a fifth more (nats)",
                _steps("english", -1),
                percent=False,
            ),
            Condition(
                "least rise of code loss for a fifth more (nats)", _steps("code", 1), percent=False
            ),
        ),
        by="us",
    ),
    Claim(
        "Half fine-tuning forgets a fifth less, or better, than full fine-tuning.",
        (
            _cut(HALF, FULL, "updates", 0.2),
            Condition(
                "share of the rise of English loss after both stages that HFT avoids",
                lambda results: [
                    1 - a / b
                    for a, b in zip(
                        results.values(HALF, "english_end"),
                        results.values(FULL, "english_end"),
                        strict=True,
                    )
                ],
                0.2,
            ),
            _less("code forgotten in the second stage", "code_forgotten", HALF, FULL),
        ),
    ),
    Claim(
        "It learns as much.",
        (
            _ratio("loss on code", "code", HALF, FULL, 0.03),
            Condition(
                "exact match in the task: HFT minus full",
                lambda results: results.less(HALF, FULL, "task"),
                -0.03,
            ),
        ),
    ),
    Claim(
        "It forgets less for an interesting reason: also where as much is learned, and also than "
        "full fine-tuning at half the learning rate.",
        (_cut(HALF, FULL), _cut(HALF, SLOW, "updates"), _cut(HALF, SLOW)),
        by="us",
    ),
    Claim(
        "Leaving half alone does better than pulling all to the start.",
        (_cut(HALF, BOUND),),
        by="us",
    ),
    Claim(
        "Drawing from every block and category does better than drawing whole blocks, or matrices "
        "anywhere.",
        (_cut(HALF, "HFT, whole blocks"), _cut(HALF, "HFT, anywhere")),
    ),
    Claim(
        "Training exactly the other half next keeps more of the first stage than drawing anew.",
        (
            _less(
                "code forgotten in the second stage",
                "code_forgotten",
                "HFT, the other half next",
                HALF,
            ),
        ),
        by="us",
    ),
    Claim(
        "Where the embeddings are frozen, too, half of the rest forgets less than all of it.",
        (
            _cut("HFT, embeddings frozen", "full, embeddings frozen", "updates", 0.2),
            _cut("HFT, embeddings frozen", "full, embeddings frozen"),
        ),
        by="us",
    ),
    Claim(
        "A step takes at least a tenth less time.",
        (
            Condition(
                "processor seconds of a step: HFT over full, relative",
                lambda results: [ratio - 1 for ratio in results.values(HALF, "step_time")],
                -0.1,
                "below",
            ),
            _ratio("operations of a step", "flops", HALF, FULL, -0.1),
        ),
    ),
)


def grids(results: Results) -> list[Grid]:
    """What every arm forgot and learned, and the half-reset."""
    rows = []
    for arm, runs in results.runs.items():
        ratios = [float(np.mean(run["ratios"])) if run["ratios"] else 1.0 for run in runs]
        trained = [float(np.mean(run["trained"])) if run["trained"] else 1.0 for run in runs]
        cells = [shown(results.values(arm, key), percent=False) for key in LOSSES]
        whole = zip(results.values(arm, "flops"), results.values(FULL, "flops"), strict=True)
        cells += [shown(results.values(arm, "task")), shown(ratios), shown(trained)]
        rows.append((arm, *cells, shown([a / b for a, b in whole])))
    curves = [(_curve(run, "english"), _curve(run, "code")) for run in results.runs[FULL]]
    return [
        Grid(
            "Losses in nats a token; exact match, shares of weights and of operations in percent",
            ("arm", *LOSSES.values(), "task", "of blocks", "of all weights", "operations"),
            tuple(rows),
        ),
        Grid(
            "Full fine-tuning after the first stage, a share set back: losses in nats a token",
            ("share set back", "English", "code"),
            tuple(
                (
                    f"{100 * ratio:.0f} %",
                    *(shown([curve[k][i] for curve in curves], percent=False) for k in (0, 1)),
                )
                for i, ratio in enumerate(RATIOS)
            ),
        ),
    ]


LOSSES = {
    "english": "English rise, stage 1",
    "english_end": "English rise, both",
    "code": "code loss",
    "code_forgotten": "code forgotten",
}


def figures(results: Results) -> list[Figure]:
    """Losses through the first stage, and the trade-off of the half-reset."""
    followed = (FULL, SLOW, HALF, "HFT, whole blocks", BOUND)
    ways = [
        Panel(
            title,
            "update of the first stage",
            "nats a token",
            [_line(results, arm, key) for arm in followed],
            y_range=_span(results, followed, key),
        )
        for title, key in (("English", "old"), ("code", "new"))
    ]
    curves = {n: [_curve(run, n) for run in results.runs[FULL]] for n in ("english", "code")}
    bounds = [value for found in curves.values() for curve in found for value in curve]
    series = []
    for name, found in curves.items():
        series.append(over_seeds(name, RATIOS, zip(*found, strict=True)))
    reset = Panel(
        "loss by share set back",
        "share of the weights set back",
        "nats a token",
        series,
        y_range=(min(bounds) - 0.1, max(bounds) + 0.1),
    )
    return [
        Figure("way", "Held-out losses while code is learned (mean over seeds, 95 %).", draw(ways)),
        Figure("reset", "The half-reset of the fully fine-tuned model.", draw([reset])),
    ]


def _line(results: Results, arm: str, key: str) -> Series:
    ways = [run["way"] for run in results.runs[arm]]
    points = [[p[key] for p in at] for at in zip(*ways, strict=True)]
    return over_seeds(arm, [point["update"] for point in ways[0]], points)


def _span(results: Results, chosen: Sequence[str], key: str) -> tuple[float, float]:
    found = [p[key] for arm in chosen for run in results.runs[arm] for p in run["way"]]
    return min(found) - 0.1, max(found) + 0.1


STUDY = Study(
    name="hft",
    title="HFT: Half Fine-Tuning for Large Language Models",
    source="Hui et al., 2024",
    claim=(
        "Training a random half of the weights in each stage forgets less than training all, "
        "learns as much and takes less time."
    ),
    minutes={"data": 14, "digits": 14, "quick": 0.5},
    data=("clinc150/train.jsonl.gz",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of half a million weights that learns source code and a task of short answers; "
        "the paper has models of 7 and 13 billion weights, instructions, preferences and TRACE.",
        "What was known is held-out loss on Python's documentation, not general benchmarks.",
        "The rate is constant, so that points along the way can be compared.",
        "Embeddings are a fifth of this model's weights, of the paper's models a fiftieth; they "
        "are trained in all arms that do not say otherwise.",
        "The paper reports about 30 % less time; by counting operations, freezing half of the "
        "blocks cannot save more than a sixth of forward and backward passes. Steps of a larger "
        "model are timed by benchmarks/hft.py.",
    ),
)
