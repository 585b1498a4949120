"""Negative preference optimization: does a bounded loss forget without collapse?

Claim: gradient ascent on what is to be forgotten drives a model to collapse; a loss that treats it
as an answer that is not preferred collapses far more slowly, keeps the model useful, and forgets
better.

Source: Zhang et al., "Negative Preference Optimization: From Catastrophic Collapse to Effective
Unlearning" (2024).

Run: in two parts. The first is the paper's own, exactly: logistic regression on random features
forgets one of two clouds of points, which overlap or lie apart, by eleven losses and by NPO with
five betas at one rate. The second is TOFU's: a small Llama that has learned fictitious authors by
heart forgets some of them by seventeen losses; on the way its truth ratios are held against those
of a model that was trained on everything else alone, and its utility is measured on the authors to
be kept, on real authors and on facts about the world. Without TOFU's files, authors are made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from holdfast import metrics
from holdfast.streams.language import tofu
from holdfast.studies import npo_features
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

OVERLAP, APART = "points, overlapping", "points, apart"
LOSSES: dict[str, tuple[str, float]] = {
    "GA": ("ga", 5e-4),
    "GradDiff": ("ga+retain", 5e-4),
    "KL": ("ga+retain_kl", 5e-4),
    "NPO": ("npo(beta=0.1)", 5e-4),
    "NPO+retain": ("npo(beta=0.1)+retain", 5e-4),
    "NPO+KL": ("npo(beta=0.1)+retain_kl", 5e-4),
    "NPO+LwF": ("npo(beta=0.1)+lwf", 5e-4),
    "NPO+L2": ("npo(beta=0.1)+l2(0.1)", 5e-4),
    "DPO": ("dpo(beta=0.1)", 5e-4),
    "DPO+retain": ("dpo(beta=0.1)+retain", 5e-4),
    "IDK": ("idk", 5e-4),
    "KTO+retain": ("kto(beta=0.1)+retain", 5e-4),
    "SimNPO+retain": ("simnpo+retain", 5e-4),
    "RMU": ("rmu", 5e-4),
    "UNDIAL+retain": ("undial+retain", 5e-4),
    "WGA+retain": ("wga+retain", 5e-4),
    "SatImp+retain": ("satimp+retain", 5e-4),
}
"""Method and learning rate of every arm of the second part."""

FOLLOWED = ("GA", "GradDiff", "KL", "NPO", "NPO+retain")
"""Losses that claims are about: they are looked at after every epoch, the others after some."""

DRAWN = {
    "ascent": ("Gradient ascent and NPO", ("GA", "GradDiff", "KL", "NPO", "NPO+retain")),
    "terms": ("NPO with what keeps the rest", ("NPO", "NPO+retain", "NPO+KL", "NPO+LwF", "NPO+L2")),
    "refusals": ("Losses that teach refusals", ("DPO", "DPO+retain", "IDK", "KTO+retain")),
    "others": (
        "Further losses",
        ("SimNPO+retain", "RMU", "UNDIAL+retain", "WGA+retain", "SatImp+retain"),
    ),
}
"""Losses that are drawn together."""


def arms(scale: Scale) -> dict[str, Settings]:
    """Both parts at a scale.

    The first part is the paper's, learning rates and betas included. Of the second, sizes are what
    time allows. Betas are the paper's.
    """
    quick = scale == "quick"
    points: Settings = {
        "part": "points",
        "fit_steps": 200 if quick else 20_000,
        "steps": 50 if quick else 2000,
        "drift": 1000 if quick else 10_000,
    }
    language: Settings = {
        "part": "authors",
        "width": 16 if quick else 128,
        "depth": 2 if quick else 4,
        "vocabulary": 512 if quick else 2048,
        "forgotten": 1 if quick else 4,
        "memorise": 1 if quick else 12,
        "look": 10 if quick else 16,
        "epochs": 1 if quick else 8,
        "asked": "both",
    }
    if scale == "data":
        real = {"world": "tofu", "questions": 10, "wrong": 3, "others": 40, "read": 2}
        language = {**language, **real}
    else:
        language = {**language, "world": "authors", "authors": 4 if quick else 20, "read": 0}
    found: dict[str, Settings] = {
        OVERLAP: {**points, "clouds": "overlapping", "drift": 0},
        APART: {**points, "clouds": "apart"},
    }
    for arm, (method, lr) in LOSSES.items():
        looks = 1 if quick else language["epochs"] if arm in FOLLOWED else 4
        found[arm] = {**language, "method": method, "lr": lr, "looks": looks}
    return found


def measure(settings: Settings, seed: int) -> Measured:
    """One arm: all losses on one arrangement of points, or one loss on the authors."""
    if settings["part"] == "points":
        return npo_features.measure(
            settings["clouds"], seed, settings["fit_steps"], settings["steps"], settings["drift"]
        )
    from holdfast.studies import npo_authors

    return npo_authors.measure(settings, seed)


def _points(clouds: str, method: str, what: str) -> Callable[[Results], list[float]]:
    return lambda results: results.values(clouds, "methods", method, what)


def _apart(clouds: str, what: str, one: str, other: str, words: str, bound: float = 0) -> Condition:
    def difference(results: Results) -> list[float]:
        pairs = zip(
            _points(clouds, one, what)(results), _points(clouds, other, what)(results), strict=True
        )
        return [a - b for a, b in pairs]

    return Condition(f"{words}: {one} minus {other} (nats)", difference, bound, percent=False)


def _held(results: Results, arm: str) -> list[float]:
    """Utility by that before, mean over the epochs; NaN where there was none before."""
    ways = [[point["utility"] for point in run["way"]] for run in results.runs[arm]]
    return [_mean(way[1:]) / way[0] if way[0] else math.nan for way in ways]


def _growth(results: Results, name: str) -> list[float]:
    """The power by which a distance grows over the second half: 1 is in proportion to time."""
    ways = [run["drift"][name] for run in results.runs[APART]]
    return [math.log2(way[-1] / way[(len(way) - 1) // 2]) for way in ways]


def _early(results: Results, name: str) -> list[float]:
    """The distance after a tenth of the steps, by that of gradient ascent."""
    runs = [run["drift"] for run in results.runs[APART]]
    return [run[name][len(run[name]) // 10] / run["GA"][len(run["GA"]) // 10] for run in runs]


def _least_step(results: Results) -> list[float]:
    """By seed, the least rise of the growing power from one beta to the next smaller, and to GA."""
    names = ["GA", *(f"{beta:g}" for beta in npo_features.BETAS)]
    powers = [_growth(results, name) for name in names]
    return [min(a - b for a, b in pairwise(seed)) for seed in zip(*powers, strict=True)]


CLAIMS = (
    Claim(
        "Where the clouds overlap, NPO comes closer to the model that never knew, and does not run "
        "on.",
        (
            _apart(OVERLAP, "best", "GA", "NPO", "least divergence on the forget set"),
            _apart(OVERLAP, "best", "GradDiff", "NPO+retain", "least divergence on the forget set"),
            _apart(
                OVERLAP, "retain_at_end", "GA", "NPO", "divergence on the retain set at the end"
            ),
        ),
    ),
    Claim(
        "Where they lie apart all forget, but gradient ascent ruins what is kept.",
        (
            _apart(
                APART, "retain_at_end", "GA", "NPO", "divergence on what is kept at the end", 0.5
            ),
            _apart(
                APART,
                "retain_at_best",
                "GradDiff",
                "NPO+retain",
                "divergence on the retain set where the forget set is closest",
            ),
            Condition(
                "least divergence on the forget set by IDK (nats)",
                _points(APART, "IDK", "best"),
                0.5,
                percent=False,
            ),
        ),
    ),
    Claim(
        "The smaller beta, the more NPO drifts as gradient ascent does; larger ones drift far more "
        "slowly.",
        (
            Condition(
                "distance after a tenth of the steps, beta 0.01 by gradient ascent",
                lambda results: _early(results, "0.01"),
                0.9,
            ),
            Condition(
                "power by which the distance grows, gradient ascent",
                lambda results: _growth(results, "GA"),
                0.9,
                percent=False,
            ),
            Condition(
                "power by which the distance grows, beta 1",
                lambda results: _growth(results, "1"),
                0.5,
                "below",
                percent=False,
            ),
            Condition(
                "least rise of that power to the next smaller beta", _least_step, percent=False
            ),
        ),
    ),
    Claim(
        "On the authors gradient ascent collapses, and NPO with a retain term keeps most of the "
        "utility.",
        (
            Condition(
                "utility at the end by that before, GA",
                lambda results: results.values("GA", "kept"),
                0.1,
                "below",
            ),
            Condition(
                "utility at the end by that before, NPO+retain",
                lambda results: results.values("NPO+retain", "kept"),
                0.8,
            ),
        ),
    ),
    Claim(
        "NPO with a retain term forgets better than gradient ascent.",
        (
            Condition(
                "log10 p of forget quality at the end: NPO+retain minus GA",
                lambda results: results.less("NPO+retain", "GA", "log10_p"),
                percent=False,
            ),
            Condition(
                "log10 p of forget quality: NPO+retain at the end minus before",
                lambda results: [
                    end - before
                    for end, before in zip(
                        results.values("NPO+retain", "log10_p"),
                        results.values("NPO+retain", "before_log10_p"),
                        strict=True,
                    )
                ],
                percent=False,
            ),
        ),
    ),
    Claim(
        "Also without a retain term NPO collapses more slowly than gradient ascent.",
        (
            Condition(
                "utility by that before, mean over all epochs: NPO minus GA",
                lambda results: [
                    npo - ga
                    for npo, ga in zip(_held(results, "NPO"), _held(results, "GA"), strict=True)
                ],
            ),
        ),
    ),
    Claim(
        "With a retain term NPO is no worse than gradient difference at any time at which four "
        "fifths of the utility are left.",
        (
            Condition(
                "best log10 p of forget quality on the way: NPO+retain minus GradDiff",
                lambda results: results.less("NPO+retain", "GradDiff", "usable"),
                -0.5,
                percent=False,
            ),
        ),
        by="us",
    ),
)


def grids(results: Results) -> list[Grid]:
    """Both parts, and how far weights drift."""
    header = ("loss", "forget, least", "retain, then", "forget, end", "retain, end")
    columns = ("best", "retain_at_best", "end", "retain_at_end")
    found = [
        Grid(
            f"{clouds}: KL from the model that never knew (hundredths of a nat)",
            header,
            tuple(
                (m, *(shown(_points(clouds, m, column)(results)) for column in columns))
                for m in npo_features.METHODS
            ),
        )
        for clouds in (OVERLAP, APART)
    ]
    found.append(
        Grid(
            "How weights drift at one learning rate",
            ("loss", "distance at the end", "power by which it grows"),
            tuple(
                (
                    name if name == "GA" else f"NPO, beta {name}",
                    shown([run["drift"][name][-1] for run in results.runs[APART]], percent=False),
                    shown(_growth(results, name), percent=False),
                )
                for name in results.runs[APART][0]["drift"]
            ),
        )
    )
    found.append(
        Grid(
            "Authors: utility kept, probability and extraction strength of what is forgotten, and "
            "membership by loss (%); log10 p of forget quality",
            (
                "loss",
                "utility kept",
                "log10 p, end",
                "log10 p, best usable",
                "probability",
                "extraction",
                "membership",
            ),
            tuple(
                (
                    arm,
                    shown(results.values(arm, "kept")),
                    shown(results.values(arm, "log10_p"), percent=False),
                    shown(results.values(arm, "usable"), percent=False),
                    shown(results.values(arm, "forget_probability")),
                    shown(results.values(arm, "extraction")),
                    shown(results.values(arm, "membership")),
                )
                for arm in LOSSES
            ),
        )
    )
    return found


def figures(results: Results) -> list[Figure]:
    """Divergences on the way, and forget quality against utility."""
    methods = ("GA", "GradDiff", "NPO", "NPO+retain", "DPO+retain", "IDK")
    panels = [
        Panel(
            f"{clouds}: on the {part} set",
            "steps (x 25)",
            "KL, nats",
            [_way(results, clouds, method, part) for method in methods],
        )
        for clouds in (OVERLAP, APART)
        for part in ("forget", "retain")
    ]
    ends = Panel(
        "after the last epoch",
        "model utility",
        "log10 p of forget quality",
        [
            Series(
                arm,
                [_mean([run["way"][-1]["utility"] for run in results.runs[arm]])],
                [_mean(results.values(arm, "log10_p"))],
            )
            for arm in LOSSES
        ],
        points=True,
    )
    return [
        Figure("points", "Divergence from the model that never knew, by steps.", draw(panels)),
        *(
            Figure(name, f"{caption}: utility and forget quality.", draw(_ways(results, losses)))
            for name, (caption, losses) in DRAWN.items()
        ),
        Figure("trade", "Forget quality against utility at the end.", draw([ends])),
    ]


def _ways(results: Results, losses: Sequence[str]) -> list[Panel]:
    return [
        Panel(title, "epoch", label, [_epochs(results, arm, key) for arm in losses])
        for title, label, key in (
            ("model utility", "", "utility"),
            ("forget quality", "log10 p", "log10_p"),
        )
    ]


def _way(results: Results, clouds: str, method: str, part: str) -> Series:
    ways = [run["methods"][method]["way"][part] for run in results.runs[clouds]]
    return _series(method, list(range(len(ways[0]))), ways)


def _epochs(results: Results, arm: str, key: str) -> Series:
    points: list[Sequence[Mapping[str, Any]]] = [run["way"] for run in results.runs[arm]]
    return _series(arm, [p["epoch"] for p in points[0]], [[p[key] for p in way] for way in points])


def _series(label: str, x: Sequence[float], ways: Sequence[Sequence[float]]) -> Series:
    points = [metrics.interval(list(at)) for at in zip(*ways, strict=True)]
    return Series(label, x, [mean for mean, _ in points], [half for _, half in points])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


STUDY = Study(
    name="npo",
    title="Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    source="Zhang et al., 2024",
    claim=(
        "A bounded loss on what is to be forgotten unlearns it where gradient ascent ruins the "
        "model."
    ),
    minutes={"data": 35, "digits": 30, "quick": 1},
    data=(*tofu.FILES, "tofu/forget10.jsonl.gz", "tofu/idontknow.jsonl"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "The part on points is the paper's but for its seeds.",
        "In place of Llama 2 of 7 billion weights, a Llama of a million, which has read of TOFU's "
        "other authors before (their ten shortest questions), and nothing else.",
        "Of the 20 authors of TOFU's forget set, who alone have paraphrases and wrong answers, the "
        "seed says which 4 are to be forgotten; the other 16 are the retain set. Of every author "
        "the ten questions with the shortest answers are taught, with three of five wrong answers.",
        "So small a model knows no real authors and no facts about the world: 40 of either are "
        "taught to it and to the model that never knew, and never forgotten, so that utility is "
        "TOFU's harmonic mean of nine numbers.",
        "Nor does it carry a fact from one wording to another: everything is taught in the words "
        "of the answer and of its paraphrase. The request to forget has the answers alone.",
        "Utility is measured on 16 questions of a set, and ROUGE on the first 32 tokens that the "
        "model writes.",
        "The learning rate is far above the paper's, for a model seven thousand times smaller, and "
        "stays up after its epoch of warm-up.",
        "Without TOFU's files, 20 authors of 10 questions made up here take their place; utility "
        "is then the harmonic mean of the retain set's three numbers.",
    ),
)
