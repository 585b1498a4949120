"""What `adapt` does. Nothing heavy is imported before it does it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.options import CONFIG, DEBUG, JSON, Option, options_of
from holdfast.errors import UsageError
from holdfast.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.cli.options import Given

_FILES = "Files and machine"
OPTIONS = (
    *options_of(Pace, lambda name: "How it meets what arrives"),
    Option("device", str, "auto, cpu or cuda.", "auto", _FILES),
    Option("out", Path, "Folder for the report and adapt.json.", "runs/adapt-TIME", _FILES),
    JSON,
    CONFIG,
    DEBUG,
)
REPORT = "report.html"


def run_adapt(model: Path, stream: str, methods: Sequence[str], given: Given) -> None:
    """Adapt by every method, show what came of it, and write the report."""
    target: Path | None = given["json"]
    if target is not None and target.is_dir():
        raise UsageError(f"--json needs a file; {target} is a folder.")
    out: Path = given["out"] or _free(stream)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out needs a folder; {out} is a file.")
    if (out / "config.json").exists():
        raise UsageError(f"{out} holds a run or a model; choose another --out.")
    pace = Pace(**{name: given[name] for name in Pace.names() if given[name] is not None})

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from holdfast.adaptation import compare_adaptations, of_folder
    from holdfast.catalogue import build
    from holdfast.checkpoint import write_atomically
    from holdfast.report import adaptation as report
    from holdfast.run import device, environment
    from holdfast.streams.drift import drift

    for method in methods:  # a wrong name is said before anything is read
        build(method)
    where = device(given["device"] or "auto")
    source = of_folder(model)
    arriving = drift(stream, source.class_names, pace.seed)
    console = Console()
    bars = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def shown(method: str, done: int, total: int) -> None:
        if method not in tasks:
            tasks[method] = bars.add_task(method, total=total)
        bars.update(tasks[method], completed=done)

    with bars:
        found = compare_adaptations(source, arriving, methods, pace, where, shown)
    outcome = report.Outcome(
        source.name, arriving.name, pace, found, arriving.labelled, environment(where)
    )
    document = (json.dumps(outcome.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    write_atomically(out / "adapt.json", document)
    write_atomically(out / REPORT, report.render(outcome).encode())
    if target is not None:
        write_atomically(target, document)
    report.print_to(console, outcome)
    print(f"Report:  {out / REPORT}", flush=True)


def _free(stream: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", stream).strip("-")[:60]
    stem = Path("runs") / f"adapt-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out, number = stem, 2
    while out.exists():
        out, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return out
