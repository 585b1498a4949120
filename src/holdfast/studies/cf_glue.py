"""Forgetting across models and prompts: what a model has lost, and what it only no longer says.

Claim: language models fine-tuned on one classification task after another forget to very different
degrees; prompts matter for it.

Source: Haque, "Catastrophic forgetting in LLMs: a comparative analysis across language tasks"
(2025); the design is ours where its abstract does not say.

Run: three small models of the zoo (Llamas of 0.5M and 1.4M weights, a GPT-2 of 1.4M) with one
recipe, the same examples and the same seeds. Every task is scored before training and after each
task, by what the model writes and by which label it finds likeliest, always greedily. The level of
the prompt is an arm; before and after training, models are asked with other prompts than they were
trained with, too. Each task alone and all together bound what the models can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast import catalogue
from holdfast.learner import Learner
from holdfast.metrics import interval
from holdfast.run import pretrained
from holdfast.stream import Stream
from holdfast.streams.language.labelled import labelled
from holdfast.streams.language.tasks import text_tasks
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

MODELS = {
    "Llama 0.5M": "llama(width=96, context=512)",
    "Llama 1.4M": "llama(width=160, context=512)",
    "GPT-2 1.4M": "gpt2(width=160, context=512)",
}
BASE = "Llama 0.5M"

MEASURES = ("written", "written_error", "chosen", "chosen_error", "normalised", "unparsable")

ARMS: dict[str, Mapping[str, Any]] = {
    **{name: {"model": spec} for name, spec in MODELS.items()},
    **{f"{name}, together": {"model": spec, "method": "joint"} for name, spec in MODELS.items()},
    **{f"{name}, alone": {"model": spec, "alone": True} for name, spec in MODELS.items()},
    "P0": {"prompt": 0},
    "P3": {"prompt": 3},
    "other order": {"reversed": True},
    "GLUE": {"glue": True},
}
"""What each arm changes of the smaller Llama with prompts of level 2."""

PROMPTS = ("P0", BASE, "P3")
"""Arms that differ in the prompt they are trained with."""

ASKED = (0, 3, 4)
"""Levels of prompts that a model trained with level 2 is asked with, too."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The smaller Llama with prompts of level 2 at a scale, changed by every arm.

    Tasks, numbers of examples and their length were fixed on seed 100, which no verdict uses, so
    that the smaller Llama learns every task beyond always giving its commonest label; the learning
    rate, so that the three models together learn most. On GLUE that was not to be had: pairs of
    sentences are shown whole, and fewer of them.
    """
    base: Settings = {
        "stream": "tasks with labels in sequence",
        "model": MODELS[BASE],
        "tasks": {
            "data": ["package", "trec", "clinc"],
            "digits": ["package", "kind", "returns"],
            "quick": ["package", "kind"],
        }[scale],
        "prompt": 2,
        "asked": [],
        "reversed": False,
        "alone": False,
        "glue": False,
        "method": "finetune",
        "characters": 100,
        "decoding": "greedy",
        "limit": 8 if scale == "quick" else 1000,
        "test_limit": 4 if scale == "quick" else 60,
        "epochs": 1 if scale == "quick" else 2,
        "batch_size": 8,
        "lr": 5e-4,
        "length": 512,
    }
    found = {arm: {**base, **given} for arm, given in ARMS.items()}
    found[BASE]["asked"] = list(ASKED)
    for settings in found.values():
        if scale == "quick":
            family = settings["model"].partition("(")[0]
            settings["model"] = f"{family}(width=32, depth=1, context=512)"
        if settings["glue"] and scale == "data":
            settings.update(tasks=["sst2", "mrpc", "cola", "mnli"], characters=300, limit=400)
    return found


def measure(settings: Settings, seed: int) -> Measured:
    """One run: what is written and what is chosen, on every task after every task."""
    names = list(settings["tasks"])
    if settings["reversed"]:
        names.reverse()
    if settings["alone"]:
        parts = [_run(settings, [name], seed) for name in names]
        return {
            "written": [[part["written"][-1][0] for part in parts]],
            "chosen": [[part["chosen"][-1][0] for part in parts]],
            "final": float(np.mean([part["written"][-1][0] for part in parts])),
            "tasks": names,
        }
    found = _run(settings, names, seed)
    written, chosen = np.array(found["written"]), np.array(found["chosen"])
    unparsable = np.array(found["unparsable"])
    earlier = slice(0, len(names) - 1)
    return {
        **found,
        "tasks": names,
        "final": float(written[-1].mean()),
        "final_chosen": float(chosen[-1].mean()),
        "forgetting": forgetting(written),
        "forgetting_chosen": forgetting(chosen),
        "gap": float((chosen[-1, earlier] - written[-1, earlier]).mean()),
        "learned": float(np.diag(written[1:]).mean()),
        "learned_chosen": float(np.diag(chosen[1:]).mean()),
        "unparsable_kept": float(unparsable[-1, earlier].mean()),
        "against_zero_shot": float((chosen[-1] - chosen[0]).mean()),
        "retention": retention(chosen),
    }


def _run(settings: Settings, names: Sequence[str], seed: int) -> Measured:
    loaded = pretrained(settings["model"])
    stream = _stream(settings, names, loaded.tokenizer, seed)
    others = {
        f"P{level}": _stream(settings, names, loaded.tokenizer, seed, level).scorer
        for level in settings["asked"]
    }
    learner = Learner(
        loaded.model,
        catalogue.build(settings["method"]),
        optimizer=partial(torch.optim.AdamW, lr=settings["lr"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        clip=1.0,
        pretrained=True,
        seed=seed,
    )
    learner.start(stream)
    before = {level: _shares(scorer, learner) for level, scorer in others.items()}
    measures = learner.learn(stream).measures
    after = {level: _shares(scorer, learner) for level, scorer in others.items()}
    return {
        **{name: measures[name] for name in MEASURES},
        "majority": measures["majority"][0],
        "asked": {level: {"before": before[level], "end": after[level]} for level in others},
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "trained": sum(p.numel() for p in learner.parameters),
    }


def _stream(
    settings: Settings, names: Sequence[str], tokenizer: Any, seed: int, asked: int | None = None
) -> Stream:
    """The tasks, asked with the prompt they are trained with or with another."""
    return text_tasks(
        [labelled(name, settings["prompt"], asked, settings["characters"]) for name in names],
        tokenizer,
        "cf-glue",
        seed,
        scoring="both",
        length=settings["length"],
        limit=settings["limit"],
        test_limit=settings["test_limit"],
    )


def _shares(scorer: Any, learner: Learner) -> dict[str, list[float]]:
    measures = scorer.score(learner).measures
    return {name: measures[name] for name in ("written", "chosen", "unparsable")}


def forgetting(rows: Any) -> float:
    """Mean, over tasks but the last, of the best score after some task minus the final one.

    Args:
        rows: Row 0 before any training, row t after t tasks.

    Example:
        >>> forgetting([[0.9, 0.9], [0.8, 0.1], [0.3, 0.7]])
        0.5
    """
    trained = np.asarray(rows, dtype=float)[1:]
    if len(trained) == 1:
        return 0.0
    drops = [trained[:-1, i].max() - trained[-1, i] for i in range(trained.shape[1] - 1)]
    return float(np.mean(drops))


def retention(rows: Any) -> float:
    """Mean, over tasks but the last, of the final score over the one just after learning."""
    trained = np.asarray(rows, dtype=float)[1:]
    kept = [trained[-1, i] / trained[i, i] for i in range(len(trained) - 1) if trained[i, i] > 0]
    return float(np.mean(kept)) if kept else float("nan")


def _sensitivity(results: Results) -> list[float]:
    """Deviation, over prompts, of the final score by what is written; one number a seed."""
    levels = [results.values(arm, "final") for arm in PROMPTS]
    return [float(value) for value in np.std(levels, axis=0)]


CLAIMS = (
    Claim(
        "Models forget to different degrees: the larger one less.",
        (
            Condition(
                "forgetting by choosing: Llama 0.5M minus Llama 1.4M",
                lambda r: r.less("Llama 0.5M", "Llama 1.4M", "forgetting_chosen"),
            ),
        ),
    ),
    Claim(
        "Architectures of one size forget to different degrees: the Llama less than the GPT-2.",
        (
            Condition(
                "forgetting by choosing: GPT-2 1.4M minus Llama 1.4M",
                lambda r: r.less("GPT-2 1.4M", "Llama 1.4M", "forgetting_chosen"),
            ),
        ),
        by="us",
    ),
    Claim(
        "Much of what seems forgotten is only the form of the answer.",
        (
            Condition(
                "earlier tasks at the end: chosen minus written",
                lambda r: r.values(BASE, "gap"),
                0.2,
            ),
        ),
        by="us",
    ),
    Claim(
        "Prompts matter: labels and a name of the task in the prompt lessen forgetting.",
        (
            Condition(
                "forgetting of what is written: P0 minus P3",
                lambda r: r.less("P0", "P3", "forgetting"),
                0.1,
            ),
            Condition("deviation of the final score over prompts", _sensitivity, 0.05),
        ),
    ),
)


def grids(results: Results) -> list[Grid]:
    """Every arm's metrics, the tasks before and after, and the bounds."""
    keys = (
        "final", "final_chosen", "learned", "learned_chosen", "forgetting", "forgetting_chosen",
        "gap", "unparsable_kept", "against_zero_shot", "retention",
    )  # fmt: skip
    header = (
        "arm", "parameters", "final", "chosen", "learned", "chosen", "forgotten", "chosen", "gap",
        "no label", "over zero-shot", "retention",
    )  # fmt: skip
    whole = [arm for arm in results.runs if not arm.endswith(", alone")]
    return [
        Grid(
            "Scores (%) by what is written and by the label chosen; all weights are trained",
            header,
            tuple(
                (
                    arm,
                    f"{np.mean(results.values(arm, 'parameters')) / 1e6:.2f}M",
                    *(shown(results.values(arm, key)) for key in keys),
                )
                for arm in whole
            ),
        ),
        *(_by_task(results, arm) for arm in (*MODELS, "other order", "GLUE")),
        _asked(results),
        *(_bounds(results, name) for name in MODELS),
    ]


def _bounds(results: Results, model: str) -> Grid:
    """What a model can do: each task alone, and all together."""
    alone, together = results.runs[f"{model}, alone"], results.runs[f"{model}, together"]
    rows = tuple(
        (
            task,
            *(shown([run[key][0][i] for run in alone]) for key in ("written", "chosen")),
            *(shown([run[key][-1][i] for run in together]) for key in ("written", "chosen")),
        )
        for i, task in enumerate(alone[0]["tasks"])
    )
    header = ("task", "alone: written", "chosen", "together: written", "chosen")
    return Grid(f"{model}: bounds (%)", header, rows)


def _by_task(results: Results, arm: str) -> Grid:
    runs = results.runs[arm]
    names = runs[0]["tasks"]

    def cell(key: str, row: int, i: int) -> str:
        mean = np.mean([run[key][row][i] for run in runs])
        errors = [run[f"{key}_error"][row][i] for run in runs]
        half = 1.96 * np.sqrt(np.sum(np.square(errors))) / len(runs)
        return f"{100 * mean:.1f} ± {100 * half:.1f}"

    rows = tuple(
        (
            name,
            f"{100 * np.mean([run['majority'][i] for run in runs]):.1f}",
            *(cell(key, row, i) for key in ("chosen", "written") for row in (0, i + 1, -1)),
            f"{100 * np.mean([run['unparsable'][-1][i] for run in runs]):.1f}",
        )
        for i, name in enumerate(names)
    )
    return Grid(
        f"{arm}: by task (%), before any training, just learned, at the end; 95 % intervals by the "
        "bootstrap over test examples",
        (
            "task", "majority", "chosen before", "learned", "end", "written before", "learned",
            "end", "no label",
        ),
        rows,
    )  # fmt: skip


def _asked(results: Results) -> Grid:
    """Earlier tasks, asked with other prompts than were trained with."""
    runs = results.runs[BASE]
    earlier = slice(0, len(runs[0]["tasks"]) - 1)

    def over(rows: Sequence[Sequence[float]]) -> str:
        return shown([float(np.mean(row[earlier])) for row in rows])

    keys = ("written", "chosen", "unparsable")
    trained = (
        "P2, as trained",
        *(over([run[key][row] for run in runs]) for key in keys for row in (0, -1)),
    )
    others = tuple(
        (
            level,
            *(
                over([run["asked"][level][when][key] for run in runs])
                for key in keys
                for when in ("before", "end")
            ),
        )
        for level in runs[0]["asked"]
    )
    header = (
        "asked with", "written before", "end", "chosen before", "end", "no label before", "end",
    )  # fmt: skip
    return Grid(f"{BASE}: earlier tasks by the prompt of the test (%)", header, (trained, *others))


def figures(results: Results) -> list[Figure]:
    """Forgetting of every arm, and models and prompts by what they know and what they forget."""
    named = [arm for arm in ARMS if not arm.endswith((", alone", ", together"))]
    bars = []
    for label, key in (("written", "forgetting"), ("chosen", "forgetting_chosen")):
        found = [results.values(arm, key) for arm in named]
        bars.append(over_seeds(label, range(len(named)), found, 100))
    panel = Panel("forgetting", "", "points", bars, names=named)
    caption = "Forgetting by what is written and by the label chosen (95 % intervals)."
    return [
        Figure("forgetting", caption, draw([panel])),
        Figure(
            "trade",
            "What is known in the end against what was forgotten, by the label chosen; down and to "
            "the right is better.",
            draw([_trade(results, [arm for arm in named if not arm.startswith("GLUE")])]),
        ),
    ]


def _trade(results: Results, arms: Sequence[str]) -> Panel:
    points = []
    for arm in arms:
        forgotten, half = interval(results.values(arm, "forgetting_chosen"))
        final = float(np.mean(results.values(arm, "final_chosen")))
        points.append(Series(arm, [100 * final], [100 * forgotten], [100 * half]))
    return Panel(
        "known and forgotten", "final score (%)", "forgetting (points)", points, points=True
    )


STUDY = Study(
    name="cf-glue",
    title="Catastrophic forgetting in LLMs: a comparative analysis across language tasks",
    source="Haque, 2025",
    claim=(
        "Language models forget classification tasks to very different degrees, and prompts decide "
        "much of it."
    ),
    minutes={"data": 60, "digits": 40, "quick": 1},
    data=(
        "cl15/mnli_train.jsonl.gz",
        "trec/train.jsonl.gz",
        "clinc150/train.jsonl.gz",
        "glue/sst2_train.jsonl.gz",
    ),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "Models of 0.5 and 1.4 million weights that have read Python's documentation, not of "
        "billions; on paraphrase, grammar and inference they are near chance, so forgetting is "
        "judged on packages of functions, questions and requests, and GLUE is shown beside it.",
        "The order of tasks in the paper is not known to us; two orders are shown.",
        "All weights are trained, on 1,000 examples a task, twice; of a text, the first 100 "
        "characters are shown.",
        "The paper's models may have seen GLUE in training, for which the row before any training "
        "is the only guard; these models have not.",
    ),
)
