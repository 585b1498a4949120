"""What `compare --protocol` does: every method with what a protocol allots it, and a ranking."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from holdfast import protocols, report
from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import CompareProgress
from holdfast.cli.running import REPORT, out_folder
from holdfast.compare import compare
from holdfast.errors import UsageError, unknown
from holdfast.metrics import interval
from holdfast.protocols import MB, PROTOCOLS, Allotment, Sizes
from holdfast.report.quantities import Cell
from holdfast.run import Stopped
from holdfast.store import Result
from holdfast.studies.svg import Panel, Series, draw

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.config import Config

EXEMPLARS = 2000
"""Of the survey, where no number is given."""

COUNTED = (
    "The model's parameters and buffers, what the method's predictions need, and the inputs of the "
    "examples kept; not teachers, statistics of normalisation, labels and importances, which "
    "whole_bytes has too."
)


@dataclass(frozen=True)
class Outcome:
    """What a protocol gave: allotments by budget, and a standing for each method and seed."""

    points: list[list[Allotment]]
    standings: dict[tuple[int, str], list[dict[str, Any]]]  # by place of the budget, and method

    def values(self, place: int, name: str) -> dict[str, list[float]]:
        """One number a seed, by method, under a budget; of the methods that have any."""
        return {
            method: [float(standing[name]) for standing in found]
            for (at, method), found in self.standings.items()
            if at == place
        }


def run_protocol(stream: str, methods: Sequence[str], given: Given) -> None:
    """Do a comparison by a protocol, or go on with it, and show what stands where."""
    protocol = given["protocol"]
    if protocol is None:
        raise UsageError(
            "--exemplars, --budget and --smaller say what a --protocol is to give every method: "
            f"name one of {', '.join(PROTOCOLS)}."
        )
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    base, budgets, smaller = given.config(stream, methods[0]), _budgets(given), given["smaller"]
    methods = list(dict.fromkeys(methods))
    if protocol == "benchmark" and budgets:
        raise UsageError("benchmark gives every method as many --exemplars, and takes no --budget.")
    if protocol == "aligned" and len(budgets or ()) > 1:
        raise UsageError("aligned has one --budget; several are for agnostic.")
    if protocol != "agnostic" and smaller:
        raise UsageError("--smaller models are for agnostic, where budgets may have to be met.")
    seeds = 1 if given["seeds"] is None else int(given["seeds"])
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1; given: {seeds}.")
    count = EXEMPLARS if given["exemplars"] is None else int(given["exemplars"])
    if count < 1:
        raise UsageError(f"exemplars must be at least 1; given: {count}.")
    sizes = Sizes(base)
    if protocol == "benchmark":
        points = [protocols.benchmark(sizes, methods, count)]
    elif protocol == "aligned":
        points = [protocols.aligned(sizes, methods, count, budgets[0] if budgets else None)]
    else:
        points = protocols.agnostic(sizes, methods, count, budgets, smaller or ())
    out = out_folder(given, base)
    again = given.command("compare", stream, *methods, out=out, resume=True)
    console = Console()
    try:
        outcome, failures = _done(points, base, range(base.seed, base.seed + seeds), out, given)
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    document = _document(protocol, base, count, outcome, failures)
    content = (json.dumps(document, indent=1) + "\n").encode()
    for path in (out / "protocol.json", *([given["json"]] if given["json"] else [])):
        write_atomically(path, content)
    for place in range(len(points)):
        if outcome.values(place, "last"):
            console.print(_table(outcome, place))
            print()
    if protocol == "agnostic" and not failures and len(points) > 1:
        console.print(_areas_table(document["areas"]))
        write_atomically(out / "curves.svg", _curves(outcome).encode())
        print(f"\nCurves:  {out / 'curves.svg'}")
    print(f"Kept in: {out / 'protocol.json'}")
    if failures:
        for sentence in failures:
            print(f"  {sentence}", file=sys.stderr)
        raise typer.Exit(1)


def _budgets(given: Given) -> list[int] | None:
    """The budgets asked for, in bytes."""
    if not given["budget"]:
        return None
    words = [word for text in given["budget"] for word in str(text).split(",")]
    try:
        sizes = [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"budget must be a number of MB, or several; given: {words}.") from error
    if not all(0 < size < float("inf") for size in sizes):
        raise UsageError(f"budget must be above 0 MB; given: {', '.join(words)}.")
    return [round(size * MB) for size in sizes]


def _done(
    points: Sequence[Sequence[Allotment]], base: Config, seeds: range, out: Path, given: Given
) -> tuple[Outcome, list[str]]:
    """All runs, by folders of equal options; what they gave, and what failed."""
    standings: dict[tuple[int, str], list[dict[str, Any]]] = {}
    failures: list[str] = []
    console = Console()
    for place, point in enumerate(points):
        by_model = sorted(point, key=lambda one: one.model)
        for model, group in groupby(by_model, key=lambda one: one.model):
            allotments = list(group)
            folder = out
            if len(points) > 1:
                folder = out / f"budget{place + 1}" / model.replace("/", "-")
            cells = [protocols.cell(base, one, seed) for one in allotments for seed in seeds]
            watch = CompareProgress(console)
            with watch.bars:
                found = compare(
                    list(dict.fromkeys(cells)),
                    folder,
                    given["jobs"],
                    watch,
                    track=given["track"],
                    ray=given["ray"],
                    starts=out / "starts",
                )
            if found.results:
                report.write(found.results, folder / REPORT)
            failures += [f"{f.method}, seed {f.seed}: {f.error}" for f in found.failures]
            for one in allotments:
                runs = _of(one, found.results)
                if len(runs) == len(seeds):
                    standings[place, one.method] = [protocols.standing(run) for run in runs]
    return Outcome([list(point) for point in points], standings), failures


def _of(allotment: Allotment, results: Sequence[Result]) -> list[Result]:
    return sorted((r for r in results if r.method == allotment.spec), key=lambda r: r.seed)


def _document(
    protocol: str, base: Config, exemplars: int, outcome: Outcome, failures: Sequence[str]
) -> dict[str, Any]:
    budgets = [point[0].budget / MB for point in outcome.points]
    whole = [m for m in {m for _, m in outcome.standings} if _everywhere(outcome, m)]
    areas: dict[str, Any] = {}
    if protocol == "agnostic" and len(budgets) > 1 and whole:
        ordered = [one.method for one in outcome.points[0] if one.method in whole]
        for name in ("average", "last"):
            areas[name] = {m: _areas(outcome, m, name, budgets) for m in ordered}
            areas[f"{name}_ranks"] = protocols.ranks(areas[name])
    return {
        "format": 1,
        "protocol": protocol,
        "stream": base.stream,
        "exemplars": exemplars,
        "counted": COUNTED,
        "teachers_count": False,
        "points": [
            {
                "budget_mb": max(one.budget for one in point) / MB,
                "methods": [
                    {**asdict(one), "runs": outcome.standings.get((place, one.method), [])}
                    for one in point
                ],
                "ranks": {
                    name: protocols.ranks(outcome.values(place, name))
                    for name in ("average", "last")
                },
            }
            for place, point in enumerate(outcome.points)
        ],
        "areas": areas,
        "failures": list(failures),
    }


def _everywhere(outcome: Outcome, method: str) -> bool:
    return all((place, method) in outcome.standings for place in range(len(outcome.points)))


def _areas(outcome: Outcome, method: str, name: str, budgets: Sequence[float]) -> list[float]:
    """One a seed."""
    rows = [outcome.values(place, name)[method] for place in range(len(budgets))]
    return [protocols.area(budgets, list(of_seed)) for of_seed in zip(*rows, strict=True)]


def _placed(rank: int, ranked: dict[str, int]) -> str:
    return f"{rank}=" if list(ranked.values()).count(rank) > 1 else str(rank)


def _table(outcome: Outcome, place: int) -> Table:
    point = outcome.points[place]
    average, last = outcome.values(place, "average"), outcome.values(place, "last")
    ranked = protocols.ranks(last)
    by_method = {one.method: one for one in point}
    title = f"budget {point[0].budget / MB:.3f} MB" if len(outcome.points) > 1 else None
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name in ("place", "method", "examples", "MB", "average", "last", "start"):
        words = name in ("method", "start")
        fold = {"overflow": "fold"} if name == "method" else {"no_wrap": True}
        table.add_column(name, justify="left" if words else "right", **fold)
    for method in sorted(last, key=lambda m: (ranked[m], -interval(last[m])[0])):
        found = outcome.standings[place, method]
        table.add_row(
            _placed(ranked[method], ranked),
            method,
            _kept(by_method[method].exemplars, [run["examples"] for run in found]),
            f"{interval([run['deployed_bytes'] / MB for run in found])[0]:.3f}",
            Cell("percent", tuple(average[method])).text,
            Cell("percent", tuple(last[method])).text,
            "shared" if found[0]["shared_start"] else "own",
        )
    return table


def _kept(room: int | None, held: Sequence[float]) -> str:
    """How many examples there were, and room for how many, where fewer came or are kept."""
    if room is None:
        return "-"
    most = int(max(held))
    return str(room) if most >= room else f"{most} of {room}"


def _areas_table(areas: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("place", "method", "AUC-A", "AUC-L"):
        table.add_column(name, justify="left" if name == "method" else "right")
    ranked = areas["last_ranks"]
    for method in sorted(ranked, key=lambda m: (ranked[m], -interval(areas["last"][m])[0])):
        both = [interval(areas[name][method]) for name in ("average", "last")]
        shown = [f"{mean:.3f}" + (f" ± {half:.3f}" if half == half else "") for mean, half in both]
        table.add_row(_placed(ranked[method], ranked), method, *shown)
    return table


def _curves(outcome: Outcome) -> str:
    budgets = [point[0].budget / MB for point in outcome.points]
    panels = []
    for name, title in (("average", "mean over experiences"), ("last", "after the last")):
        series = []
        for one in outcome.points[0]:
            found = [interval(outcome.values(p, name)[one.method]) for p in range(len(budgets))]
            means, halves = [100 * m for m, _ in found], [100 * h for _, h in found]
            series.append(Series(one.method, budgets, means, halves))
        panels.append(Panel(f"accuracy, {title}", "budget (MB)", "accuracy (%)", series))
    return draw(panels)
