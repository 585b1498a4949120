"""TRACE in small: what a sequence of unlike tasks takes from a language model.

Claim: unlike tasks in one format, learned in sequence, cost an aligned model its general ability
and its following of instructions; adapters lose less and learn less; a little replay wins most of
it back; and rationales before answers damage less than bare answers.

Source: Wang et al., "TRACE: a comprehensive benchmark for continual learning in large language
models" (2023).

Run: the zoo's Llama of 0.9M weights, which knows Python's documentation. Four tasks of real text:
topics of news and kinds of questions (labels), the next line of library code (edit similarity), the
first line of a docstring (ROUGE-L). General ability is the loss on held-out documentation; the
following of instructions, the share of answers that are one of the labels asked for. Rationales:
sums of two numbers with the carrying written out, or the bare result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast import catalogue
from holdfast.data import Table
from holdfast.language.fields import Sample
from holdfast.learner import Learner
from holdfast.run import pretrained
from holdfast.stream import Stream
from holdfast.streams.language import functions, python
from holdfast.streams.language.corpora import corpora
from holdfast.streams.language.labelled import labelled
from holdfast.streams.language.rationales import CUE, MARKER, reasoned, same_budget
from holdfast.streams.language.tasks import Task, text_tasks
from holdfast.streams.language.trace_metrics import backward_transfer, overall_performance
from holdfast.studies.controls import Watch, cut_at_equal_new_loss, cut_at_equal_updates
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

SEQUENCE: dict[str, Mapping[str, Any]] = {
    "full": {},
    "full, half the rate": {"rate": 0.5},
    "LoRA": {"method": "lora(rank=8)", "rate": 5.0},
    "replay 10 %": {"method": "replay(fraction=0.1)"},
    "multi-task": {"method": "joint"},
}
"""What each arm changes of plain training in sequence; rates are factors."""

REASONING: dict[str, Mapping[str, Any]] = {
    "sums, bare": {"answers": "bare"},
    "sums, bare, equal tokens": {"answers": "budget"},
    "sums, with steps": {"answers": "steps"},
}


def arms(scale: Scale) -> dict[str, Settings]:
    """Plain training at a scale, changed by every arm.

    Sizes and rates were fixed on seed 100, which no verdict uses, so that plain training learns
    both labelled tasks, and sums with their steps.
    """
    base: Settings = {
        "stream": "four tasks in sequence",
        "model": "llama(width=32, depth=1)" if scale == "quick" else "llama",
        "tasks": {
            "data": ["agnews", "completion", "trec", "summary"],
            "digits": ["package", "completion", "returns", "summary"],
            "quick": ["package", "completion", "returns"],
        }[scale],
        "limit": 12 if scale == "quick" else 800,
        "test_limit": 4 if scale == "quick" else 40,
        "epochs": 1 if scale == "quick" else 2,
        "every": 2 if scale == "quick" else 100,
        "batch_size": 8,
        "lr": 1e-3,
        "rate": 1.0,
        "method": "finetune",
        "length": 192,
    }
    sequence = {arm: {**base, "kind": "sequence", **given} for arm, given in SEQUENCE.items()}
    more: Settings = {"kind": "reasoning"}
    if scale != "quick":  # sums take longer to learn, and more than this rate runs away
        more = {**more, "limit": 3000, "epochs": 3, "lr": 5e-4, "every": 200}
    reasoning = {arm: {**base, **more, **given} for arm, given in REASONING.items()}
    return {**sequence, **reasoning}


def measure(settings: Settings, seed: int) -> Measured:
    """One run: the matrix and its metrics, formats, and the whole way of losses."""
    loaded = pretrained(settings["model"])
    if settings["kind"] == "reasoning":
        tasks = sums(settings["answers"], loaded.tokenizer, settings["limit"], seed)
    else:
        tasks = [one(name) for name in settings["tasks"]]
    stream = text_tasks(
        tasks,
        loaded.tokenizer,
        "trace",
        seed,
        scoring="both",
        length=settings["length"],
        limit=None if settings["kind"] == "reasoning" else settings["limit"],
        test_limit=settings["test_limit"],
    )
    learner = Learner(
        loaded.model,
        catalogue.build(settings["method"]),
        optimizer=partial(torch.optim.AdamW, lr=settings["lr"] * settings["rate"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        clip=1.0,
        pretrained=True,
        seed=seed,
    )
    watch = Watch(watched(stream, loaded.tokenizer, settings), settings["every"])
    learner.start(stream)
    watch.look(learner)
    record = learner.learn(stream, [watch])
    matrix = np.array(record.matrix)
    unparsable = np.array(record.measures.get("unparsable", np.full((len(matrix) + 1, 1), np.nan)))
    return {
        "matrix": record.matrix,
        "initial": record.initial,
        "performance": overall_performance(matrix),
        "transfer": backward_transfer(matrix),
        "learned": float(np.diag(matrix).mean()),
        "format_learned": _format(unparsable, len(matrix), at_once=True),
        "format_kept": _format(unparsable, len(matrix), at_once=False),
        "rise": watch.way[-1]["old"] - watch.way[0]["old"],
        "updates": learner.updates,
        "way": watch.way,
    }


def watched(stream: Stream, tokenizer: Any, settings: Settings) -> dict[str, Table]:
    """Held-out documentation, and the test examples of all tasks."""
    old = corpora(
        [("docs", python.documentation)],
        tokenizer,
        length=128,
        limit=1,
        test_limit=8 if settings["every"] == 2 else 48,
    )[0].test
    return {"old": old, "new": Table.concat([experience.test for experience in stream])}


def one(name: str) -> Task:
    """A task by name: of the library's functions, or of the data folder."""
    own = {task.name: task for task in functions.tasks()}
    return own[name] if name in own else labelled(name, 2, 2)


def sums(answers: str, tokenizer: Any, limit: int, seed: int) -> list[Task]:
    """Sums of two numbers of two digits, with the carrying written out or not."""
    draw_ = torch.Generator().manual_seed(seed)
    pairs = (torch.randperm(8100, generator=draw_)[: limit + 100]).tolist()
    numbers = [(10 + place // 90, 10 + place % 90) for place in pairs]
    bare = [Sample(prompt=f"What is {a} + {b}?", answer=str(a + b)) for a, b in numbers]
    train, test = bare[:limit], bare[limit:]
    steps = {i: steps_of(a, b) for i, (a, b) in enumerate(numbers[:limit])}
    thought = reasoned(train, steps)
    asked = [replace(sample, prompt=f"{CUE}{sample.prompt}") for sample in test]
    task = Task("sums", train, test, (), "exact_match", 48)
    if answers == "steps":
        return [replace(task, train=thought, test=asked, marker=MARKER)]
    if answers == "budget":
        return [replace(task, train=same_budget(train, thought, tokenizer))]
    return [task]


def steps_of(a: int, b: int) -> str:
    """A sum digit by digit.

    Example:
        >>> steps_of(37, 48)
        '7 + 8 = 15, write 5, carry 1. 3 + 4 + 1 = 8.'
    """
    low = a % 10 + b % 10
    high = a // 10 + b // 10 + low // 10
    return (
        f"{a % 10} + {b % 10} = {low}, write {low % 10}, carry {low // 10}. "
        f"{a // 10} + {b // 10} + {low // 10} = {high}."
    )


def _format(unparsable: Any, tasks: int, at_once: bool) -> float:
    """Share of answers that are labels, over labelled tasks but the last: just learned, or kept."""
    if unparsable.shape[1] != tasks or tasks == 1:
        return float("nan")
    rows = [i + 1 if at_once else tasks for i in range(tasks - 1)]
    shares = [1 - unparsable[row, i] for i, row in enumerate(rows)]
    known = [share for share in shares if not np.isnan(share)]
    return float(np.mean(known)) if known else float("nan")


def _recovered(results: Results) -> list[float]:
    gained = results.less("replay 10 %", "full", "performance")
    room = results.less("multi-task", "full", "performance")
    return [g / r if r > 0 else float("nan") for g, r in zip(gained, room, strict=True)]


CLAIMS = (
    Claim(
        "Plain training in sequence forgets tasks, general ability and the form of answers.",
        (
            Condition(
                "backward transfer of full training",
                lambda r: r.values("full", "transfer"),
                -0.15,
                "below",
            ),
            Condition(
                "rise of the loss on documentation, in nats",
                lambda r: r.values("full", "rise"),
                percent=False,
            ),
            Condition(
                "answers in the form asked for: just learned minus at the end",
                lambda r: [
                    a - b
                    for a, b in zip(
                        r.values("full", "format_learned"),
                        r.values("full", "format_kept"),
                        strict=True,
                    )
                ],
            ),
        ),
    ),
    Claim(
        "LoRA forgets less and learns less.",
        (
            Condition(
                "backward transfer: LoRA minus full", lambda r: r.less("LoRA", "full", "transfer")
            ),
            Condition(
                "score just after learning: LoRA minus full",
                lambda r: r.less("LoRA", "full", "learned"),
                side="below",
            ),
        ),
    ),
    Claim(
        "LoRA's smaller loss of general ability is more than that of learning less.",
        (
            Condition(
                "rise of the loss on documentation avoided at equal loss on the tasks",
                lambda r: cut_at_equal_new_loss(r, "LoRA", "full"),
            ),
            Condition(
                "rise avoided: LoRA minus full training at half the rate, in nats",
                lambda r: r.less("full, half the rate", "LoRA", "rise"),
                percent=False,
            ),
        ),
        by="us",
    ),
    Claim(
        "A tenth of replay wins back most of what the sequence costs.",
        (Condition("share of the way from full to multi-task training", _recovered, 0.5),),
    ),
    Claim(
        "Rationales before answers damage general ability less than bare answers.",
        (
            Condition(
                "rise avoided after equal updates",
                lambda r: cut_at_equal_updates(r, "sums, with steps", "sums, bare"),
            ),
            Condition(
                "rise avoided against bare answers of as many tokens",
                lambda r: r.less("sums, bare, equal tokens", "sums, with steps", "rise"),
                percent=False,
            ),
        ),
    ),
)


def grids(results: Results) -> list[Grid]:
    """Metrics of the sequence; the sums; and where the matrix ends."""
    header = ("arm", "OP", "BWT", "just learned", "form learned", "form kept", "rise", "updates")
    return [
        Grid(
            "Four tasks in sequence (%); rise of the loss on documentation in nats",
            header,
            tuple(
                (
                    arm,
                    *(
                        shown(results.values(arm, key))
                        for key in (
                            "performance", "transfer", "learned", "format_learned", "format_kept",
                        )
                    ),
                    shown(results.values(arm, "rise"), percent=False),
                    f"{np.mean(results.values(arm, 'updates')):.0f}",
                )
                for arm in SEQUENCE
            ),
        ),
        Grid(
            "Sums: exact answers (%), rise of the loss on documentation in nats",
            ("arm", "exact", "rise", "updates"),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "performance")),
                    shown(results.values(arm, "rise"), percent=False),
                    f"{np.mean(results.values(arm, 'updates')):.0f}",
                )
                for arm in REASONING
            ),
        ),
    ]  # fmt: skip


def figures(results: Results) -> list[Figure]:
    """The loss on documentation along the way."""
    series = []
    for arm in SEQUENCE:
        ways = [run["way"] for run in results.runs[arm]]
        points = min(map(len, ways))
        updates = [int(ways[0][i]["update"]) for i in range(points)]
        series.append(
            Series(
                arm, updates, [float(np.mean([w[i]["old"] for w in ways])) for i in range(points)]
            )
        )
    panel = Panel("loss on held-out documentation", "update", "nats", series)
    return [
        Figure("general", "General ability along the sequence, mean over seeds.", draw([panel]))
    ]


STUDY = Study(
    name="trace",
    title="TRACE: a comprehensive benchmark for continual learning in large language models",
    source="Wang et al., 2023",
    claim=(
        "A sequence of unlike tasks costs a language model its general ability and the form of its "
        "answers; adapters, replay and rationales lose less."
    ),
    minutes={"data": 50, "digits": 50, "quick": 1},
    data=("cl15/agnews_train.jsonl.gz", "trec/train.jsonl.gz"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of 0.9M weights that knows Python's documentation, and 800 examples a task; the "
        "paper has chat models of 7B to 13B and eight tasks of 5,000.",
        "General ability is the loss on held-out documentation, not MMLU and the like; following "
        "instructions, the share of answers in the form asked for, not a judge's preference.",
        "Replay mixes a tenth into every batch; the paper's code makes one more epoch after each "
        "task.",
        "Answers are written greedily; sums stand in for tasks with rationales.",
    ),
)
