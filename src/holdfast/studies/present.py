"""What a study shows: before the run its claims and conditions, after it a table and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast.checkpoint import write_atomically
from holdfast.studies.study import RULE, Figure, Finding, Grid, Scale, Study, Verdict

WIDTH = 80


@dataclass(frozen=True)
class Outcome:
    """A finished study.

    Attributes:
        study: Which.
        scale: `data`, `digits` or `quick`.
        seeds: How many.
        minutes: All runs together, one process after another.
        settings: Arm to its settings.
        verdicts: One a claim.
        grids: Tables of the results.
        figures: Pictures of the results.
    """

    study: Study
    scale: Scale
    seeds: int
    minutes: float
    settings: Mapping[str, Mapping[str, Any]]
    verdicts: Sequence[Verdict]
    grids: Sequence[Grid]
    figures: Sequence[Figure]


def announce(study: Study, scale: Scale, seeds: int, console: Console) -> None:
    """What is claimed, and what will decide, before anything is run."""
    where = {
        "data": "on the data of HOLDFAST_DATA" if study.data else "on what every Python brings",
        "digits": "on scikit-learn's digits (HOLDFAST_DATA holds no data for it)",
        "quick": "in seconds, on a part of the data: a trial, not evidence",
    }[scale]
    console.print(f"[bold]{study.name}[/bold]: {study.title} ({study.source})")
    console.print(f"{len(study.arms(scale))} arms x {seeds} seeds, {where}.", highlight=False)
    console.print(RULE, highlight=False)
    for number, claim in enumerate(study.claims, 1):
        console.print(f"{number}. {claim.text}", highlight=False)
        for condition in claim.conditions:
            console.print(f"     {condition.rule}", highlight=False)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Claim, observed, verdict, in 80 columns."""
    table = Table(width=WIDTH, box=None, pad_edge=False, show_lines=True)
    table.add_column("claim", ratio=3)
    table.add_column("observed", ratio=5)
    table.add_column("verdict", width=14)
    for number, verdict in enumerate(verdicts, 1):
        observed = "\n".join(
            f"{'+' if f.holds else '-'} {f.rule}: {f.shown}" for f in verdict.findings
        )
        table.add_row(f"{number}. {verdict.claim}", observed, verdict.decision, end_section=True)
    return table


def write(outcome: Outcome, out: Path) -> None:
    """`result.json`, `report.md`, `index.html` and `figures/NAME.svg` into a folder."""
    content = {
        "study": outcome.study.name,
        "scale": outcome.scale,
        "seeds": outcome.seeds,
        "minutes": outcome.minutes,
        "rule": RULE,
        "verdicts": [_plain(asdict(verdict)) for verdict in outcome.verdicts],
        "tables": [asdict(grid) for grid in outcome.grids],
        "settings": {arm: dict(settings) for arm, settings in outcome.settings.items()},
    }
    write_atomically(out / "result.json", json.dumps(content, indent=1, allow_nan=False).encode())
    write_atomically(out / "report.md", markdown(outcome).encode())
    write_atomically(out / "index.html", page(outcome).encode())
    for figure in outcome.figures:
        write_atomically(out / "figures" / f"{figure.name}.svg", figure.svg.encode())


def markdown(outcome: Outcome) -> str:
    """The report as Markdown; its pictures lie in `figures/`."""
    study = outcome.study
    lines = [f"# {study.title}", "", f"{study.source}. {study.claim}", "", _ran(outcome), "", RULE]
    lines += ["", "| claim | observed | verdict |", "| --- | --- | --- |"]
    for verdict in outcome.verdicts:
        by = "" if verdict.by == "paper" else " (ours)"
        observed = "<br>".join(f"{f.rule}: **{f.shown}** ({_mark(f)})" for f in verdict.findings)
        lines.append(f"| {verdict.claim}{by} | {observed} | **{verdict.decision}** |")
    for figure in outcome.figures:
        lines += ["", f"![{figure.caption}](figures/{figure.name}.svg)", "", figure.caption]
    for grid in outcome.grids:
        lines += ["", f"## {grid.title}", "", *([grid.note, ""] if grid.note else [])]
        lines.append("| " + " | ".join(grid.header) + " |")
        lines.append("| --- " + "| ---: " * (len(grid.header) - 1) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
    lines += ["", "## Differs from the paper", ""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in study.departures), ""])


def page(outcome: Outcome) -> str:
    """The report as one page that needs nothing else."""
    study = outcome.study
    rows = "".join(
        "<tr><td>{}</td><td>{}</td><td class={}>{}</td></tr>".format(
            escape(verdict.claim),
            "<br>".join(
                f"{escape(f.rule)}: <b>{escape(f.shown)}</b> ({_mark(f)})" for f in verdict.findings
            ),
            verdict.decision.split()[0],
            verdict.decision,
        )
        for verdict in outcome.verdicts
    )
    figures = "".join(
        f"<figure>{figure.svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in outcome.figures
    )
    departures = "".join(f"<li>{escape(sentence)}</li>" for sentence in study.departures)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.name)}</title><style>{STYLE}</style>"
        f"<h1>{escape(study.title)}</h1><p>{escape(study.source)}. {escape(study.claim)}</p>"
        f"<p>{escape(_ran(outcome))}</p><p>{escape(RULE)}</p>"
        f"<div><table><tr><th>claim<th>observed<th>verdict</tr>{rows}</table></div>{figures}"
        f"{''.join(_html_grid(grid) for grid in outcome.grids)}"
        f"<h2>Differs from the paper</h2><ul>{departures}</ul></html>"
    )


STYLE = (
    "body{font:16px/1.5 sans-serif;color:#222;background:#fff;max-width:60em;margin:2em auto;"
    "padding:0 1em}div{overflow-x:auto}table{border-collapse:collapse;font-size:14px}"
    "td,th{border-bottom:1px solid #ddd;padding:.4em .6em;text-align:left;vertical-align:top}"
    "figure{margin:1.5em 0}figcaption{color:#555;font-size:14px}svg{width:100%;height:auto}"
    ".reproduced{color:#00694a}.partly{color:#8a5a00}.not{color:#a03000}"
)


def _html_grid(grid: Grid) -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in grid.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows
    )
    note = f"<p>{escape(grid.note)}</p>" if grid.note else ""
    return f"<h2>{escape(grid.title)}</h2>{note}<div><table><tr>{header}</tr>{rows}</table></div>"


def _mark(finding: Finding) -> str:
    return "holds" if finding.holds else "does not hold"


def _ran(outcome: Outcome) -> str:
    told = [settings["stream"] for settings in outcome.settings.values() if "stream" in settings]
    on = f", on {'; '.join(sorted(set(told)))}" if told else ""
    return (
        f"{len(outcome.settings)} arms, {outcome.seeds} seeds{on}. "
        f"Means over seeds with 95 % intervals. All runs together took {outcome.minutes:.1f} "
        "minutes of one process."
    )


def _plain(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value
