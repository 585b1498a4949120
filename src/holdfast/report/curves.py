"""Stability-gap curves: every test set's score while later experiences are learned."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdfast.report.bands import mean_and_half, thinned
from holdfast.report.comparison import Arm
from holdfast.report.figures import band, numbers, plus_minus

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AGES = 8
"""Colours of test sets from first to last in the style sheet, `--t0` and on."""

POINTS = 600
"""Points of one line; longer ones are thinned."""


def shown_test_sets(experiences: int) -> list[int]:
    """The test sets that stability-gap curves follow: all, or eight evenly spaced."""
    if experiences <= AGES:
        return list(range(experiences))
    return sorted({round(i * (experiences - 1) / (AGES - 1)) for i in range(AGES)})


def age_colour(test_set: int, experiences: int) -> str:
    """Name of the colour of a test set, from the first to the last."""
    return f"--t{round(test_set * (AGES - 1) / max(1, experiences - 1))}"


def stability(arm: Arm, experiences: int) -> Figure | None:
    """Score on each test set over the steps of training, from its own experience on.

    Only evaluations that all seeds have are drawn (experiences may differ in length by seed). None
    if there are none.
    """
    from plotly.graph_objects import Figure, Scatter

    when, scores = _common_curve(arm)
    if not when or arm.runs[0].record.tests:  # what comes again has no experience of its own
        return None
    starts = _starts(arm)
    x = np.array([starts[experience] + step for experience, step in when])
    during = np.array([experience for experience, _ in when])
    figure = Figure()
    for j in shown_test_sets(min(experiences, scores.shape[2])):
        since = np.flatnonzero(during >= j)
        if not len(since):
            continue
        mean, half = mean_and_half(100 * scores[:, since, j])
        drawn = thinned(mean, POINTS)
        colour = age_colour(j, experiences)
        figure.add_traces(band(x[since][drawn], mean[drawn], half[drawn], colour, 0.1))
        figure.add_trace(
            Scatter(
                x=x[since][drawn].tolist(),
                y=numbers(mean[drawn]),
                customdata=plus_minus(half[drawn]),
                name=f"test set {j + 1}",
                mode="lines" if len(drawn) > 1 else "markers",
                line={"color": f"var({colour})", "width": 1.8},
                hovertemplate="step %{x}: %{y:.1f}%{customdata} %",
            )
        )
    colour = "var(--soft)" if len(starts) <= 20 else "var(--rule)"
    lines = [start for experience, start in starts.items() if experience]
    figure.update_layout(
        height=260,
        hovermode="closest",
        shapes=[
            {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
             "layer": "below", "line": {"color": colour, "width": 1, "dash": "dot"}}
            for at in lines
        ],
    )  # fmt: skip
    figure.update_xaxes(title="training steps", rangemode="tozero", showgrid=False)
    return figure.update_yaxes(title="accuracy (%)", range=[0, 102])


def _common_curve(arm: Arm) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """The evaluations that all runs have, in order, and `[run, evaluation, test set]`."""
    curves = [
        {(int(p["experience"]), int(p["step"])): p["scores"] for p in run.record.curve}
        for run in arm.runs
    ]
    when = sorted(set(curves[0]).intersection(*curves[1:]))
    sets = min((len(scores) for curve in curves for scores in curve.values()), default=0)
    scores = np.array([[curve[w][:sets] for w in when] for curve in curves], dtype=float)
    return when, scores


def _starts(arm: Arm) -> dict[int, int]:
    """Where each experience begins on the axis of steps, in the longest of the runs."""
    lengths = [max(steps) for steps in zip(*(run.record.steps for run in arm.runs), strict=False)]
    return dict(enumerate(accumulate([0, *lengths[:-1]])))
