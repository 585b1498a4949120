"""Continual learning in neural networks: seven methods of one thesis, six claims.

Claim: experts, importance, sparsity, plateaus and chosen examples each keep more than training
without them. A gate of autoencoders knows of which task an example is; importance of weights is
found without labels; sparse hidden answers leave room for later tasks; plateaus of the loss tell
when to consolidate; and memories whose examples are chosen by gradients (which to keep) or by the
coming step (which to replay) do better than random ones.

Source: Aljundi, "Continual learning in neural networks" (2019), and the papers that it is made of.

Run: small networks on MNIST and Fashion-MNIST, or on scikit-learn's digits. Every arm belongs to
one of six parts, each with its stream; ablations take one part of a method away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast import catalogue, metrics, models, streams
from holdfast.data import Table
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.methods import MAS, ExpertGate
from holdfast.methods.penalties.mas import sensitivity
from holdfast.models.hidden import Hidden
from holdfast.stream import Stream
from holdfast.studies.aljundi_parts import KnownBoundaries, unbounded, unequal, worlds
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

PARTS: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "gate": (
        {"width": 100, "batch_size": 10, "epochs": 5},
        {
            "experts": "expert_gate(epochs=100, rate=0.01)",
            "experts, never distilled": "expert_gate(related=1e9, epochs=100, rate=0.01)",
            "experts, always distilled": "expert_gate(related=-1e9, epochs=100, rate=0.01)",
            "one model": "finetune",
        },
    ),
    "importance": (
        {"width": 64, "batch_size": 32, "epochs": 3},
        {
            "finetune": "finetune",
            "EWC": "ewc(strength=10.0)",
            "MAS": "mas(strength=0.01)",
            "MAS + SLNID": "mas(strength=0.01)+slni",
            "MAS + SLNI, no discount": "mas(strength=0.01)+slni(discount=false)",
            "MAS + SLNID, no locality": "mas(strength=0.01)+slni(scale=none)",
            "EWC + SLNID": "ewc(strength=10.0)+slni",
        },
    ),
    "task-free": (
        {"width": 100, "batch_size": 10, "epochs": 1, "online": True},
        {
            "task-free": "task_free",
            "task-free, no penalty": "task_free(strength=0.0)",
            "task-free, boundaries known": "task_free",
        },
    ),
    "selection": (
        {"width": 100, "batch_size": 10, "epochs": 1, "unequal": True},
        {
            "GSS": "gss(capacity=300)",
            "reservoir": "er(capacity=300)",
            "random, by class": "er(capacity=300, storage=class_balanced)",
        },
    ),
    "retrieval": (
        {"width": 100, "batch_size": 10, "epochs": 1},
        {
            "MIR": "mir(capacity=500)",
            "ER": "er(capacity=500)",
        },
    ),
}
"""By part: how its arms are trained, and the method of each."""

STREAMS: dict[str, dict[Scale, str]] = {
    "gate": {"data": "worlds", "digits": "split-digits", "quick": "split-digits(limit=60)"},
    "importance": {
        "data": "permuted-mnist(limit=2000, test_limit=1000)",
        "digits": "permuted-digits",
        "quick": "permuted-digits(limit=60)",
    },
    "task-free": {
        "data": "split-mnist(limit=1000, test_limit=500)",
        "digits": "split-digits",
        "quick": "split-digits(limit=100)",
    },
    "selection": {
        "data": "split-mnist(limit=2000, test_limit=500)",
        "digits": "split-digits",
        "quick": "split-digits(limit=100)",
    },
    "retrieval": {
        "data": "split-mnist(limit=1000, test_limit=500)",
        "digits": "split-digits",
        "quick": "split-digits(limit=60)",
    },
}
"""By part and scale."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The stream, the method and the training of every arm."""
    found: dict[str, Settings] = {}
    for part, (training, methods) in PARTS.items():
        for arm, method in methods.items():
            found[arm] = {
                "part": part,
                "stream": STREAMS[part][scale],
                "method": method,
                "known": "boundaries known" in arm,
                "rate": 0.05,
                "online": False,
                "unequal": False,
                **training,
            }
            if scale == "quick" and part == "gate":
                found[arm]["method"] = method.replace("epochs=100", "epochs=10")
            if scale == "digits" and part in ("gate", "importance"):
                found[arm]["epochs"] = 8  # a seventh of the examples
    return found


def measure(settings: Settings, seed: int) -> Measured:
    """One run, and what its part asks for beside the accuracy."""
    stream = _stream(settings, seed)
    method = KnownBoundaries() if settings["known"] else catalogue.build(settings["method"])
    learner = Learner(
        models.build(f"mlp(width={settings['width']})", stream, seed=seed),
        method,
        optimizer=partial(torch.optim.SGD, lr=settings["rate"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=seed,
    )
    learner.meter.counting = False
    record = learner.learn(stream)
    first = next(iter(method.parts()))
    return {
        "accuracy": metrics.average_accuracy(record.matrix),
        "task_accuracy": metrics.average_accuracy(record.task_matrix),
        "forgetting": metrics.forgetting(record.matrix),
        "bytes": record.cost["method_bytes"],
        "density": density(learner, stream) if settings["part"] == "importance" else None,
        "recognised": recognised(first, learner) if isinstance(first, ExpertGate) else None,
        "unlabelled": unlabelled(learner, stream) if isinstance(first, MAS) else None,
        "plateaus": [
            sum(n.get("event") == "plateau" and n["experience"] == e for n in record.notes)
            for e in range(len(stream))
        ],
        "distilled": [n["transfer"] == "lwf" for n in record.notes if "transfer" in n],
        "related": [max(n["relatedness"]) for n in record.notes if "relatedness" in n],
    }


def _stream(settings: Settings, seed: int) -> Stream:
    if settings["stream"] == "worlds":
        return worlds(seed)
    stream = streams.build(settings["stream"], seed=seed)
    if settings["unequal"]:
        stream = unequal(stream, large=seed % len(stream))
    return unbounded(stream) if settings["online"] else stream


def density(learner: Learner, stream: Stream) -> float:
    """The share of hidden units that answer an example, over all test sets and layers."""
    hidden = Hidden(learner.model.backbone)
    shares = []
    with undisturbed(learner.model), hidden.watching():
        for experience in stream:
            hidden.open()
            learner.model(experience.test["x"])
            shares += [float((answers > 0).float().mean()) for answers in hidden.take()]
    hidden.remove()
    return float(np.mean(shares))


def recognised(method: ExpertGate, learner: Learner) -> float:
    """The share of test examples that the gate gives to the expert of their experience."""
    assert learner.stream is not None
    found = [
        (method.gate(learner, experience.test.columns).argmax(1) == experience.index).float().mean()
        for experience in learner.stream
    ]
    return float(torch.stack(found).mean())


def unlabelled(learner: Learner, stream: Stream) -> float:
    """Rank correlation of importance from training data and from test inputs without labels."""
    from scipy.stats import spearmanr

    latest = stream[len(stream) - 1]
    both = [
        torch.cat([t.flatten() for t in sensitivity(learner, table)])
        for table in (latest.train, Table({"x": latest.test["x"]}))
    ]
    return float(spearmanr(*(one.cpu().numpy() for one in both)).statistic)


def _more(arm: str, other: str, what: str = "accuracy", bound: float = 0.0) -> Condition:
    words = {"accuracy": "final accuracy", "task_accuracy": "accuracy with the task known"}
    return Condition(
        f"{words[what]}: {arm} minus {other}",
        lambda results: results.less(arm, other, what),
        bound,
    )


def _forgetting_cut(arm: str) -> Condition:
    def cut(results: Results) -> list[float]:
        pairs = zip(
            results.values(arm, "forgetting"), results.values("finetune", "forgetting"), strict=True
        )
        return [1 - mine / theirs for mine, theirs in pairs]

    return Condition(f"share of plain training's forgetting that {arm} avoids", cut, 0.5)


def _plateaus_missed(results: Results) -> list[float]:
    """How far the number of plateaus is from one a task, as a share of the tasks."""
    return [
        abs(sum(run["plateaus"]) - len(run["plateaus"])) / len(run["plateaus"])
        for run in results.runs["task-free"]
    ]


def _denser(arm: str, other: str) -> Condition:
    return Condition(
        f"share of hidden units that answer: {arm} minus {other}",
        lambda results: results.less(arm, other, "density"),
        side="below",
    )


CLAIMS = (
    Claim(
        "Reconstruction errors of autoencoders tell of which task an example is.",
        (
            Condition(
                "test examples given to their task's expert",
                lambda results: results.values("experts", "recognised"),
                0.95,
            ),
            _more("experts", "one model"),
        ),
    ),
    Claim(
        "Relatedness chooses well between distilling the parent and fine-tuning a copy.",
        (
            _more("experts", "experts, never distilled", bound=-0.01),
            _more("experts", "experts, always distilled", bound=-0.01),
        ),
        by="us",
    ),
    Claim(
        "Holding weights by the outputs' sensitivity avoids more than half of the forgetting.",
        (_forgetting_cut("MAS"), _more("MAS", "finetune")),
    ),
    Claim(
        "Importance needs no labels and no training data: unlabelled test inputs rank weights "
        "alike.",
        (
            Condition(
                "rank correlation of importance from training data and from unlabelled test data",
                lambda results: results.values("MAS", "unlabelled"),
                0.9,
                percent=False,
            ),
        ),
    ),
    Claim(
        "Local inhibition of hidden units leaves room: more is kept, with fewer units.",
        (
            _more("MAS + SLNID", "MAS"),
            _more("EWC + SLNID", "EWC"),
            _denser("MAS + SLNID", "MAS"),
        ),
    ),
    Claim(
        "The discount for important units and the locality both matter.",
        (
            _more("MAS + SLNID", "MAS + SLNI, no discount"),
            _more("MAS + SLNID", "MAS + SLNID, no locality"),
        ),
    ),
    Claim(
        "Plateaus of the loss find the tasks: about one is seen a task.",
        (Condition("plateaus too many or too few, by tasks", _plateaus_missed, 0.3, "below"),),
    ),
    Claim(
        "Consolidating at plateaus keeps more than no penalty.",
        (
            _more("task-free", "task-free, no penalty"),
            _more("task-free", "task-free, no penalty", "task_accuracy"),
        ),
    ),
    Claim(
        "Plateaus do as well as boundaries that are told.",
        (_more("task-free", "task-free, boundaries known", bound=-0.02),),
        by="us",
    ),
    Claim(
        "A memory of gradients that point many ways does better where tasks are unequal.",
        (_more("GSS", "reservoir"), _more("GSS", "random, by class")),
    ),
    Claim(
        "Replaying what the coming step would harm most does better than replaying at random.",
        (_more("MIR", "ER"),),
    ),
)


def grids(results: Results) -> list[Grid]:
    """Accuracies; what the parts ask for beside; and the gate."""
    gated = [arm for arm, runs in results.runs.items() if runs[0]["recognised"] is not None]
    sparse = [arm for arm, runs in results.runs.items() if runs[0]["density"] is not None]
    return [
        Grid(
            "Accuracy (%)",
            ("arm", "final", "with the task known", "forgetting", "kept by the method (kB)"),
            tuple(
                (
                    arm,
                    *(
                        shown(results.values(arm, name))
                        for name in ("accuracy", "task_accuracy", "forgetting")
                    ),
                    f"{np.mean(results.values(arm, 'bytes')) / 1000:.0f}",
                )
                for arm in results.runs
            ),
            note="Each part has its own stream: only arms of one part compare.",
        ),
        Grid(
            "Hidden units that answer an example (%)",
            ("arm", "share"),
            tuple((arm, shown(results.values(arm, "density"))) for arm in sparse),
        ),
        Grid(
            "The gate",
            ("arm", "recognised (%)", "relatedness of the parent, by task", "distilled, by task"),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "recognised")),
                    _by_task(results, arm, "related"),
                    _by_task(results, arm, "distilled"),
                )
                for arm in gated
            ),
            note="From the second task on, means over seeds; distilled is a share of the seeds.",
        ),
        Grid(
            "Plateaus seen in each task, mean over seeds",
            ("arm", "by task"),
            tuple(
                (arm, _by_task(results, arm, "plateaus"))
                for arm in ("task-free", "task-free, no penalty")
            ),
        ),
    ]


def _by_task(results: Results, arm: str, name: str) -> str:
    rows = [run[name] for run in results.runs[arm]]
    return ", ".join(f"{mean:.2f}" for mean in np.mean(rows, axis=0))


def figures(results: Results) -> list[Figure]:
    """Final accuracy of every arm, by part."""
    return [
        Figure(
            part,
            f"Final accuracy, part: {part} (95 % intervals).",
            draw([_bars(results, part, list(methods))]),
        )
        for part, (_, methods) in PARTS.items()
    ]


def _bars(results: Results, part: str, names: Sequence[str]) -> Panel:
    found = [metrics.interval(results.values(arm, "accuracy")) for arm in names]
    series = Series(
        "final accuracy",
        list(range(len(names))),
        [100 * mean for mean, _ in found],
        [100 * half for _, half in found],
    )
    return Panel(part, "", "accuracy (%)", [series], names=names, y_range=(0, 100))


STUDY = Study(
    name="aljundi-thesis",
    title="Continual learning in neural networks",
    source="Aljundi, 2019",
    claim=(
        "Experts behind a gate, importance without labels, sparse hidden answers, plateaus of the "
        "loss and chosen examples each keep more than training without them."
    ),
    minutes={"data": 10, "digits": 5, "quick": 1},
    data=("mnist", "fashion-mnist"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "Small fully connected networks on MNIST, Fashion-MNIST and scikit-learn's digits; "
        "the papers have AlexNet and VGG on sets of photographs as well.",
        "The gate's autoencoders see the pixels; in the paper the features of a network that was "
        "trained on ImageNet.",
        "One expert answers an example, and features are standardised by the first world's. There "
        "are three worlds, and two of them are handwritten digits.",
        "MAS in its local form (products of a layer's inputs and outputs) and on examples chosen "
        "by a user is not run; nor are GSS by a quadratic programme and MIR with a generative "
        "model, or compared with the least loss an example ever had.",
        "GSS makes one update on each batch and its replay together; its code makes one on the "
        "batch and one on the memory, three times over.",
        "MIR's step is on the mean over batch and replay, so half as long as its code's at the "
        "same rate, which is 0.05 and not 0.1; candidates may be of the present task.",
        "Task-free learning is shown a stream of digits whose boundaries are not told; the paper's "
        "are television series and monocular obstacles, with other losses.",
        "Strengths of the penalties, the plateau's bounds and the learning rate were chosen on "
        "seed 100, which no verdict uses.",
    ),
)
