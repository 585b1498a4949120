"""GrADS: do examples' gradients tell which to fine-tune on?

Claim: after a short preliminary training, per-example gradients choose a subset by their size and
their distribution; 5 % of the data so chosen already beats all of it, 50 % is better still, and
less is forgotten.

Source: "Learn More, Forget Less: A Gradient-Aware Data Selection Approach for LLM" (2025).

Run: a small Llama that knows Python's documentation learns customers' questions with their intents
in words, of which 15 % are wrong on purpose. Arms: chosen by GrADS, by size of the gradient alone,
by loss, by chance; all of them, also at half the learning rate; the same without wrong answers; and
by GrADS from the model as it comes, without the preliminary epoch. Small subsets make fewer
updates, and fewer updates forget less by themselves: so every arm is also trained for as many
steps as on all examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch

from holdfast.data import Table
from holdfast.language import example_scores
from holdfast.language.selection import landscape, select
from holdfast.learner import Learner
from holdfast.stream import Experience, Stream
from holdfast.streams.language import python
from holdfast.studies import text_abilities
from holdfast.studies.controls import Watch, cut_at_equal_new_loss
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

ARMS: dict[str, Mapping[str, Any]] = {
    "GrADS": {"rule": "grads"},
    "magnitude": {"rule": "topk_magnitude"},
    "loss": {"rule": "loss"},
    "random": {"rule": "random"},
    "full": {"rule": "full"},
    "full, half rate": {"rule": "full", "rate": 0.5},
    "GrADS, no preliminary epoch": {"rule": "grads", "preliminary": 0},
    "GrADS, length taken away": {"rule": "grads", "regress_length": True},
    "GrADS, clean": {"rule": "grads", "corrupted": 0.0},
    "random, clean": {"rule": "random", "corrupted": 0.0},
    "full, clean": {"rule": "full", "corrupted": 0.0},
}
"""What each arm changes; `rate` is a factor."""

BUDGETS = ("5 %", "20 %", "50 %", "self")
MATCHED = "20 %, equal steps"
CHOOSING = tuple(arm for arm, changes in ARMS.items() if changes["rule"] != "full")


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, changed by every arm.

    The learning rate was fixed on seed 100, which no verdict uses, so that training on all clean
    examples learns the task.
    """
    quick = scale == "quick"
    base: Settings = {
        "ability": {"data": "banking", "digits": "modules", "quick": "topics"}[scale],
        "answers": 8,
        "examples": 60 if quick else 800,
        "test": 20 if quick else 160,
        "probe": 4 if quick else 12,
        "size": "random" if quick else "0.5M",
        "corrupted": 0.15,
        "preliminary": 1,
        "regress_length": False,
        "epochs": 1 if quick else 3,
        "batch_size": 8,
        "lr": 1e-3,
        "rate": 1.0,
    }
    return {arm: {**base, **changes} for arm, changes in ARMS.items()}


def measure(settings: Settings, seed: int) -> Measured:
    """One rule: a choice for every budget from one set of scores, and a training on each."""
    model, tokenizer = base_model(settings["size"])
    found = text_abilities.ability(
        settings["ability"], settings["examples"], settings["test"], seed, settings["answers"]
    )
    samples, wrong = text_abilities.corrupted(
        found.train, found.answers, settings["corrupted"], seed
    )
    table = text_abilities.tabled(samples, tokenizer)
    probes = {
        "new": text_abilities.tabled(found.test, tokenizer),
        "old": text_abilities.texts(python.documentation, tokenizer, settings["probe"]),
        "code": text_abilities.texts(python.source, tokenizer, settings["probe"]),
    }
    choices: dict[str, torch.Tensor] = {}
    correlation = None
    if settings["rule"] == "full":
        choices["all"] = torch.arange(len(table))
    else:
        scorer = deepcopy(model)
        if settings["preliminary"]:
            train(scorer, table, settings, seed + 500, settings["preliminary"], {})
        scores = example_scores.score(scorer, table)
        correlation = landscape(scores).length_correlation
        rule = settings["rule"]
        for name, budget in zip(BUDGETS, (0.05, 0.2, 0.5, None), strict=True):
            choices[name] = select(
                scores, budget, rule, seed=seed, regress_length=settings["regress_length"]
            )
        repeated = choices["20 %"].repeat(5)[: len(table)]
        choices[MATCHED] = repeated
    runs = {}
    for name, rows in choices.items():
        if name == "self" and settings["rule"] != "grads":
            continue
        trained = deepcopy(model)
        way = train(trained, table.take(rows), settings, seed, settings["epochs"], probes)
        chosen = set(rows.tolist())
        runs[name] = {
            "accuracy": text_abilities.exact_match(trained, probes["new"]),
            "rise": way[-1]["old"] - way[0]["old"],
            "code_rise": way[-1]["code"] - way[0]["code"],
            "wrong": sum(wrong[row] for row in chosen) / len(chosen),
            "share": len(chosen) / len(table),
            "updates": way[-1]["update"],
            "way": way,
        }
    return {"runs": runs, "length_correlation": correlation}


def train(
    model: Any,
    table: Table,
    settings: Settings,
    seed: int,
    epochs: int,
    probes: Mapping[str, Table],
) -> list[dict[str, float]]:
    """Train the model in place; losses on the probes before, on the way and after."""
    learner = Learner(
        model,
        optimizer=partial(torch.optim.AdamW, lr=settings["lr"] * settings["rate"]),
        epochs=epochs,
        batch_size=settings["batch_size"],
        clip=1.0,
        pretrained=True,
        seed=seed,
    )
    experience = Experience(0, table, table.take(slice(0, 1)), (), "task")
    learner.start(Stream("task", [experience], "text", 0, ()))
    with learner.chance.mine():
        learner.begin(experience)
        watch = Watch(probes, every=max(10, learner.planned // 5))
        if probes:
            watch.look(learner)
        learner.train([watch] if probes else [])
    learner.check_losses()
    return watch.way


@cache
def base_model(size: str) -> tuple[Any, Any]:
    """A model of the zoo and its tokenizer; `"random"`: weights as they are at first."""
    from holdfast.models import zoo

    if size == "random":
        words = zoo.tokenizer()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return zoo.untrained(zoo.Recipe(width=32, depth=2, heads=2), words), words
    loaded = zoo.small_llama(size)
    return loaded.model, loaded.tokenizer


def _of(results: Results, arm: str, budget: str, what: str) -> list[float]:
    key = "all" if arm.startswith("full") else budget
    return results.values(arm, "runs", key, what)


def _gap(what: str, arm: str, budget: str, other: str, its: str = "") -> Condition:
    words = {"accuracy": "accuracy", "wrong": "wrong answers chosen", "rise": "loss of English"}
    its = its or budget
    there = "" if other.startswith("full") else f" at {its}"
    return Condition(
        f"{words[what]}: {arm} at {budget} minus {other}{there}",
        lambda results: [
            a - b
            for a, b in zip(
                _of(results, arm, budget, what), _of(results, other, its, what), strict=True
            )
        ],
        side="above" if what == "accuracy" else "below",
        percent=what != "rise",
    )


def _cut(arm: str, budget: str, other: str) -> Condition:
    """Forgetting avoided at equal loss on the new task."""

    def measured(results: Results) -> list[float]:
        ways = {
            "one": [run["runs"][budget] for run in results.runs[arm]],
            "other": [
                run["runs"]["all" if other.startswith("full") else budget]
                for run in results.runs[other]
            ],
        }
        return cut_at_equal_new_loss(Results(ways), "one", "other")

    return Condition(
        f"share of {other}'s loss of English that {arm} at {budget} avoids at equal new-task loss",
        measured,
    )


CLAIMS = (
    Claim(
        "5 % of the data, chosen so, beat training on all of them.",
        (_gap("accuracy", "GrADS", "5 %", "full"),),
    ),
    Claim(
        "50 % beat training on all data, and 5 %.",
        (
            _gap("accuracy", "GrADS", "50 %", "full"),
            _gap("accuracy", "GrADS", "50 %", "GrADS", "5 %"),
        ),
    ),
    Claim(
        "Less is forgotten than in training on all data.",
        (_gap("rise", "GrADS", "20 %", "full"), _gap("rise", "GrADS", "50 %", "full")),
    ),
    Claim(
        "Less is forgotten also where as many updates are made, or the new task is learned as well "
        "(so that it is not the number of updates).",
        (
            _gap("rise", "GrADS", MATCHED, "full"),
            _cut("GrADS", MATCHED, "full"),
            _cut("GrADS", "50 %", "full, half rate"),
        ),
        by="us",
    ),
    Claim(
        "Less is forgotten than with as many examples chosen by chance.",
        (_gap("rise", "GrADS", "20 %", "random"), _gap("rise", "GrADS", MATCHED, "random")),
        by="us",
    ),
    Claim(
        "Fewer wrong answers are chosen than by the size of the gradient or of the loss, and than "
        "by chance.",
        (
            _gap("wrong", "GrADS", "20 %", "magnitude"),
            _gap("wrong", "GrADS", "20 %", "loss"),
            _gap("wrong", "GrADS", "20 %", "random"),
            _gap("wrong", "GrADS", "50 %", "random"),
        ),
        by="us",
    ),
    Claim(
        "It does better than chance at 20 % and at 50 %.",
        (
            _gap("accuracy", "GrADS", "20 %", "random"),
            _gap("accuracy", "GrADS", "50 %", "random"),
            _gap("accuracy", "GrADS", MATCHED, "random"),
        ),
        by="us",
    ),
    Claim(
        "Without wrong answers, too, it does better than chance.",
        (
            _gap("accuracy", "GrADS, clean", "20 %", "random, clean"),
            _gap("accuracy", "GrADS, clean", "50 %", "random, clean"),
        ),
        by="us",
    ),
    Claim(
        "Where short answers have larger gradients, taking that away chooses better.",
        (
            Condition(
                "correlation of scores and lengths",
                lambda results: results.values("GrADS", "length_correlation"),
                side="below",
                percent=False,
            ),
            _gap("accuracy", "GrADS, length taken away", "20 %", "GrADS"),
        ),
        by="us",
    ),
    Claim(
        "Scores after a preliminary epoch choose better than those of the model as it comes.",
        (
            _gap("accuracy", "GrADS", "20 %", "GrADS, no preliminary epoch"),
            _gap("wrong", "GrADS", "20 %", "GrADS, no preliminary epoch"),
        ),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """Accuracy, forgetting and wrong answers by arm and budget."""
    columns = ("5 %", "20 %", "50 %", MATCHED, "self")

    def cells(arm: str, what: str, percent: bool) -> tuple[str, ...]:
        runs = results.runs[arm][0]["runs"]
        if "all" in runs:
            return ("-",) * len(columns) + (shown(_of(results, arm, "all", what), percent),)
        named = [
            shown(_of(results, arm, name, what), percent) if name in runs else "-"
            for name in columns
        ]
        return (*named, "-")

    tables = (
        ("Exact match on held-out questions (%)", "accuracy", True),
        ("Rise of the loss on English documentation (nats a token)", "rise", False),
        ("Rise of the loss on Python source (nats a token)", "code_rise", False),
        ("Wrong answers among those chosen (%)", "wrong", True),
        ("Share of all examples (%)", "share", True),
        ("Updates", "updates", False),
    )
    return [
        Grid(
            title,
            ("arm", *columns, "all"),
            tuple((arm, *cells(arm, what, percent)) for arm in results.runs),
        )
        for title, what, percent in tables
    ]


def figures(results: Results) -> list[Figure]:
    """Accuracy and share of wrong answers by budget."""
    places = [0, 1, 2]

    def panel(title: str, what: str, arms: Sequence[str]) -> Panel:
        series = []
        for arm in arms:
            values = [_of(results, arm, budget, what) for budget in BUDGETS[:3]]
            means = [100 * sum(v) / len(v) for v in values]
            series.append(Series(arm, places, means))
        return Panel(title, "chosen", "%", series, names=list(BUDGETS[:3]), y_range=(0, 100))

    shown_arms = ("GrADS", "magnitude", "loss", "random", "full")
    return [
        Figure(
            "accuracy",
            "Exact match on held-out questions by share of the examples chosen; full: all of them.",
            draw([panel("exact match", "accuracy", shown_arms)]),
        ),
        Figure(
            "wrong",
            "Wrong answers among the examples chosen; 15 % of all are wrong.",
            draw([panel("wrong answers", "wrong", shown_arms[:4])]),
        ),
    ]


STUDY = Study(
    name="grads",
    title="Learn More, Forget Less: A Gradient-Aware Data Selection Approach for LLM",
    source="2025",
    claim=(
        "Gradients after a short preliminary training choose a small part of the data, on which "
        "fine-tuning learns more and forgets less than on all of them."
    ),
    minutes={"data": 21, "digits": 21, "quick": 0.6},
    data=("banking77/train.jsonl.gz",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of half a million weights and 800 examples of 8 intents; the paper fine-tunes "
        "models of 7 billion weights on medicine, law and finance.",
        "The paper's formulas were not at hand: how the two gradients are combined, and the window "
        "in which examples are preferred, are ours.",
        "15 % of the answers are wrong on purpose, so that there is something to reject; arms "
        "called clean have none.",
        "The order of the examples differs between arms, as their number does; all budgets of an "
        "arm are chosen from one set of scores.",
    ),
)
