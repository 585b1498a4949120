"""FPF: is what a network forgets in a few of its modules?

Claim: only few modules are made anew by every task, mostly normalisations and the last layer, and
the rest is shared. To fine-tune these few on a small memory at the end of any method gains much for
little; k such fine-tunings in place of all replay do as well, beat replay at every step, and cost
far less.

Source: Zhao, Zhou, Long, Jiang and Zhang, "Does continual learning equally forget all parameters?"
(2023).

Run: two classes of Fashion-MNIST at a time, a residual network of four blocks, a memory of 200.
Plain training, ER and DER++ each give one final state, from copies of which everything is tuned
that the paper compares: sensitive modules, all, the others, modules at random with as many weights,
the last layer alone. k-FPF with and without stored logits, k = 2, 5, 10, always as many steps of
fine-tuning in all. Then memories of 50 and 500, one epoch in place of five, and turned digits as
domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast import metrics, models, streams
from holdfast.learner import Learner
from holdfast.method import Method, chain
from holdfast.methods import ER, FPF, KFPF, DERpp
from holdfast.optim.dynamics import STATISTICS
from holdfast.stream import Stream
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

TUNED = ("sensitive", "all", "insensitive", "random", "head", "norm head")
"""What is tuned from each final state: chosen by score, by its complement, by chance, by name."""

FEW = ("sensitive", "all", "head")

ARMS: dict[str, Mapping[str, Any]] = {
    "SGD": {"method": "none", "tuned": TUNED},
    "ER": {"method": "er", "tuned": TUNED},
    "DER++": {"method": "der++", "tuned": FEW},
    "2-FPF-CE": {"method": "k_fpf", "k": 2, "gamma": 0.0},
    "5-FPF-CE": {"method": "k_fpf", "k": 5, "gamma": 0.0},
    "10-FPF-CE": {"method": "k_fpf", "k": 10, "gamma": 0.0},
    "2-FPF-KD": {"method": "k_fpf", "k": 2},
    "5-FPF-KD": {"method": "k_fpf", "k": 5},
    "10-FPF-KD": {"method": "k_fpf", "k": 10},
    "SGD, memory 50": {"method": "none", "capacity": 50, "tuned": ("sensitive",)},
    "SGD, memory 500": {"method": "none", "capacity": 500, "tuned": ("sensitive",)},
    "5-FPF-KD, memory 50": {"method": "k_fpf", "capacity": 50},
    "5-FPF-KD, memory 500": {"method": "k_fpf", "capacity": 500},
    "SGD, one epoch": {"method": "none", "epochs": 1, "tuned": ("sensitive",)},
    "5-FPF-KD, one epoch": {"method": "k_fpf", "epochs": 1},
    "SGD, domains": {"method": "none", "domains": True, "tuned": TUNED},
    "ER, domains": {"method": "er", "domains": True, "tuned": FEW},
    "5-FPF-KD, domains": {"method": "k_fpf", "domains": True},
}
"""What each arm changes."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The stream, the training and the fine-tuning of every arm.

    Rates were not searched: those of training and of fine-tuning are the first that were tried.
    """
    base: Settings = {
        "stream": {
            "data": "split-fashion-mnist(limit=600, test_limit=500)",
            "digits": "split-digits",
            "quick": "split-digits(limit=40, experiences=3)",
        }[scale],
        "model": {
            "data": "resnet18(width=8, blocks=1)",
            "digits": "resnet18(width=8, blocks=1)",
            "quick": "cnn(width=2, depth=2)",
        }[scale],
        "epochs": {"data": 5, "digits": 5, "quick": 1}[scale],
        "batch_size": 32,
        "rate": 0.05,
        "capacity": 200 if scale != "quick" else 20,
        "iterations": {"data": 200, "digits": 200, "quick": 4}[scale],
        "tuning_rate": 0.05,
        "k": 5,
        "gamma": 0.5,
        "tuned": [],
    }
    domains = {
        "data": "rotated-digits(experiences=5, limit=600)",
        "digits": "rotated-digits(experiences=5, limit=600)",
        "quick": "rotated-digits(experiences=3, limit=40)",
    }[scale]
    found: dict[str, Settings] = {}
    for arm, changes in ARMS.items():
        given = dict(changes)
        if given.pop("domains", False):
            given["stream"] = domains
        given["tuned"] = list(given.get("tuned", ()))
        found[arm] = {**base, **given}
    return found


class Watching(FPF):
    """Measures and remembers as `FPF` does, and leaves the fine-tuning to whoever asks for it."""

    def ended(self, learner: Learner) -> bool:
        return False


def measure(settings: Settings, seed: int) -> Measured:
    """One run, and what becomes of its final state when different modules are tuned."""
    stream = streams.build(settings["stream"], seed=seed)
    watching = Watching(settings["capacity"], settings["iterations"], rate=settings["tuning_rate"])
    learner = Learner(
        models.build(settings["model"], stream, seed=seed),
        _method(settings, watching, stream),
        optimizer=partial(torch.optim.SGD, lr=settings["rate"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=seed,
    )
    record = learner.learn(stream)
    cost = record.cost
    dynamics = next(p for p in learner.method.parts() if isinstance(p, FPF)).dynamics
    notes = [note for note in record.notes if "tuned" in note]
    return {
        "accuracy": metrics.average_accuracy(record.matrix),
        "anytime_accuracy": metrics.average_anytime_accuracy(record.matrix),
        "forgetting": metrics.forgetting(record.matrix),
        "steps": cost["steps"],
        "flops": cost["flops"],
        "seconds": cost["seconds"],
        "tuning_flops": cost.get("apart_flops", 0),
        "tuning_seconds": cost.get("apart_seconds", 0.0),
        "fine_tunings": len(notes),
        "scores": dynamics.scores("leap"),
        "changes": dynamics.scores("change"),
        "history": dynamics.history() if settings["method"] == "none" else None,
        "tuned": {what: tuned(learner, watching, what) for what in settings["tuned"]},
    }


def fine_tunings(settings: Settings, stream: Stream) -> int:
    """How many of the k take place: those from the first switch on that can be measured."""
    epochs = [-(-len(e.train) // settings["batch_size"]) for e in stream]
    steps, first = settings["epochs"] * sum(epochs), settings["epochs"] * epochs[0] + epochs[1]
    interval = -(-steps // settings["k"])
    return sum(min(k * interval, steps) >= first for k in range(1, settings["k"] + 1))


def _method(settings: Settings, watching: Watching, stream: Stream) -> Method:
    capacity = settings["capacity"]
    if settings["method"] == "k_fpf":
        return KFPF(
            capacity,
            k=settings["k"],
            gamma=settings["gamma"],
            iterations=max(1, settings["iterations"] // fine_tunings(settings, stream)),
            rate=settings["tuning_rate"],
        )
    if settings["method"] == "none":
        return watching
    replay = {
        "er": lambda: ER(capacity),
        "der++": lambda: DERpp(capacity, alpha=0.3, beta=0.5),
    }[settings["method"]]()
    return chain(replay, watching)


def tuned(learner: Learner, fpf: FPF, what: str) -> Measured:
    """What fine-tuning a copy of the final state gives, and costs; the learner stays as it was."""
    was = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    chance, meter = learner.generator.get_state(), learner.meter
    flops, seconds = meter.apart_flops, meter.apart_seconds
    fpf.tune = what
    with learner.chance.mine():
        fpf.finetune(learner)
    note = learner.record.notes.pop()
    scores = learner.test_sets.score(learner).plain
    learner.model.load_state_dict(was)
    learner.generator.set_state(chance)
    fpf.tune = "sensitive"
    return {
        "accuracy": sum(scores) / len(scores),
        "modules": note["tuned"],
        "share": note["tuned_weights"] / note["weights"],
        "flops": meter.apart_flops - flops,
        "seconds": meter.apart_seconds - seconds,
    }


def accuracy(results: Results, name: str) -> list[float]:
    """Of an arm, or of `ARM + FPF` with what was tuned: `"SGD + FPF (head)"`."""
    arm, what = _read(name)
    return results.values(arm, *(("tuned", what) if what else ()), "accuracy")


def operations(results: Results, name: str) -> list[float]:
    """Of all training, fine-tuning included; as `accuracy` names it."""
    arm, what = _read(name)
    run = results.values(arm, "flops")
    if not what:
        return run
    return [a + b for a, b in zip(run, results.values(arm, "tuned", what, "flops"), strict=True)]


def with_fpf(arm: str, what: str = "sensitive") -> str:
    return f"{arm} + FPF ({what})"


def _read(name: str) -> tuple[str, str]:
    arm, _, what = name.partition(" + FPF ")
    return arm, what.strip("()")


def _less(name: str, other: str, bound: float = 0.0) -> Condition:
    return Condition(
        f"final accuracy: {name} minus {other}",
        lambda results: [
            a - b for a, b in zip(accuracy(results, name), accuracy(results, other), strict=True)
        ],
        bound,
    )


def _cheaper(name: str, other: str, bound: float) -> Condition:
    return Condition(
        f"operations: {name} over {other}",
        lambda results: [
            a / b
            for a, b in zip(operations(results, name), operations(results, other), strict=True)
        ],
        bound,
        "below",
        percent=False,
    )


def _share(name: str, bound: float) -> Condition:
    arm, what = _read(name)
    return Condition(
        f"share of the weights: {name}",
        lambda results: results.values(arm, "tuned", what, "share"),
        bound,
        "below",
    )


def ranks(run: Measured, key: str = "scores") -> dict[str, float]:
    """Of every module, 0 for the one of the highest score, 1 for the lowest."""
    scores: Mapping[str, float] = run[key]
    order = sorted(scores, key=lambda name: -scores[name])
    return {name: place / (len(order) - 1) for place, name in enumerate(order)}


def rank_of(run: Measured, kind: str, key: str = "scores") -> float:
    """Mean rank of the modules of a kind."""
    found = ranks(run, key)
    return float(np.mean([rank for name, rank in found.items() if name.split("-")[0] == kind]))


def _sooner(kind: str, other: str, key: str, words: str, arm: str = "SGD") -> Condition:
    return Condition(
        f"{arm}, {words}: mean rank of {kind} minus that of {other} (0 first, 1 last)",
        lambda results: [
            rank_of(run, kind, key) - rank_of(run, other, key) for run in results.runs[arm]
        ],
        side="below",
        percent=False,
    )


LEAPS, CHANGES = ("scores", "leaps at a switch"), ("changes", "distance between tasks")

CLAIMS = (
    Claim(
        "Few modules are made anew by every task: the last layer, and normalisations.",
        (
            _sooner("head", "convolution", *LEAPS),
            _sooner("norm", "convolution", *LEAPS),
            _sooner("head", "convolution", *CHANGES),
            _sooner("norm", "convolution", *CHANGES),
        ),
    ),
    Claim(
        "Fine-tuning them at the end gains much, after any method.",
        (
            _less(with_fpf("SGD"), "SGD", 0.2),
            _less(with_fpf("ER"), "ER"),
            _less(with_fpf("DER++"), "DER++"),
        ),
    ),
    Claim(
        "It costs little: less than half of plain training, less than a fifth of ER.",
        (_cheaper(with_fpf("SGD"), "SGD", 1.5), _cheaper(with_fpf("ER"), "ER", 1.2)),
    ),
    Claim(
        "A fraction of the weights is enough: within two points of tuning all.",
        (
            _less(with_fpf("SGD"), with_fpf("SGD", "all"), -0.02),
            _less(with_fpf("ER"), with_fpf("ER", "all"), -0.02),
            _share(with_fpf("SGD"), 0.5),
        ),
    ),
    Claim(
        "What is sensitive must be tuned: the others, or as many weights at random, do not do.",
        (
            _less(with_fpf("SGD"), with_fpf("SGD", "insensitive")),
            _less(with_fpf("SGD"), with_fpf("SGD", "random")),
        ),
    ),
    Claim(
        "The last layer alone does not do.",
        (
            _less(with_fpf("SGD"), with_fpf("SGD", "head")),
            _less(with_fpf("ER"), with_fpf("ER", "head")),
        ),
    ),
    Claim(
        "k-FPF does as well as replay at every step with FPF at the end: within two points.",
        (_less("5-FPF-KD", with_fpf("ER"), -0.02), _less("5-FPF-KD", with_fpf("DER++"), -0.02)),
    ),
    Claim(
        "k-FPF does better than replay at every step.",
        (_less("5-FPF-KD", "ER"), _less("5-FPF-KD", "DER++")),
    ),
    Claim(
        "It costs about half of it.",
        (_cheaper("5-FPF-KD", "ER", 0.75), _cheaper("5-FPF-KD", "DER++", 0.5)),
    ),
    Claim(
        "Stored logits help: k-FPF-KD over k-FPF-CE.",
        tuple(_less(f"{k}-FPF-KD", f"{k}-FPF-CE") for k in (2, 5, 10)),
    ),
    Claim(
        "Where domains follow one another, FPF helps too.",
        (
            _less(with_fpf("SGD, domains"), "SGD, domains"),
            _less(with_fpf("ER, domains"), "ER, domains"),
        ),
    ),
    Claim(
        "Normalisations and the last layer, named outright, do as well: within two points.",
        (_less(with_fpf("SGD", "norm head"), with_fpf("SGD"), -0.02),),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """Accuracy and cost; what was tuned; and how far every module moves."""
    runs, plain = results.runs["SGD"], np.mean(results.values("SGD", "flops"))
    return [
        Grid(
            "Accuracy (%) and operations",
            ("arm", "final", "over the way", "stream", "replay", "fine-tuning", "all", "seconds"),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "accuracy")),
                    shown(results.values(arm, "anytime_accuracy")),
                    *_split(results, arm),
                    f"{np.mean(results.values(arm, 'seconds')):.1f}",
                )
                for arm in results.runs
            ),
            note="Operations in Gflop: of steps on the stream, as many as plain training needs for "
            "it; of what was replayed in these steps; and of fine-tuning.",
        ),
        Grid(
            "Accuracy (%) after fine-tuning some modules of the final state",
            ("arm", "none", *TUNED),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "accuracy")),
                    *(
                        shown(results.values(arm, "tuned", what, "accuracy"))
                        if what in results.runs[arm][0]["tuned"]
                        else "-"
                        for what in TUNED
                    ),
                )
                for arm in results.runs
                if results.runs[arm][0]["tuned"]
            ),
        ),
        Grid(
            "What was tuned after plain training",
            (
                "modules",
                "how many",
                "share of weights (%)",
                "operations, of training's (%)",
                "seconds",
            ),
            tuple(
                (
                    what,
                    f"{np.mean([len(run['tuned'][what]['modules']) for run in runs]):.1f}",
                    shown(results.values("SGD", "tuned", what, "share")),
                    f"{100 * np.mean(results.values('SGD', 'tuned', what, 'flops')) / plain:.0f}",
                    f"{np.mean(results.values('SGD', 'tuned', what, 'seconds')):.1f}",
                )
                for what in TUNED
            ),
        ),
        Grid(
            "How far modules move in plain training",
            ("module", "leap", "chosen (%)", "distance x 1000", "domains: leap", "chosen (%)"),
            tuple(
                (
                    name,
                    shown(results.values("SGD", "scores", name), percent=False),
                    _chosen(results, "SGD", name),
                    shown(
                        [1000 * v for v in results.values("SGD", "changes", name)], percent=False
                    ),
                    shown(results.values("SGD, domains", "scores", name), percent=False),
                    _chosen(results, "SGD, domains", name),
                )
                for name in runs[0]["scores"]
            ),
            note="Leap: mean absolute change of a weight in the first epoch of a task over that in "
            "the last epoch of the task before. Distance: between the ends of tasks. Chosen: in "
            "how many of the seeds it was among the sensitive.",
        ),
        Grid(
            "How far running statistics of normalisations move in plain training",
            ("statistics of", "leap", "domains: leap"),
            tuple(
                (
                    name.removeprefix(f"{STATISTICS} "),
                    *(
                        shown([leap(run, name) for run in results.runs[arm]], percent=False)
                        for arm in ("SGD", "SGD, domains")
                    ),
                )
                for name in runs[0]["history"]
                if name.startswith(STATISTICS)
            ),
            note="They are tuned, or frozen, with the scales and shifts that they belong to, and "
            "do not count in the choice.",
        ),
    ]


def leap(run: Measured, name: str) -> float:
    """What of the history of a run is the leap of something that was measured."""
    way = run["history"][name]
    switches = [k for k in range(1, len(way)) if way[k][0] != way[k - 1][0]]
    return float(np.mean([way[k][1] / way[k - 1][1] for k in switches]))


def _split(results: Results, arm: str) -> tuple[str, ...]:
    """Operations on the stream, of replay, of fine-tuning, and all of them."""
    alike = [
        other
        for other in results.runs
        if other.startswith("SGD")
        and results.runs[other][0]["steps"] == results.runs[arm][0]["steps"]
        and ("domains" in other) == ("domains" in arm)
    ]
    whole = np.mean(results.values(arm, "flops"))
    tuning = np.mean(results.values(arm, "tuning_flops"))
    stream = np.mean(results.values(alike[0], "flops"))
    return tuple(f"{round(v / 1e9)}" for v in (stream, whole - tuning - stream, tuning, whole))


def _chosen(results: Results, arm: str, name: str) -> str:
    runs = results.runs[arm]
    share = np.mean([name in run["tuned"]["sensitive"]["modules"] for run in runs])
    return f"{100 * share:.0f}"


POINTS = (
    "SGD",
    "ER",
    "DER++",
    with_fpf("SGD"),
    with_fpf("ER"),
    with_fpf("DER++"),
    "2-FPF-KD",
    "5-FPF-KD",
    "10-FPF-KD",
)


def figures(results: Results) -> list[Figure]:
    """Accuracy against operations, and the modules' changes epoch by epoch."""
    points = [
        Series(
            name.replace(" (sensitive)", ""),
            [float(np.mean(operations(results, name))) / 1e9],
            [100 * float(np.mean(accuracy(results, name)))],
        )
        for name in POINTS
    ]
    return [
        Figure(
            "cost",
            "Final accuracy against the operations of all training (means over seeds).",
            draw([Panel("accuracy per computation", "Gflop", "accuracy (%)", points, points=True)]),
        ),
        Figure(
            "dynamics",
            "How far a weight of each module moves in an epoch of plain training, against the mean "
            "over all epochs of its own (means over seeds). Dashed: switches of tasks.",
            draw([_dynamics(results)]),
        ),
    ]


def _dynamics(results: Results) -> Panel:
    history: Mapping[str, Sequence[Any]] = results.runs["SGD"][0]["history"]
    names = [name for name in history if not name.startswith("statistics")]
    convolutions = [name for name in names if name.startswith("convolution")]
    norms = [name for name in names if name.startswith("norm")]
    drawn = [convolutions[0], convolutions[-1], norms[0], norms[-1], "head"]
    tasks = [task for task, _ in history["head"]]
    series = []
    for name in dict.fromkeys(drawn):
        moves = np.array([[d for _, d in run["history"][name]] for run in results.runs["SGD"]])
        relative = moves / moves.mean(1, keepdims=True)
        series.append(
            Series(name, [float(k + 1) for k in range(len(tasks))], relative.mean(0).tolist())
        )
    marks = [k + 0.5 for k in range(1, len(tasks)) if tasks[k] != tasks[k - 1]]
    return Panel("change of weights", "epoch", "change, of its mean", series, marks)


STUDY = Study(
    name="fpf",
    title="Does continual learning equally forget all parameters?",
    source="Zhao et al., 2023",
    claim=(
        "What a network forgets is in a few of its modules; to fine-tune these on a small memory, "
        "at the end or a few times on the way, takes the place of replay at every step."
    ),
    minutes={"data": 11, "digits": 7, "quick": 0.4},
    data=("fashion-mnist",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A part of Fashion-MNIST, 5 x 2 classes, 300 images a class, a residual network of four "
        "blocks of 8 to 64 maps and 5 epochs; the paper has CIFAR-10, Tiny ImageNet and PACS, a "
        "ResNet-18 and up to 100 epochs.",
        "The form of the score that chooses the modules is ours, and beside it stands the distance "
        "between the ends of tasks. That modules above the geometric mean are chosen was settled "
        "on seed 0, at a slightly smaller size, which is one of the seeds of the verdict.",
        "Rates were not searched. Gradients of fine-tuning are bounded (clip 5).",
        "k-FPF makes as many steps of fine-tuning in all, whatever k, and as many as FPF; of k "
        "fine-tunings those that would come before the first switch is measured are left out, with "
        "nothing to choose modules by: four of five take place, and eight of ten.",
        "Modules at random come in a random order, as many as bring their weights nearest to those "
        "of the sensitive; they may be the same.",
        "What fine-tuning at the end gives is measured on copies of one final state.",
        "Where only one epoch is made the last epoch of a task is its first.",
    ),
)
