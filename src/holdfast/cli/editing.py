"""What `edit` does and shows."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import stopping_on_interrupt
from holdfast.edit import Outcome, asked_for, edit, edits_in, undo
from holdfast.errors import UsageError
from holdfast.learner import Learner, Observer
from holdfast.report import editing as page
from holdfast.run import Stopped

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.edit_config import EditConfig

REPORT = "report.html"


class EditProgress(Observer):
    """One bar for all edits."""

    def __init__(self, console: Console, stop: Observer) -> None:
        self.console, self.stop = console, stop
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bars.add_task("editing", total=None)

    def on_experience(self, learner: Learner) -> None:
        assert learner.stream is not None
        self.bars.update(self.task, total=len(learner.stream), completed=learner.index)
        self.stop.on_step(learner)  # between two edits, so that each is made wholly


def run_edit(folder: Path | None, given: Given) -> None:
    """Make edits, list them, or take one back."""
    listing, number = bool(given["list"]), given["undo"]
    if listing or number is not None:
        if listing and number is not None:
            raise UsageError("--list and --undo are two things; give one of them.")
        place = folder or given["out"]
        if place is None:
            raise UsageError("--list and --undo need the folder: holdfast edit --list OUT.")
        if listing:
            show_list(place)
        else:
            with _watched() as watch:
                outcome = undo(place, number, [watch])
            _written(outcome, place, given["json"])
        return
    if folder is not None:
        raise UsageError(f"{folder} goes with --list or --undo; for a new editing say --out.")
    config = given.edit_config()
    out = _out(given, config)
    for bad in asked_for(config)[1]:
        print(f"Note: {bad.why} It is passed over.", file=sys.stderr)
    again = given.command("edit", out=out, resume=True)
    try:
        with _watched() as watch:
            outcome = edit(config, out, resume=bool(given["resume"]), observers=[watch])
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    _written(outcome, out, given["json"])


def show_list(folder: Path) -> None:
    """The edits of a model, a line each."""
    for number, request in enumerate(edits_in(folder), 1):
        print(f"{number:>5}  {request.prompt} -> {request.target}")


def show(outcome: Outcome, console: Console) -> None:
    """What the edits came to, in 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("edits", justify="right")
    for name in page.COLUMNS:
        table.add_column(page.SHORT[name], justify="right", no_wrap=True)
    for cells in page.rows(outcome):
        table.add_row(*(Text(cell) for cell in cells))
    console.print(f"{outcome.config.method}, {page.protocol(outcome)}", highlight=False)
    console.print(table)
    for line in page.definitions(outcome):
        console.print(line, highlight=False, style="dim")
    console.print(page.cost(outcome), highlight=False)


def _written(outcome: Outcome, out: Path, json: Path | None) -> None:
    if json is not None:
        write_atomically(json, (out / "edit.json").read_bytes())
    write_atomically(out / REPORT, page.render(outcome).encode())
    show(outcome, Console())
    if outcome.config.protocol != "single":
        print(f"Model:   {out / 'model'}")
    print(f"Report:  {out / REPORT}", flush=True)


@contextmanager
def _watched() -> Iterator[EditProgress]:
    with stopping_on_interrupt() as stop:
        watch = EditProgress(Console(file=sys.stderr), stop)
        with watch.bars:
            yield watch


def _out(given: Given, config: EditConfig) -> Path:
    out: Path | None = given["out"]
    if out is not None:
        return out
    if given["resume"]:
        raise UsageError("--resume needs --out: the folder of what is to go on.")
    names = f"{Path(config.model).name}-{Path(config.edits).name.split('.')[0]}"
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", names).strip("-")[:60]
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
