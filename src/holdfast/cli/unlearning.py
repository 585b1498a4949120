"""What `unlearn` does and shows."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import stopping_on_interrupt
from holdfast.cli.tuning import TuneProgress, duration
from holdfast.errors import UsageError
from holdfast.finetune import Forecast
from holdfast.language.unlearning import Plan, prepare
from holdfast.learner import Learner
from holdfast.report import unlearning as page
from holdfast.run import Stopped, device
from holdfast.unlearn import Outcome, forecast, unlearn

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.request import Request

REPORT = "report.html"


class UnlearnProgress(TuneProgress):
    """One bar, and beside it what became of the loss on what is forgotten."""

    def on_experience(self, learner: Learner) -> None:
        before, after = (row[0] for row in learner.record.measures["loss"])
        note = f"loss on the forget set {before:.3f} → {after:.3f}"
        self.bars.update(self.task, completed=1.0, note=note)
        if not self.console.is_terminal:
            print(f"{learner.updates} updates: {note}", flush=True)


def run_unlearn(given: Given) -> None:
    """Unlearn, or with --dry-run tell what would come of it."""
    request = given.request()
    console = Console()
    plan = prepare(request, device(request.device))
    for warning in plan.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    if given["dry_run"]:
        show_forecast(plan, forecast(plan), console)
        return
    out = _out(given, request)
    again = given.command("unlearn", out=out, resume=True)
    watch = UnlearnProgress(console, request.method)
    try:
        with stopping_on_interrupt() as stop, watch.bars:
            outcome = unlearn(
                request, out, resume=bool(given["resume"]), observers=[watch, stop], plan=plan
            )
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    if given["json"] is not None:
        write_atomically(given["json"], (out / "unlearn.json").read_bytes())
    write_atomically(out / REPORT, page.render(outcome).encode())
    show(outcome, console)
    print(f"Model:   {out / 'model'}\nReport:  {out / REPORT}", flush=True)


def show(outcome: Outcome, console: Console) -> None:
    """The audit, in 80 columns."""
    has_never = outcome.reference is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("before", "after", *(["never knew"] if has_never else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for part in page.parts(outcome):
        table.add_row(f"[bold]{escape(part.title)}[/bold]")
        for row in part.rows:
            never = [row.never] if has_never else []
            table.add_row(f"  {escape(row.measure)}", row.before, row.after, *never)
    console.print(table)
    console.print(page.summary(outcome), highlight=False)


def show_forecast(plan: Plan, expected: Forecast, console: Console) -> None:
    """What would be done, line by line."""
    experience = plan.stream[0]
    rows = [f"{len(experience.train):,} to forget"]
    rows += [
        f"{len(experience.sets[role]):,} {words}"
        for role, words in (("retain", "to keep"), ("refusal", "with refusals"))
        if role in experience.sets
    ]
    never = "none: no forget quality"
    if plan.reference is not None or plan.logs is not None:
        never = str(plan.request.reference)
    lines = [
        ("model", f"{plan.request.model}, {expected.parameters:,} weights"),
        ("method", f"{plan.request.method}, {expected.trained:,} weights trained"),
        ("data", ", ".join(rows)),
        ("reference", never),
        ("updates", f"{expected.updates:,} in {plan.request.epochs} epochs"),
        ("memory", f"about {expected.memory / 2**30:.2f} GiB a step"),
        ("time", f"about {duration(expected.seconds)} of plain passes on this machine"),
    ]
    for name, value in lines:
        console.print(f"{name:<10}{value}", highlight=False, soft_wrap=True)
    if expected.scarce:
        console.print(f"[red]{escape(expected.scarce)}[/red]", highlight=False, soft_wrap=True)
    else:
        console.print("Everything is in order; without --dry-run it is done.", highlight=False)


def _out(given: Given, request: Request) -> Path:
    out: Path | None = given["out"]
    if out is not None:
        return out
    if given["resume"]:
        raise UsageError("--resume needs --out: the folder of what is to go on.")
    names = f"{Path(request.model).name}-without-{Path(request.forget[0]).name.split('.')[0]}"
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", names).strip("-")[:60]
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
