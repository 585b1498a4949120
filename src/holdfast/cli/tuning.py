"""What `finetune` does and shows."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import RunProgress, stopping_on_interrupt
from holdfast.errors import UsageError
from holdfast.finetune import Forecast, Outcome, finetune, forecast
from holdfast.language.plan import Plan, prepare
from holdfast.learner import Learner
from holdfast.report import tuning as page
from holdfast.report.diff import STYLES, VERDICTS
from holdfast.run import Stopped, device

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.recipe import Recipe

REPORT = "report.html"


class TuneProgress(RunProgress):
    """One bar, and beside it the loss of the last update."""

    def on_step(self, learner: Learner) -> None:
        shown = self.shown
        super().on_step(learner)
        if self.shown != shown:
            self.bars.update(self.task, note=f"update {learner.updates} of {learner.planned}")

    def on_experience(self, learner: Learner) -> None:
        before, after = (row[0] for row in learner.record.measures["loss"])
        note = f"loss held out {before:.3f} → {after:.3f}"
        self.bars.update(self.task, completed=1.0, note=note)
        if not self.console.is_terminal:
            print(f"{learner.updates} updates: {note}", flush=True)


def tune(given: Given) -> None:
    """Fine-tune, or with --dry-run tell what would come of it."""
    recipe = given.recipe()
    console = Console()
    plan = prepare(recipe, device(recipe.device))
    for warning in plan.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    if given["dry_run"]:
        show_forecast(plan, forecast(plan), console)
        return
    out = _out(given, recipe)
    again = given.command("finetune", out=out, resume=True)
    watch = TuneProgress(console, recipe.method)
    try:
        with stopping_on_interrupt() as stop, watch.bars:
            outcome = finetune(
                recipe, out, resume=bool(given["resume"]), observers=[watch, stop], plan=plan
            )
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    if given["json"] is not None:
        write_atomically(given["json"], (out / "finetune.json").read_bytes())
    write_atomically(out / REPORT, page.render(outcome).encode())
    show(outcome, console)
    print(f"Model:   {out / 'model'}\nReport:  {out / REPORT}", flush=True)


def show(outcome: Outcome, console: Console) -> None:
    """What was gained and what was kept, in 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("set", overflow="fold")
    for name in ("measure", "before", "after", "change, 95 % interval"):
        table.add_column(name, justify="left" if name == "measure" else "right", no_wrap=True)
    if outcome.plain:
        table.add_column("plain", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for at, found in enumerate(outcome.sets):
        for row in page.rows(found, outcome.plain[at] if outcome.plain else None):
            verdict = Text(VERDICTS[found.verdict], STYLES.get(found.verdict, ""))
            cells = [escape(row.name), row.measure, row.before, row.after, row.change]
            table.add_row(
                *cells, *([row.plain] if outcome.plain else []), verdict if row.judged else ""
            )
    console.print(table)


def show_forecast(plan: Plan, expected: Forecast, console: Console) -> None:
    """What would be done, line by line."""
    train = plan.train
    lines: list[tuple[str, Any]] = [
        ("model", f"{plan.recipe.model}, {expected.parameters:,} weights"),
        ("method", f"{plan.recipe.method}, {expected.trained:,} weights trained"),
        (
            "data",
            f"{train.samples - train.skipped - train.unscored:,} samples, {train.tokens:,} tokens, "
            f"{train.scored:,} of them learned",
        ),
        (
            "rows",
            f"{len(train.table):,} of up to {plan.stream.shape[0]} tokens, "
            f"{100 * train.padding:.0f} % padding",
        ),
        ("updates", f"{expected.updates:,}"),
        ("memory", f"about {expected.memory / 2**30:.2f} GiB a step"),
        ("time", f"about {duration(expected.seconds)} of training on this machine"),
    ]
    for name, value in lines:
        console.print(f"{name:<10}{value}", highlight=False, soft_wrap=True)
    if expected.scarce:
        console.print(f"[red]{escape(expected.scarce)}[/red]", highlight=False, soft_wrap=True)
    else:
        console.print("Everything is in order; without --dry-run it is done.", highlight=False)


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _out(given: Given, recipe: Recipe) -> Path:
    out: Path | None = given["out"]
    if out is not None:
        return out
    if given["resume"]:
        raise UsageError("--resume needs --out: the folder of what is to go on.")
    names = f"{Path(recipe.model).name}-{Path(recipe.data[0]).name.split('.')[0]}"
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", names).strip("-")[:60]
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
