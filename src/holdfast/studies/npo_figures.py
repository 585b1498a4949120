"""The losses of NPO's study, and its tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.studies import npo_features
from holdfast.studies.study import Figure, Grid, Results, shown
from holdfast.studies.svg import Panel, Series, draw, over_seeds

OVERLAP, APART = "points, overlapping", "points, apart"
SMALLER, ALONE = "NPO+retain, beta 0.03", "NPO+retain, one wording"
RATE = 5e-4
"""Of all losses in the second part, but for those whose gradient is of another size."""

LOSSES: dict[str, tuple[str, float]] = {
    "GA": ("ga", RATE),
    "GradDiff": ("ga+retain", RATE),
    "KL": ("ga+retain_kl", RATE),
    "NPO": ("npo(beta=0.1)", RATE),
    "NPO+retain": ("npo(beta=0.1)+retain", RATE),
    SMALLER: ("npo(beta=0.03)+retain", RATE),
    ALONE: ("npo(beta=0.1)+retain", RATE),
    "NPO+KL": ("npo(beta=0.1)+retain_kl", RATE),
    "NPO+LwF": ("npo(beta=0.1)+lwf", RATE),
    "DPO": ("dpo(beta=0.1)", RATE),
    "DPO+retain": ("dpo(beta=0.1)+retain", RATE),
    "IDK": ("idk", RATE),
    "KTO+retain": ("kto(beta=0.1)+retain", RATE),
    "SimNPO+retain": ("simnpo(weight=1)+retain", RATE),
    "RMU": ("rmu(steering=20)", 3e-3),
    "UNDIAL+retain": ("undial+retain", 1e-3),
    "WGA+retain": ("wga+retain", RATE),
    "SatImp+retain": ("satimp(weight=20)+retain", RATE),
}
"""Method and learning rate of every arm of the second part."""

FOLLOWED = ("GA", "GradDiff", "KL", "NPO", "NPO+retain")
"""Losses that claims are about: they are looked at after every epoch, the others after some."""

DRAWN = {
    "ascent": ("Gradient ascent and NPO", ("GA", "GradDiff", "KL", "NPO", "NPO+retain")),
    "terms": (
        "NPO with what keeps the rest",
        ("NPO+retain", SMALLER, ALONE, "NPO+KL", "NPO+LwF"),
    ),
    "refusals": ("Losses that teach refusals", ("DPO", "DPO+retain", "IDK", "KTO+retain")),
    "others": (
        "Further losses",
        ("SimNPO+retain", "RMU", "UNDIAL+retain", "WGA+retain", "SatImp+retain"),
    ),
}
"""Losses that are drawn together."""


def of_points(clouds: str, method: str, what: str) -> Callable[[Results], list[float]]:
    """A number of the first part, one a seed."""
    return lambda results: results.values(clouds, "methods", method, what)


def growth(results: Results, name: str) -> list[float]:
    """The power by which a distance grows over the second half: 1 is in proportion to time."""
    ways = [run["drift"][name] for run in results.runs[APART]]
    return [math.log2(way[-1] / way[(len(way) - 1) // 2]) for way in ways]


def grids(results: Results) -> list[Grid]:
    """Both parts, and how far weights drift."""
    header = ("loss", "forget, least", "retain, then", "forget, end", "retain, end")
    columns = ("best", "retain_at_best", "end", "retain_at_end")
    found = [
        Grid(
            f"{clouds}: KL from the model that never knew (hundredths of a nat)",
            header,
            tuple(
                (m, *(shown(of_points(clouds, m, column)(results)) for column in columns))
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
                    shown(growth(results, name), percent=False),
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
                [average([run["way"][-1]["utility"] for run in results.runs[arm]])],
                [average(results.values(arm, "log10_p"))],
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
    return over_seeds(label, x, zip(*ways, strict=True))


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
