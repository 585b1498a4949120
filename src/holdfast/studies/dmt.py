"""DMT: how abilities should be composed in supervised fine-tuning.

Claim: mixing abilities helps where data are few and hurts where they are many; training on one
after another forgets the first; special abilities first, then the general one with a little of
them, keeps all of them.

Source: Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning
Data Composition" (2024).

Run: a small Llama that knows Python's documentation learns three abilities, each scored by exact
match: the name that is called next in the standard library's source (code), what a bank's customer
asks for (questions), and, as the general ability, the intent of what is said to an assistant. Arms:
each alone, all at once, one after another, special ones together and then the general one, the same
with a share k of the special ones in the second stage, and that in reverse; and each alone and all
at once on fractions of the data. Updates are reported beside epochs, since DMT sees some examples
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast.data import Table
from holdfast.language.stages import StageResult, train_stages
from holdfast.optim.schedules import StepSchedule, build
from holdfast.streams.language import python
from holdfast.streams.language.composition import Stage, stages, subset
from holdfast.studies import text_abilities
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
from holdfast.studies.svg import Panel, Series, draw

ARMS: dict[str, Mapping[str, Any]] = {
    "individual": {"strategy": "individual"},
    "multi-task": {"strategy": "multi-task"},
    "sequential": {"strategy": "sequential"},
    "sequential, half rate": {"strategy": "sequential", "rate": 0.5},
    "mixed sequential": {"strategy": "mixed-sequential"},
    "DMT 1/16": {"strategy": "dmt", "k": 1 / 16},
    "DMT 1/4": {"strategy": "dmt", "k": 1 / 4},
    "reverse 1/16": {"strategy": "dmt-reverse", "k": 1 / 16},
    "individual, fractions": {"strategy": "individual", "fractions": [1 / 4, 1 / 16, 1 / 64]},
    "multi-task, fractions": {"strategy": "multi-task", "fractions": [1 / 4, 1 / 16, 1 / 64]},
}
"""What each arm changes; `rate` is a factor."""

FRACTIONS = ("1/64", "1/16", "1/4", "1")
SPECIAL = ("code", "questions")
GENERAL = "general"
NAMES = (*SPECIAL, GENERAL)
_BUILT_IN = ("modules", "topics")


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, changed by every arm.

    The learning rate was fixed on seed 100, which no verdict uses, so that each ability alone is
    learned.
    """
    quick = scale == "quick"
    base: Settings = {
        "abilities": ["calls", *(("banking", "intents") if scale == "data" else _BUILT_IN)],
        "examples": [48, 32, 32] if quick else [1024, 512, 512],
        "test": 16 if quick else 160,
        "probe": 4 if quick else 16,
        "size": "random" if quick else "0.5M",
        "epochs": 1 if quick else 3,
        "batch_size": 8,
        "lr": 1e-3,
        "rate": 1.0,
        "k": 1 / 256,
        "fractions": [1.0],
    }
    return {arm: {**base, **changes} for arm, changes in ARMS.items()}


def measure(settings: Settings, seed: int) -> Measured:
    """One strategy: every ability after every stage, for every fraction of the data."""
    model, tokenizer = base_model(settings["size"])
    tables, tests = abilities(settings, seed, tokenizer)
    english = text_abilities.texts(python.documentation, tokenizer, settings["probe"])
    schedule = build("warmup_cosine(warmup=8, floor=0.1)")
    assert isinstance(schedule, StepSchedule)

    def score(trained: Any) -> dict[str, float]:
        found = {name: text_abilities.exact_match(trained, tests[name]) for name in NAMES}
        return {**found, "english": text_abilities.token_loss(trained, english)}

    runs = {}
    for fraction in settings["fractions"]:
        parts = {n: subset(t, fraction, seed, n) for n, t in tables.items()}
        plan = stages(
            settings["strategy"],
            {name: parts[name] for name in SPECIAL},
            parts[GENERAL],
            settings["k"],
            seed,
        )
        results = train_stages(
            deepcopy(model),
            plan,
            score,
            epochs=settings["epochs"],
            seed=seed,
            optimizer=partial(torch.optim.AdamW, lr=settings["lr"] * settings["rate"]),
            batch_size=settings["batch_size"],
            schedule=schedule,
            clip=1.0,
        )
        runs[_named(fraction)] = _outcome(settings["strategy"], plan, results)
    return {"base": score(model), "runs": runs}


def abilities(
    settings: Settings, seed: int, tokenizer: Any
) -> tuple[dict[str, Table], dict[str, Table]]:
    """Training and test tables by name, of the special abilities and of the general one."""
    tables: dict[str, Table] = {}
    tests: dict[str, Table] = {}
    for name, kind, rows in zip(NAMES, settings["abilities"], settings["examples"], strict=True):
        found = text_abilities.ability(kind, rows, settings["test"], seed)
        tables[name], tests[name] = found.tables(tokenizer)
    return tables, tests


def _outcome(strategy: str, plan: list[Stage], results: list[StageResult]) -> Measured:
    """What a strategy can do in the end: individual models each in their own ability."""
    final = dict(results[-1].scores)
    if strategy == "individual":
        final = {name: r.scores[name] for name, r in zip(NAMES, results, strict=True)}
        final["english"] = float(np.mean([r.scores["english"] for r in results]))
    return {
        "final": final,
        "special": float(np.mean([final[name] for name in SPECIAL])),
        "mean": float(np.mean([final[name] for name in NAMES])),
        "stages": [r._asdict() for r in results],
        "updates": sum(r.updates for r in results),
        "examples": sum(len(stage.table) for stage in plan),
    }


def _named(fraction: float) -> str:
    return "1" if fraction == 1 else f"1/{round(1 / fraction)}"


def _of(results: Results, arm: str, *path: str) -> list[float]:
    return results.values(arm, "runs", "1", *path)


def _gap(arm: str, other: str, *path: str) -> Condition:
    words = {"special": "mean of special abilities", "mean": "mean of all abilities"}
    what = words.get(path[-1], path[-1])
    return Condition(
        f"{what}: {arm} minus {other}",
        lambda results: [
            a - b for a, b in zip(_of(results, arm, *path), _of(results, other, *path), strict=True)
        ],
    )


def _kept(arm: str, name: str, bound: float, side: Any) -> Condition:
    """An ability at the end as a share of what its own model can."""
    return Condition(
        f"{name}: {arm} as a share of individual",
        lambda results: [
            a / b if b else float("nan")
            for a, b in zip(
                _of(results, arm, "final", name),
                _of(results, "individual", "final", name),
                strict=True,
            )
        ],
        bound,
        side,
    )


def _recovered(arm: str) -> Condition:
    """The part of the way from sequential training to individual models in special abilities."""

    def measured(results: Results) -> list[float]:
        low, high = (_of(results, a, "special") for a in ("sequential", "individual"))
        here = _of(results, arm, "special")
        rows = zip(here, low, high, strict=True)
        return [(m - a) / (b - a) if b > a else float("nan") for m, a, b in rows]

    return Condition(
        f"share of the gap from sequential to individual, special abilities: {arm}", measured, 0.5
    )


def _mixing(fraction: str, side: Any) -> Condition:
    """What mixing brings over each alone, as a mean over abilities."""

    def measured(results: Results) -> list[float]:
        ending = "" if fraction == "1" else ", fractions"
        both = (
            results.values(f"{arm}{ending}", "runs", fraction, "mean")
            for arm in ("multi-task", "individual")
        )
        return [a - b for a, b in zip(*both, strict=True)]

    return Condition(
        f"mean of all abilities: multi-task minus individual at {fraction} of the data",
        measured,
        side=side,
    )


def _slope(name: str) -> Condition:
    """Rise of an ability's score for four times the data, by least squares over the logarithm."""

    def measured(results: Results) -> list[float]:
        columns = [_amount(results, fraction, name) for fraction in FRACTIONS]
        rows = zip(*columns, strict=True)
        return [float(np.polyfit(range(len(FRACTIONS)), row, 1)[0]) for row in rows]

    return Condition(f"{name}: exact match gained for four times the data", measured)


def _amount(results: Results, fraction: str, name: str) -> list[float]:
    arm = "individual" if fraction == "1" else "individual, fractions"
    return results.values(arm, "runs", fraction, "final", name)


CLAIMS = (
    Claim(
        "Sequential training forgets the first ability.",
        (_kept("sequential", "code", 0.7, "below"),),
    ),
    Claim(
        "Mixed sequential training forgets the special abilities.",
        (
            _kept("mixed sequential", "code", 0.9, "below"),
            _gap("individual", "mixed sequential", "special"),
        ),
    ),
    Claim(
        "Special abilities first, then the general one with a share of them, keep both.",
        (
            _recovered("DMT 1/16"),
            _gap("DMT 1/16", "mixed sequential", "special"),
            Condition(
                "general: DMT 1/16 minus sequential",
                lambda results: [
                    a - b
                    for a, b in zip(
                        _of(results, "DMT 1/16", "final", GENERAL),
                        _of(results, "sequential", "final", GENERAL),
                        strict=True,
                    )
                ],
                -0.02,
            ),
        ),
    ),
    Claim(
        "A larger share keeps more of the special abilities.",
        (_gap("DMT 1/4", "DMT 1/16", "special"),),
    ),
    Claim(
        "Half the learning rate keeps less of the special abilities than a share of their data.",
        (_gap("DMT 1/16", "sequential, half rate", "special"),),
        by="us",
    ),
    Claim(
        "The order matters: special abilities first does better for the general one than last.",
        (_gap("DMT 1/16", "reverse 1/16", "final", GENERAL),),
        by="us",
    ),
    Claim(
        "Mixing helps where data are few, and hurts where they are many.",
        (_mixing("1/16", "above"), _mixing("1", "below")),
    ),
    Claim("Code keeps improving with data.", (_slope("code"),)),
    Claim(
        "The general ability improves less for more data than code does.",
        (
            Condition(
                "last quadrupling of the data: general minus code",
                lambda results: [
                    (g1 - g0) - (c1 - c0)
                    for g1, g0, c1, c0 in zip(
                        _amount(results, "1", GENERAL),
                        _amount(results, "1/4", GENERAL),
                        _amount(results, "1", "code"),
                        _amount(results, "1/4", "code"),
                        strict=True,
                    )
                ],
                side="below",
            ),
        ),
    ),
)


def grids(results: Results) -> list[Grid]:
    """Abilities by strategy with what they took, after each stage, and by amount of data."""
    whole = [arm for arm in results.runs if not arm.endswith("fractions")]
    final = Grid(
        "Exact match (%) in the end; loss on English documentation; updates made",
        ("arm", *NAMES, "special, mean", "English loss", "examples", "updates"),
        tuple(
            (
                arm,
                *(shown(_of(results, arm, "final", name)) for name in NAMES),
                shown(_of(results, arm, "special")),
                shown(_of(results, arm, "final", "english"), percent=False),
                f"{_of(results, arm, 'examples')[0]:.0f}",
                f"{_of(results, arm, 'updates')[0]:.0f}",
            )
            for arm in whole
        ),
    )
    rows = []
    for arm in whole:
        for place, stage in enumerate(results.runs[arm][0]["runs"]["1"]["stages"]):
            runs = [run["runs"]["1"]["stages"][place] for run in results.runs[arm]]
            cells = [shown([run["scores"][name] for run in runs]) for name in NAMES]
            tokens = sum(stage["tokens"].values())
            rows.append((arm, stage["stage"], *cells, str(tokens), str(stage["updates"])))
    by_stage = Grid(
        "Exact match (%) after each stage; labelled tokens a time through and updates",
        ("arm", "stage", *NAMES, "tokens", "updates"),
        tuple(rows),
    )
    amounts = Grid(
        "Exact match (%) by fraction of the data",
        ("arm", "ability", *FRACTIONS),
        tuple(
            (
                arm,
                name,
                *(
                    shown(
                        results.values(
                            arm if fraction == "1" else f"{arm}, fractions",
                            "runs",
                            fraction,
                            "final",
                            name,
                        )
                    )
                    for fraction in FRACTIONS
                ),
            )
            for arm in ("individual", "multi-task")
            for name in NAMES
        ),
    )
    return [final, by_stage, amounts]


def figures(results: Results) -> list[Figure]:
    """Special against general ability by strategy, and abilities by amount of data."""
    whole = [arm for arm in results.runs if not arm.endswith("fractions")]
    places = list(range(len(whole)))
    strategies = Panel(
        "abilities by strategy",
        "",
        "exact match (%)",
        [
            Series(label, places, [100 * float(np.mean(_of(results, arm, *path))) for arm in whole])
            for label, path in (("special", ("special",)), ("general", ("final", GENERAL)))
        ],
        names=whole,
        y_range=(0, 100),
    )
    amounts = Panel(
        "each ability alone",
        "fraction of the data",
        "exact match (%)",
        [
            Series(
                name,
                list(range(len(FRACTIONS))),
                [100 * float(np.mean(_amount(results, f, name))) for f in FRACTIONS],
            )
            for name in NAMES
        ],
        names=list(FRACTIONS),
        y_range=(0, 100),
    )
    return [
        Figure("strategies", "Special and general abilities in the end.", draw([strategies])),
        Figure("amounts", "Each ability by how much of its data is learned.", draw([amounts])),
    ]


STUDY = Study(
    name="dmt",
    title=(
        "How Abilities in Large Language Models are Affected by Supervised Fine-tuning Data "
        "Composition"
    ),
    source="Dong et al., 2024",
    claim=(
        "Special abilities first, then the general one with a little of them, keep what training "
        "on one after another forgets."
    ),
    minutes={"data": 13, "digits": 13, "quick": 0.6},
    data=("banking77/train.jsonl.gz", "clinc150/train.jsonl.gz"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of half a million weights, and two thousand short examples; the paper has "
        "models of 7 to 33 billion weights, mathematics, code and chats. One size of model only.",
        "Code is the name, of 16, that is called next in a line of the standard library, scored by "
        "exact match; programs are not written, nor run.",
        "Shares k of 1/16 and 1/4: 1/256 of so few examples would be two or four.",
        "Every stage is gone through three times, with a warm-up and half a cosine of its own.",
        "How the representations of the abilities lie to one another is not looked at.",
    ),
)
