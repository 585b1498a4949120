"""What `unlearn` is given, and what `unlearn --run` does. Heavy imports wait until it is done."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.options import (
    CONFIG,
    DEBUG,
    DRY_RUN,
    JSON,
    RESUME,
    TUNE_OUT,
    UNLEARNING,
    Given,
    Option,
)
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.forgetting import Forgotten

REPORT, DOCUMENT = "report.html", "forgetting.json"

_WHAT, _CLASSIFIERS = "What is forgotten, and what is kept", "Classifiers alone"
_SHARED = {
    option.name: option
    for option in (
        Option(
            "forget",
            tuple,
            "With --model a file or folder; with --run random(600), worst(0.1), easiest(600), "
            "class(3), worst_class(1) or rows(3, 17); may be given again.",
            panel=_WHAT,
            metavar="WHAT",
        ),
        Option(
            "method",
            tuple,
            "Such as 'npo+retain', salun or 'ga+saliency'; with --run may be given again",
            "'npo(beta=0.1)+retain'; with --run five",
            _WHAT,
            "METHOD",
        ),
        Option("epochs", int, "Times that the forget set is gone through.", "10; with --run ga 5"),
        Option(
            "lr",
            float,
            "Learning rate.",
            "1e-5, adapters 1e-4; with --run the run's, less for some",
        ),
        Option("batch_size", int, "Rows a forward pass.", "8; with --run the run's"),
        Option("weight_decay", float, "Weight decay.", "0.01; with --run 5e-4"),
        Option(
            "schedule",
            str,
            "Of the learning rate.",
            "one epoch up, then down; with --run steps(0.5, 0.75, factor=0.1)",
        ),
    )
}
OPTIONS = (
    *(_SHARED.get(option.name, option) for option in UNLEARNING),
    Option("run", Path, "Folder of a finished run of a classifier.", panel=_CLASSIFIERS),
    Option("momentum", float, "Momentum of SGD.", "0.9", _CLASSIFIERS),
    Option(
        "attackers", int, "Examples of either kind for the attacks, at most.", "2000", _CLASSIFIERS
    ),
    Option("save", bool, "Write every unlearned model to --out/models.", panel=_CLASSIFIERS),
    TUNE_OUT,
    RESUME,
    DRY_RUN,
    JSON,
    CONFIG,
    DEBUG,
)
"""What `unlearn` can be given: for language models, for classifiers, and for both."""
_PASSED = (
    "epochs", "lr", "batch_size", "momentum", "weight_decay", "schedule", "attackers", "seed",
)  # fmt: skip
_OF_CLASSIFIERS = (*_PASSED, "run", "forget", "method", "save", "out", "json", "config", "debug")
_NOT_OF_LANGUAGE = ("run", "momentum", "attackers", "save")


def choose(given: Given) -> None:
    """Unlearn with the language model, or with the classifier, that was given.

    Raises:
        UsageError: If it is neither or both, or if an option is not for what was given.
    """
    model, run = given["model"], given["run"]
    if model is None and run is None:
        raise UsageError(
            "Say what is to forget: --model FOLDER, a language model, or --run FOLDER, the "
            "finished run of a classifier."
        )
    if model is not None and run is not None:
        raise UsageError(
            f"Give --model (a language model) or --run (a classifier), not both; given: {model} "
            f"and {run}."
        )
    if run is not None:
        _refuse([n for n in given.values if n not in _OF_CLASSIFIERS], "--model", "--run")
        run_unlearn(given)
        return
    _refuse([name for name in _NOT_OF_LANGUAGE if name in given.values], "--run", "--model")
    methods = given["method"] or []
    if len(methods) > 1:
        raise UsageError(
            f"A language model forgets by one --method; given: {', '.join(methods)}. Unlearn once "
            "for each."
        )
    from holdfast.cli.unlearning import run_unlearn as run_language

    run_language(
        replace(given, values={**given.values, "method": methods[0]} if methods else given.values)
    )


def _refuse(names: list[str], theirs: str, ours: str) -> None:
    if names:
        flag = "--" + names[0].replace("_", "-")
        raise UsageError(f"{flag} goes with {theirs}, not with {ours}.")


def run_unlearn(given: Given) -> None:
    """Unlearn, show what came of it, and write it down."""
    out = _out(given)

    from rich.console import Console

    from holdfast.checkpoint import write_atomically
    from holdfast.cli.progress import spinner
    from holdfast.forgetting import METHODS, unlearn
    from holdfast.report import forgetting as page

    console = Console()
    bars = spinner(console)
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
