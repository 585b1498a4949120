"""Worst-case forget sets: does unlearning look better on random sets than it is?

Claim: unlearning is judged on forget sets drawn at random. A set chosen by bi-level optimisation to
be hardest to forget, with what is kept as useful as before, is one that even retraining still
answers right; on it, methods that give wrong labels are far from retraining, while random sets hide
that; and what is hard to forget for one method is hard for the others.

Source: Fan et al., "Challenging forgets: Unveiling the worst-case forget sets in machine
unlearning" (2024).

Run: a part of Fashion-MNIST and a small convolutional network; or the digits and a perceptron. A
tenth of the training examples is to be forgotten: the worst-case set, the easiest, and three random
ones. On each, nine ways of unlearning beside retraining. Controls: the examples that have the
smallest loss anyway, a search whose lower level retrains, and one whose weights step too little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import catalogue, models, streams
from holdfast.data import Table
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.method import Method
from holdfast.methods import Finetune
from holdfast.optim import schedules
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
from holdfast.studies.svg import Panel, Series, draw, over_seeds
from holdfast.unlearning.request import request
from holdfast.unlearning.scores import scores
from holdfast.unlearning.worst_case import worst_case

RANDOM = ("random 1", "random 2", "random 3")
WORST, EASIEST = "worst case", "easiest"

CHOICES: dict[str, Mapping[str, Any]] = {
    WORST: {"kind": "search"},
    EASIEST: {"kind": "search", "reverse": True},
    **{name: {"kind": "random", "draw": place} for place, name in enumerate(RANDOM)},
    "smallest losses": {"kind": "smallest losses"},
    "worst case, lower level retrains": {"kind": "search", "lower": "retrain"},
    "worst case, upper rate 0.1": {"kind": "search", "upper_rate": 0.1},
}
"""How each arm's forget set is chosen. All but the last three are for every method."""

CONTROLS = ("smallest losses", "worst case, lower level retrains", "worst case, upper rate 0.1")

RELABELLING = ("random_labels", "salun", "ga")
OTHERS = (
    "finetune_retain",
    "l1_sparse",
    "random_labels",
    "salun",
    "ga",
    "scrub",
    "boundary_expand",
    "boundary_shrink",
    "eu_k",
)

SPECS = {"scrub": "scrub(max_steps=1)"}
"""Where a method is not as it is by default: few passes mend after one max pass, not after two."""

WAYS: dict[Scale, dict[str, tuple[int, float]]] = {
    "data": {
        "finetune_retain": (4, 0.1),
        "l1_sparse": (4, 0.05),
        "random_labels": (4, 0.01),
        "salun": (4, 0.01),
        "ga": (2, 0.01),
        "scrub": (4, 0.01),
        "boundary_expand": (4, 0.0005),
        "boundary_shrink": (4, 0.0005),
        "eu_k": (4, 0.1),
    },
    "digits": {
        "finetune_retain": (10, 0.2),
        "l1_sparse": (10, 0.1),
        "random_labels": (10, 0.01),
        "salun": (10, 0.02),
        "ga": (5, 0.01),
        "scrub": (10, 0.05),
        "boundary_expand": (10, 0.0005),
        "boundary_shrink": (10, 0.002),
        "eu_k": (10, 0.05),
    },
    "quick": {name: (2, 0.01) for name in OTHERS},
}
"""Passes and learning rate of every method, fixed on a random set of seed 100, which no verdict
uses: for each method the rate with the smallest average gap to retraining."""


def arms(scale: Scale) -> dict[str, Settings]:
    """One arm a forget set, each with all methods, or with retraining alone."""
    base: Settings = {
        "stream": {
            "data": "split-fashion-mnist(limit=6000, test_limit=2000)",
            "digits": "split-digits(limit=1200)",
            "quick": "split-digits(limit=120, test_limit=60)",
        }[scale],
        "pool": scale == "data",
        "model": "cnn(width=24)" if scale == "data" else "mlp(width=128, depth=1)",
        "size": {"data": 600, "digits": 120, "quick": 12}[scale],
        "epochs": {"data": 20, "digits": 40, "quick": 6}[scale],
        "rate": {"data": 0.1, "digits": 0.05, "quick": 0.05}[scale],
        "batch_size": 64,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "steps(0.5, 0.75, factor=0.1)",
        "attackers": 1000,
        "search": {
            "iterations": {"data": 10, "digits": 20, "quick": 3}[scale],
            "epochs": {"data": 1, "digits": 5, "quick": 1}[scale],
            "rate": 1e-3,
            "batch_size": 64,
            "penalty": 1e-4,
        },
    }
    ways = {name: list(way) for name, way in WAYS[scale].items()}
    return {
        name: {**base, "choice": dict(choice), "methods": {} if name in CONTROLS else ways}
        for name, choice in CHOICES.items()
    }


def measure(settings: Settings, seed: int) -> Measured:
    """One forget set: how it was found, and every method on it, retraining first."""
    trained = _original(json.dumps({k: settings[k] for k in _TRAINING}), seed)
    stream = trained.stream
    assert stream is not None
    whole = stream[0]
    rows, found = _choose(settings, trained, whole.train, seed)
    asked = request(
        whole.train, rows, whole.test, classes=stream.classes, scale=stream.scale, name="forget"
    )
    sets = (asked[0].train, asked[0].sets["retain"], whole.test)
    ways = {"retrain": (settings["epochs"], settings["rate"]), **settings["methods"]}
    measured: dict[str, Any] = {}
    gold = None
    for name, (epochs, rate) in ways.items():
        learner = _learner(
            settings,
            deepcopy(trained.model),
            catalogue.build(SPECS.get(name, name)),
            epochs,
            rate,
            seed + 1,
        )
        learner.learn(asked)
        got = scores(learner, *sets, attackers=settings["attackers"], seed=seed)
        gold = gold or got
        gaps = got.gaps(gold)
        measured[name] = {
            **{key: value for key, value in got.to_dict().items() if key != "attacks"},
            "gap": gaps["average"],
            "gaps": gaps,
            "loss": float(_losses(learner, sets[0]).mean()),
        }
    return {"methods": measured, **found}


_TRAINING = (
    "stream", "pool", "model", "epochs", "rate", "batch_size", "momentum", "weight_decay",
    "schedule",
)  # fmt: skip


@lru_cache(maxsize=1)
def _original(training: str, seed: int) -> Learner:
    """The model before, trained once for all forget sets of a seed: it is the same for all."""
    settings: Settings = json.loads(training)
    stream = streams.build(settings["stream"], seed=seed, experiences=1)
    stream = pooled(stream) if settings["pool"] else stream
    model = models.build(settings["model"], stream, seed=seed)
    learner = _learner(settings, model, Finetune(), settings["epochs"], settings["rate"], seed)
    learner.learn(stream)
    return learner


def pooled(stream: Stream) -> Stream:
    """Images of half the height and width: means of 2 x 2 pixels, as bytes."""

    def half(table: Table) -> Table:
        return table.with_columns(x=F.avg_pool2d(table["x"].float(), 2).round().to(torch.uint8))

    experiences = [replace(e, train=half(e.train), test=half(e.test)) for e in stream]
    shape = tuple(experiences[0].train["x"].shape[1:])
    return replace(stream, experiences=experiences, shape=shape)


def _learner(
    settings: Settings, model: Any, method: Method, epochs: int, rate: float, seed: int
) -> Learner:
    return Learner(
        model,
        method,
        optimizer=partial(
            torch.optim.SGD,
            lr=rate,
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        ),
        epochs=epochs,
        batch_size=settings["batch_size"],
        schedule=schedules.build(settings["schedule"]),
        seed=seed,
    )


def _choose(
    settings: Settings, trained: Learner, table: Table, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """The rows to forget, and what is to be told of the way to them."""
    choice, size = settings["choice"], settings["size"]
    if choice["kind"] == "random":
        generator = torch.Generator().manual_seed(100 * seed + choice["draw"])
        return torch.randperm(len(table), generator=generator)[:size], {}
    if choice["kind"] == "smallest losses":
        return _losses(trained, table).argsort()[:size], {}
    changed = {name: value for name, value in choice.items() if name != "kind"}
    found = worst_case(trained.model, table, size, seed=seed, **settings["search"], **changed)
    return found.rows, {
        "losses": found.losses,
        "chosen_losses": found.chosen_losses,
        "decrease": 1 - found.losses[-1] / found.losses[0],
        "moved": found.moved,
        "upper_rate": found.upper_rate,
    }


def _losses(learner: Learner, table: Table) -> Tensor:
    """The loss of every example."""
    with undisturbed(learner.model, learner.method):
        found = [
            learner.objective.losses(learner.predict(batch), batch) for batch in table.chunks(1024)
        ]
    return torch.cat(found)


def _mean_of_random(results: Results, method: str, what: str) -> list[float]:
    """Of the three random sets, seed by seed."""
    each = [results.values(arm, "methods", method, what) for arm in RANDOM]
    means: list[float] = np.mean(each, axis=0).tolist()
    return means


def _beyond_random(
    method: str, what: str, words: str, arm: str = WORST, sign: int = 1
) -> Condition:
    """A number on a set minus its mean on the random sets, or the other way round."""

    def difference(results: Results) -> list[float]:
        own, random = (
            results.values(arm, "methods", method, what),
            _mean_of_random(results, method, what),
        )
        return [sign * (a - b) for a, b in zip(own, random, strict=True)]

    sides = (f"{arm} minus random", f"random minus {arm}")
    told = f"{words} {method}: {sides[0] if sign > 0 else sides[1]}"
    return Condition(told, difference, percent=what != "loss")


def _larger_gap(method: str, other: str = "finetune_retain") -> Condition:
    def difference(results: Results) -> list[float]:
        gaps = [results.values(WORST, "methods", name, "gap") for name in (method, other)]
        return [a - b for a, b in zip(*gaps, strict=True)]

    return Condition(f"average gap on the worst-case set: {method} minus {other}", difference)


CLAIMS = (
    Claim(
        "What is hardest to forget is answered right even by a model that never saw it.",
        (
            _beyond_random("retrain", "unlearning", "UA of", sign=-1),
            Condition(
                "UA of retrain: half of random's minus the worst case's",
                lambda results: [
                    half / 2 - own
                    for half, own in zip(
                        _mean_of_random(results, "retrain", "unlearning"),
                        results.values(WORST, "methods", "retrain", "unlearning"),
                        strict=True,
                    )
                ],
            ),
        ),
    ),
    Claim(
        "The search finds such sets: the upper loss falls.",
        (
            Condition(
                "upper loss: share of the first iteration's that is gone at the last",
                lambda results: results.values(WORST, "decrease"),
                bound=0.5,
            ),
        ),
    ),
    Claim(
        "On the worst-case set, methods that work against the labels are further from retraining "
        "than fine-tuning on what is kept.",
        tuple(_larger_gap(method) for method in RELABELLING),
    ),
    Claim(
        "Random sets hide this: on the worst-case set the relabelling methods are further from "
        "retraining than on random ones.",
        tuple(_beyond_random(m, "gap", "average gap of") for m in ("random_labels", "salun")),
    ),
    Claim(
        "What is hard for fine-tuning is hard for the others: after each method the loss on the "
        "set is smaller than on random ones.",
        tuple(
            _beyond_random(method, "loss", "loss after", sign=-1) for method in ("retrain", *OTHERS)
        ),
    ),
    Claim(
        "The same search, reversed, finds sets that are easier to forget than random ones.",
        (_beyond_random("retrain", "unlearning", "UA of", arm=EASIEST),),
    ),
    Claim(
        "The search finds harder sets than taking the examples of smallest loss.",
        (
            Condition(
                "loss after retrain: smallest losses minus worst case",
                lambda results: results.less(
                    "smallest losses", WORST, "methods", "retrain", "loss"
                ),
                percent=False,
            ),
        ),
        by="us",
    ),
    Claim(
        "A lower level that retrains finds hard sets, too.",
        (
            _beyond_random(
                "retrain", "unlearning", "UA of", "worst case, lower level retrains", sign=-1
            ),
        ),
        by="us",
    ),
    Claim(
        "With a rate that is small against 1 / loss the search stays at its random start.",
        (
            Condition(
                "share of examples not in the start, at an upper rate of 0.1",
                lambda results: results.values("worst case, upper rate 0.1", "moved"),
                bound=0.05,
                side="below",
            ),
        ),
        by="us",
    ),
)


SETS = (WORST, "random", EASIEST)


def _cell(results: Results, arm: str, method: str, what: str) -> list[float]:
    if arm == "random":
        return _mean_of_random(results, method, what)
    return results.values(arm, "methods", method, what)


def grids(results: Results) -> list[Grid]:
    """Scores by method and set, and what was found on the way."""
    tables = []
    for arm in SETS:
        rows = tuple(
            (
                method,
                *(
                    shown(_cell(results, arm, method, what))
                    for what in ("unlearning", "retain", "test", "membership", "gap")
                ),
                shown(_cell(results, arm, method, "loss"), percent=False),
                shown(_cell(results, arm, method, "seconds"), percent=False),
            )
            for method in ("retrain", *OTHERS)
        )
        name = "Random sets (mean of three)" if arm == "random" else f"The {arm} set"
        header = ("method", "UA", "RA", "TA", "MIA", "average gap", "forget loss", "seconds")
        tables.append(Grid(f"{name}: scores (%) after unlearning", header, rows))
    controls = tuple(
        (
            arm,
            shown(results.values(arm, "methods", "retrain", "unlearning")),
            shown(results.values(arm, "methods", "retrain", "loss"), percent=False),
            shown(results.values(arm, "decrease")) if "losses" in results.runs[arm][0] else "-",
            shown(results.values(arm, "moved")) if "losses" in results.runs[arm][0] else "-",
        )
        for arm in results.runs
    )
    told = ("set", "UA (%)", "forget loss", "upper loss gone (%)", "not in the start (%)")
    return [*tables, Grid("Every set: retraining, and the search", told, controls)]


def figures(results: Results) -> list[Figure]:
    """Gap and UA by method and kind of set, and the upper loss on the way."""
    names = ["retrain", *OTHERS]

    def bars(what: str) -> list[Series]:
        found = {arm: [_cell(results, arm, method, what) for method in names] for arm in SETS}
        places = list(range(len(names)))
        return [over_seeds(arm, places, cells, 100) for arm, cells in found.items()]

    ways = [
        Series(
            arm,
            list(range(1, len(results.runs[arm][0]["losses"]) + 1)),
            np.mean([run["losses"] for run in results.runs[arm]], axis=0).tolist(),
        )
        for arm in (WORST, EASIEST)
    ]
    short = [name.replace("_", " ") for name in names]
    return [
        Figure(
            "scores",
            "Error on the forget set after unlearning, and average gap to retraining, by kind of "
            "forget set (95 % intervals).",
            draw(
                [
                    Panel("error on the forget set (UA)", "", "%", bars("unlearning"), names=short),
                    Panel("average gap to retraining", "", "%", bars("gap"), names=short),
                ]
            ),
        ),
        Figure(
            "search",
            "Upper loss by iteration: the mean loss on the weighted set after unlearning it.",
            draw([Panel("upper loss", "iteration", "nats", ways)]),
        ),
    ]


STUDY = Study(
    name="worst-case-forget-sets",
    title="Challenging forgets: Unveiling the worst-case forget sets in machine unlearning",
    source="Fan et al., 2024",
    claim=(
        "Random forget sets hide how far approximate unlearning is from retraining; sets chosen to "
        "be hardest to forget show it."
    ),
    minutes={"data": 28, "digits": 4, "quick": 0.4},
    data=("fashion-mnist",),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "6,000 images of Fashion-MNIST at half their height and width, a network of three "
        "convolutions and 20 epochs; the paper has CIFAR, Tiny-ImageNet, CelebA and ImageNet, "
        "ResNets, VGG and Swin, and 182 epochs.",
        "The search takes 10 iterations with one epoch below each; the weights' rate is set from "
        "the median loss.",
        "Every method's learning rate was chosen on a random set of a seed that no verdict uses, "
        "by the smallest average gap to retraining.",
        "Attacks are fitted on 1,000 retained and 1,000 test examples.",
        "Concept sets for diffusion models and classes of ImageNet are not run; the search over "
        "classes is in the library.",
    ),
)
