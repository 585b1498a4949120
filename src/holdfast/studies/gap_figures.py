"""The pictures of the stability-gap study."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from holdfast.studies.study import Figure, Results
from holdfast.studies.svg import Panel, Series, draw, over_seeds

BY_STEP_SIZE = {
    "0.01": "replay, SGD 0.01",
    "0.05": "replay, SGD 0.05",
    "0.2": "replay, SGD 0.2",
    "0.01, momentum 0.9": "replay, class",
    "0.05, momentum 0.9": "replay, SGD 0.05 momentum 0.9",
    "Adam 0.001": "replay, Adam 0.001",
}
BY_ANGLE = {
    "10 degrees": "replay, 10 degrees",
    "45 degrees": "replay, domain",
    "90 degrees": "replay, 90 degrees",
}
"""Bars of the figure of depths: label to arm."""


def figures(results: Results) -> list[Figure]:
    """Curves of the first test set, depth of the gap, and gradients after a switch."""
    return [
        Figure(
            "curves",
            "Accuracy on the first task's test set at every step, mean over seeds (band: 95 % "
            "interval of replay's). Dashed: switches of tasks, the only places that evaluation "
            "after tasks would see.",
            draw([_curves(results, scenario) for scenario in ("class", "task", "domain")]),
        ),
        Figure(
            "depth",
            "Loss of accuracy on old tasks (95 % intervals) by step size and by dissimilarity of "
            "tasks. Drop: down to the lowest point; dip: the part that comes back.",
            draw(
                [
                    _depth(results, "class-incremental replay by step size", BY_STEP_SIZE),
                    _depth(results, "rotated tasks: replay by angle", BY_ANGLE),
                ]
            ),
        ),
        Figure(
            "gradients",
            "Norm of the stability gradient over that of the plasticity gradient in the steps "
            "after a switch, mean over switches and seeds; cut at 3.",
            draw([_gradients(results, "class"), _gradients(results, "domain")]),
        ),
    ]


def _curves(results: Results, scenario: str) -> Panel:
    names = [n for n in results.runs if n.endswith(f", {scenario}") and not n.startswith("er,")]
    series, marks = [], []
    for name in names:
        runs = results.runs[name]
        length = min(len(run["curve"]) for run in runs)
        scores = np.array([[row[0] for row in run["curve"][:length]] for run in runs])
        during = np.array(runs[0]["during"][:length])
        first = name.startswith("replay")
        half = _halves(scores) if first else None
        if first:
            marks = [float(step) for step in np.flatnonzero(np.diff(during)) + 1]
        if name.startswith("cumulative"):
            continue  # its experiences grow, so its steps are not those of the others
        y = [100 * value for value in scores.mean(0).tolist()]
        steps = [float(step + 1) for step in range(length)]
        series.append(Series(name.split(",")[0], steps, y, half))
    return Panel(
        f"{scenario}-incremental", "step", "accuracy on task 1 (%)", series, marks, (0, 100)
    )


def _halves(scores: NDArray[np.float64]) -> list[float] | None:
    if len(scores) < 2:
        return None
    from scipy.stats import t

    factor = float(t.ppf(0.975, len(scores) - 1)) / math.sqrt(len(scores))
    return [100 * factor * value for value in scores.std(0, ddof=1).tolist()]


def _depth(results: Results, title: str, arms: Mapping[str, str]) -> Panel:
    bars = []
    for what in ("drop", "dip"):
        found = [results.values(arm, "gap", what) for arm in arms.values()]
        bars.append(over_seeds(what, range(len(arms)), found, 100))
    return Panel(title, "", "accuracy lost (%)", bars, names=list(arms))


def _gradients(results: Results, scenario: str) -> Panel:
    series = []
    for name in ("replay", "lwf", "ewc"):
        runs = results.runs[f"{name}, {scenario}"]
        length = min(len(run["ratio"]) for run in runs)
        mean = np.array([run["ratio"][:length] for run in runs]).mean(0)
        steps = [float(step + 1) for step in range(length)]
        series.append(Series(name, steps, mean.tolist()))
    return Panel(
        f"{scenario}-incremental",
        "step after the switch",
        "stability / plasticity",
        series,
        y_range=(0, 3),
        level=1.0,
    )
