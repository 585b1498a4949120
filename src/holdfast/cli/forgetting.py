"""What `unlearn --run` does. Nothing heavy is imported before it does it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.options import CONFIG, DEBUG, JSON, Option
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.cli.options import Given
    from holdfast.forgetting import Forgotten

REPORT, DOCUMENT = "report.html", "forgetting.json"

_WHAT, _HOW, _MACHINE = "What is forgotten", "Learning", "Files and machine"
OPTIONS = (
    Option("run", Path, "Folder of a finished run of a classifier.", panel=_WHAT),
    Option(
        "forget",
        tuple,
        "random(600), worst(0.1), easiest(600), class(3), worst_class(1) or rows(3, 17); may be "
        "repeated.",
        panel=_WHAT,
        metavar="SET",
    ),
    Option(
        "method",
        tuple,
        "Such as salun or 'ga+saliency'; may be repeated",
        "finetune_retain, l1_sparse, random_labels, salun, scrub",
        _WHAT,
        "METHOD",
    ),
    Option("epochs", int, "Passes of every method.", "10; ga 5", _HOW),
    Option("lr", float, "Learning rate of every method.", "the run's; ga and others less", _HOW),
    Option("batch_size", int, "Examples a step.", "the run's", _HOW),
    Option("momentum", float, "Momentum of SGD.", "0.9", _HOW),
    Option("weight_decay", float, "Weight decay.", "5e-4", _HOW),
    Option("schedule", str, "Of the learning rate.", "steps(0.5, 0.75, factor=0.1)", _HOW),
    Option("attackers", int, "Examples of either kind for the attacks, at most.", "2000", _HOW),
    Option("seed", int, "Seed of all random choices.", "0", _HOW),
    Option("save", bool, "Write every unlearned model to --out/models.", panel=_MACHINE),
    Option("out", Path, "Folder for everything.", "runs/unlearn-TIME", _MACHINE),
    JSON,
    CONFIG,
    DEBUG,
)
_PASSED = (
    "epochs", "lr", "batch_size", "momentum", "weight_decay", "schedule", "attackers", "seed",
)  # fmt: skip


def run_unlearn(given: Given) -> None:
    """Unlearn, show what came of it, and write it down."""
    if given["run"] is None:
        raise UsageError("Say what is to forget: --run FOLDER, a finished `holdfast run`.")
    out = _out(given)

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from holdfast.checkpoint import write_atomically
    from holdfast.forgetting import METHODS, unlearn
    from holdfast.report import forgetting as page

    console = Console()
    bars = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    options: dict[str, Any] = {name: given[name] for name in _PASSED if given[name] is not None}
    with bars:
        doing = bars.add_task("starting")
        outcome = unlearn(
            given["run"],
            given["forget"] or (),
            given["method"] or METHODS,
            models=out / "models" if given["save"] else None,
            progress=lambda what: bars.update(doing, description=what),
            **options,
        )
    document = (json.dumps(outcome.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    write_atomically(out / DOCUMENT, document)
    if given["json"] is not None:
        write_atomically(given["json"], document)
    write_atomically(out / REPORT, page.render(outcome).encode())
    for each in outcome.sets:
        show(each, console)
    if given["save"]:
        print(f"Models:  {out / 'models'}")
    print(f"Report:  {out / REPORT}", flush=True)


def show(each: Forgotten, console: Console) -> None:
    """The table of one forget set, in 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    from holdfast.report.forgetting import HEADINGS, cells

    console.print(f"{escape(each.chosen.name)}: {len(each.chosen.rows)} examples", highlight=False)
    search = each.chosen.selection
    if search is not None and search.warning:
        print(f"Note: {search.warning}", file=sys.stderr)
    table = Table(box=None, pad_edge=False)
    table.add_column("method", overflow="fold")
    for name in HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for way in each.ways:
        table.add_row(escape(way.method), *cells(way))
    console.print(table)
    console.print()


def _out(given: Given) -> Path:
    """The folder that was asked for, or a new one under `runs`."""
    if given["json"] is not None and given["json"].is_dir():
        raise UsageError(f"--json needs a file; {given['json']} is a folder.")
    out: Path | None = given["out"]
    if out is None:
        return Path("runs") / f"unlearn-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out needs a folder; {out} is a file.")
    if any((out / name).exists() for name in (DOCUMENT, "config.json", "compare.json")):
        raise UsageError(f"{out} already holds results; choose another --out.")
    return out
