"""The figures of the page, as Plotly describes them.

Colours are named, not given: `var(--m0)` and the like are defined by the page's style sheet, once
for light and once for dark, and are filled in when a figure is drawn. Plotly reads text as a little
HTML, so every name is escaped here.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdfast.report.bands import mean_and_half
from holdfast.report.comparison import Arm, Comparison
from holdfast.report.summary import shortened

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

COLOURS = 8
"""Colours of methods in the style sheet, `--m0` and on."""

CELLS_WITH_VALUES = 12
"""Up to so many experiences, heatmaps print their values."""

DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")

COSTS = {
    "seconds": ("Time", "seconds of training"),
    "flops": ("FLOPs", "floating-point operations of training"),
    "method_bytes": ("Stored", "bytes that the method stores"),
}


@dataclass(frozen=True)
class Look:
    """How one arm looks in every figure; the same colour comes again with another dash and symbol.

    Attributes:
        colour: Name of the colour in the style sheet.
        dash: Of its lines.
        symbol: Of its points.
    """

    colour: str
    dash: str
    symbol: str


def look(arm: Arm) -> Look:
    """The look of an arm, by its place."""
    turn = arm.place // COLOURS
    return Look(
        f"--m{arm.place % COLOURS}", DASHES[turn % len(DASHES)], SYMBOLS[turn % len(SYMBOLS)]
    )


def accuracy_over_experiences(comparison: Comparison) -> Figure:
    """One line an arm: mean score over the test sets seen so far, after each experience."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    opacity = 0.16 if len(comparison.arms) <= COLOURS else 0.06
    for arm in comparison.arms:
        mean, half = mean_and_half(100 * _seen_so_far(arm))
        x = np.array(arm.runs[0].record.measured[: len(mean)]) + 1
        style = look(arm)
        figure.add_traces(band(x, mean, half, style.colour, opacity, arm))
        figure.add_trace(
            Scatter(
                x=x.tolist(),
                y=numbers(mean),
                customdata=plus_minus(half),
                name=_escaped(arm.label),
                mode="lines+markers" if len(x) <= 30 else "lines",
                line={"color": f"var({style.colour})", "dash": style.dash, "width": 2.5},
                marker={"symbol": style.symbol, "size": 8},
                hovertemplate="%{y:.1f}%{customdata} %",
                # A single experience has no line for a band to lie along.
                error_y=_error(half[0]) if len(x) == 1 else {"visible": False},
                meta={"arm": arm.place},
            )
        )
    whole = {"dtick": 1} if comparison.experiences <= 20 else {}
    figure.update_xaxes(title="experiences learned", range=_padded(comparison.experiences), **whole)
    figure.update_yaxes(title="accuracy on test sets seen so far (%)", range=[0, 102])
    return figure.update_layout(hovermode="x unified", hoverdistance=-1, height=400)


def matrices(arm: Arm) -> list[tuple[str, Figure]]:
    """The matrix of an arm as heatmaps, mean over seeds, with a name for each.

    Two, the stream's own scenario and the task-incremental one, where knowing the task makes a
    difference; else one.
    """
    own = f"{arm.runs[0].record.scenario or 'class'}-incremental"
    plain = _mean_matrix([run.record.matrix for run in arm.runs])
    known = [run.record.task_matrix for run in arm.runs]
    after = [place + 1 for place in arm.runs[0].record.measured[: len(plain)]]
    if not all(len(matrix) == len(plain) for matrix in known):
        return [(own, _heatmap(plain, after))]
    task = _mean_matrix(known)
    if np.array_equal(plain, task, equal_nan=True):
        return [(own, _heatmap(plain, after))]
    return [(own, _heatmap(plain, after)), ("task-incremental", _heatmap(task, after))]


def accuracy_against_cost(comparison: Comparison, cost: str) -> Figure | None:
    """One point an arm, with the 95 % intervals of both; None if no arm has that cost."""
    from plotly.graph_objects import Figure, Scatter

    # Seconds keep their unit: 0.2 s, not 200m.
    ticks, hover = ("", ".3~g") if cost == "seconds" else ("~s", ".3~s")
    figure = Figure()
    for arm in comparison.arms:
        x, y = arm.mean(cost), 100 * arm.mean("average_accuracy")
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        dx, dy, style = arm.half(cost), 100 * arm.half("average_accuracy"), look(arm)
        figure.add_trace(
            Scatter(
                x=[x],
                y=[round(y, 2)],
                customdata=plus_minus(np.array([dy])),
                name=_escaped(arm.label),
                mode="markers",
                marker={"color": f"var({style.colour})", "symbol": style.symbol, "size": 13},
                error_x=_error(dx, at_most=x),
                error_y=_error(dy),
                hovertemplate=f"%{{x:{hover}}}, %{{y:.1f}}%{{customdata}} %",
                meta={"arm": arm.place},
            )
        )
    if not figure.data:
        return None
    figure.update_xaxes(title=COSTS[cost][1], rangemode="tozero", tickformat=ticks)
    figure.update_yaxes(title="final average accuracy (%)", range=[0, 102])
    return figure.update_layout(hovermode="closest", height=400)


def as_json(figure: Figure) -> dict[str, Any]:
    """A figure as plain JSON, without Plotly's template (the page brings its own)."""
    described: dict[str, Any] = json.loads(figure.to_json())
    described["layout"].pop("template", None)
    return described


def _seen_so_far(arm: Arm) -> NDArray[np.float64]:
    """`[run, row]`: mean score on the test sets met by then."""
    records = [run.record for run in arm.runs]
    common = min(len(record.matrix) for record in records)
    matrices = [np.asarray(record.matrix, dtype=float) for record in records]
    met = [np.asarray(record.met) for record in records]
    return np.array(
        [
            [r[i, first <= i].mean() if (first <= i).any() else math.nan for i in range(common)]
            for r, first in zip(matrices, met, strict=True)
        ]
    )


def _mean_matrix(given: Sequence[Sequence[Sequence[float]]]) -> NDArray[np.float64]:
    whole = [np.asarray(matrix, dtype=float) for matrix in given]
    rows, tests = (min(shape) for shape in zip(*(r.shape for r in whole), strict=True))
    arrays = [r[:rows, :tests] for r in whole]
    mean: NDArray[np.float64] = np.mean(arrays, axis=0)
    return mean


def _heatmap(matrix: NDArray[np.float64], after: Sequence[int]) -> Figure:
    from plotly.graph_objects import Figure, Heatmap

    percent, places = 100 * matrix, list(range(1, matrix.shape[1] + 1))
    digits = 1 if len(matrix) <= 6 else 0
    printed = max(matrix.shape) <= CELLS_WITH_VALUES
    square = len(matrix) == len(places)
    text = [["" if math.isnan(v) else f"{v:.{digits}f}" for v in row] for row in percent]
    heat = Heatmap(
        x=places,
        y=list(after),
        z=[numbers(row) for row in percent],
        zmin=0,
        zmax=100,
        xgap=1 if printed else 0,
        ygap=1 if printed else 0,
        showscale=False,
        hoverongaps=False,
        hovertemplate="after experience %{y}<br>on test set %{x}<br>%{z:.1f} %<extra></extra>",
        **({"text": text} if printed else {}),
    )
    figure = Figure(heat)
    ticks = {"dtick": 1} if printed else {"nticks": 8}
    figure.update_xaxes(title="test set", constrain="domain", showgrid=False, **ticks)
    figure.update_yaxes(
        title="after experience", autorange="reversed", constrain="domain", showgrid=False, **ticks,
        **({"scaleanchor": "x"} if square else {}),
    )  # fmt: skip
    return figure.update_layout(meta={"square": square})


def band(
    x: NDArray[Any],
    mean: NDArray[np.float64],
    half: NDArray[np.float64],
    colour: str,
    opacity: float,
    arm: Arm | None = None,
) -> list[Scatter]:
    """The area of mean ± half as closed outlines, one for every stretch that has an interval.

    Args:
        arm: Hidden and shown with this arm.
    """
    from plotly.graph_objects import Scatter

    known = np.flatnonzero(np.isfinite(mean) & np.isfinite(half))
    outlines: tuple[list[Any], list[Any]] = ([], [])
    for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(part) < 2:
            continue
        low, high = mean[part] - half[part], mean[part] + half[part]
        outlines[0].extend([*x[part].tolist(), *x[part][::-1].tolist(), None])
        outlines[1].extend([*numbers(high), *numbers(low[::-1]), None])
    if not outlines[0]:
        return []
    return [
        Scatter(
            x=outlines[0][:-1],
            y=outlines[1][:-1],
            mode="lines",
            fill="toself",
            fillcolor=f"var({colour})",
            opacity=opacity,
            line={"width": 0},
            hoverinfo="skip",
            meta={} if arm is None else {"arm": arm.place},
        )
    ]


def numbers(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 2) if math.isfinite(v) else None for v in values]


def plus_minus(half: NDArray[np.float64]) -> list[str]:
    return [f" ± {v:.1f}" if math.isfinite(v) else "" for v in half]


def _error(half: float, at_most: float = math.inf) -> dict[str, Any]:
    """Bars of ± half, downwards at most so far: no cost is below nothing."""
    if not math.isfinite(half):
        return {"visible": False}
    down = min(half, at_most)
    return {"array": [half], "arrayminus": [down], "symmetric": False, "thickness": 1.5, "width": 4}


def _padded(experiences: int) -> list[float]:
    margin = 0.25 + 0.01 * experiences
    return [1 - margin, experiences + margin]


def _escaped(text: str) -> str:
    return html.escape(shortened(text, 40))
