"""The HTML page: one file that needs nothing but a browser."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.checkpoint import write_atomically
from holdfast.report import curves, figures
from holdfast.report.comparison import Comparison, comparisons
from holdfast.report.losses import losses_of
from holdfast.report.quantities import heading
from holdfast.report.summary import Name, shortened, summarise
from holdfast.report.table import csv_of, latex_of, markdown_of, sheet
from holdfast.store import Result

if TYPE_CHECKING:
    from markupsafe import Markup
    from plotly.graph_objects import Figure

NOTES = 300
"""So many notes of methods are shown."""

VALUES = 6
"""So many different values of one entry of the environment are shown."""


def write(results: Sequence[Result], path: Path, title: str | None = None) -> Path:
    """Write a report of some results as one HTML page that works offline.

    Results are gathered by stream and by method; seeds become means and 95 % intervals.

    Args:
        results: Finished runs, of any streams, methods and seeds.
        path: Where to write; a file that is there is replaced, wholly or not at all.
        title: Of the page; None: named by the streams.

    Returns:
        `path`.

    Raises:
        UsageError: If there are no results, if one is not finished, or if one is given twice.
        CheckpointError: If the page cannot be written.
    """
    write_atomically(path, render(results, title).encode())
    return path


def render(results: Sequence[Result], title: str | None = None) -> str:
    """The page that `write` writes, as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    compared = comparisons(results)
    drawings: dict[str, list[dict[str, Any]]] = {}
    sections = [_section(i, comparison, drawings) for i, comparison in enumerate(compared)]
    copies = {
        section["id"]: {
            "csv": csv_of([comparison]),
            "markdown": markdown_of([comparison]),
            "latex": latex_of([comparison]),
        }
        for section, comparison in zip(sections, compared, strict=True)
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["name"] = lambda piece: isinstance(piece, Name)
    environment.filters.update(
        shortened=shortened, plain=_plain, heading=heading, together=_together, breakable=breakable
    )
    environment.globals.update(look=figures.look, age_colour=curves.age_colour)
    return environment.from_string(asset("page.html.j2")).render(
        title=title or "What was kept: " + ", ".join(c.stream for c in compared),
        sections=sections,
        details=_details(compared),
        css=Markup(asset("page.css")),
        js=Markup(asset("page.js")),
        data=Markup(_embedded({"figures": drawings, "copies": copies})),
        plotly=Markup(_plotly()),
    )


def _section(
    index: int, comparison: Comparison, drawings: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """What the template shows of one stream; its figures are added to `drawings`."""
    place = f"s{index}"
    experiences, table = comparison.experiences, sheet([comparison])

    def draw(name: str, variants: Sequence[tuple[str, Figure | None]]) -> str | None:
        drawn = [{"name": n, **figures.as_json(f)} for n, f in variants if f is not None]
        if not drawn:
            return None
        drawings[f"{place}-{name}"] = drawn
        return f"{place}-{name}"

    groups: dict[str, list[str]] = {}
    for quantity in table.quantities:
        groups.setdefault(quantity.group, []).append(quantity.name)
    costs = [
        (figures.COSTS[cost][0], figures.accuracy_against_cost(comparison, cost))
        for cost in figures.COSTS
    ]
    heatmaps = [(arm, figures.matrices(arm)) for arm in comparison.arms]
    gaps = [(arm, curves.stability(arm, experiences)) for arm in comparison.arms]
    return {
        "id": place,
        "stream": comparison.stream,
        "experiences": experiences,
        "arms": comparison.arms,
        "seeds": sorted({len(arm.runs) for arm in comparison.arms}),
        "summary": summarise(comparison),
        "sheet": table,
        "groups": groups,
        "best": _best(comparison),
        "dashes": any(not math.isfinite(c.mean) for _, _, row in table.rows for c in row),
        "lines": draw("lines", [("", figures.accuracy_over_experiences(comparison))]),
        "heatmaps": [(arm, draw(f"matrix-{arm.place}", found)) for arm, found in heatmaps],
        "heatmap_variants": list(dict.fromkeys(name for _, found in heatmaps for name, _ in found)),
        "blank_cells": any(
            not np.isfinite(np.asarray(run.record.matrix, dtype=float)).all()
            for arm in comparison.arms
            for run in arm.runs
        ),
        "gaps": [(arm, draw(f"gap-{arm.place}", [("", f)])) for arm, f in gaps if f is not None],
        "gap_sets": curves.shown_test_sets(experiences),
        "losses": losses_of(comparison),
        "cost": draw("cost", costs),
        "cost_variants": [name for name, figure in costs if figure is not None],
    }


def _best(comparison: Comparison) -> dict[str, int]:
    """The place of the best arm by quantity, bounds left out; nothing where there is no contest."""
    best = {}
    for quantity in sheet([comparison]).quantities:
        rivals = [
            arm
            for arm in comparison.arms
            if not arm.reference and math.isfinite(arm.mean(quantity.name))
        ]
        means = [arm.mean(quantity.name) for arm in rivals]
        if len(set(means)) > 1 and quantity.larger_is_better is not None:
            extreme = max(means) if quantity.larger_is_better else min(means)
            if means.count(extreme) == 1:
                best[quantity.name] = rivals[means.index(extreme)].place
    return best


def _details(compared: Sequence[Comparison]) -> dict[str, Any]:
    """Configuration, environment, seeds and notes, for the collapsible end of the page."""
    arms = [(comparison, arm) for comparison in compared for arm in comparison.arms]
    configs = [arm.runs[0].config for _, arm in arms]
    keys = list(dict.fromkeys(k for c in configs for k in c if k not in ("seed", "method")))
    shared = {
        key: configs[0][key]
        for key in keys
        if all(key in c and c[key] == configs[0][key] for c in configs)
    }
    varying = [key for key in keys if key not in shared]
    runs = [run for _, arm in arms for run in arm.runs]
    environment: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.environment.items():
            environment.setdefault(key, {})[_plain(value)] = None
    notes = [(arm, run, note) for _, arm in arms for run in arm.runs for note in run.record.notes]
    return {
        "shared": shared,
        "varying": varying,
        "several_streams": len(compared) > 1,
        "arms": [(c.stream, arm, arm.runs[0].config) for c, arm in arms],
        "environment": {key: _few(list(values)) for key, values in environment.items()},
        "notes": [(arm, run.seed, note, _rest(note)) for arm, run, note in notes[:NOTES]],
        "notes_in_all": len(notes),
    }


def _few(values: list[str]) -> str:
    shown = " · ".join(values[:VALUES])
    hidden = len(values) - VALUES
    return f"{shown} · and {hidden} more" if hidden > 0 else shown


def _rest(note: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in note.items() if key not in ("experience", "step")}


def _together(text: str) -> str:
    """Numbers, signs and units with spaces at which no line breaks."""
    return re.sub(r"(?<=\d) (?=[±%]|[kMGTP]?B\b|s\b)|(?<=±) ", "\u00a0", text)


def breakable(text: str) -> Markup:
    """The text, escaped, where a line may break after an opening bracket, a comma or a sign."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[(,=+·])", text))


def _plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, default=str, ensure_ascii=False)


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever strings it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return files("holdfast.report").joinpath(name).read_text("utf-8")


@cache
def _plotly() -> str:
    """Plotly's library, compressed; the browser unpacks it, which makes the page less than half.

    Without a time stamp, so that equal results give equal pages.
    """
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
