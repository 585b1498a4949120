"""What `run`, `compare`, `demo` and `report` do."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from holdfast import report
from holdfast.catalogue import build as build_method
from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import (
    CompareProgress,
    PretrainingProgress,
    RunProgress,
    stopping_on_interrupt,
)
from holdfast.compare import Comparison, compare, grid
from holdfast.config import is_folder
from holdfast.errors import UsageError
from holdfast.ranks import Ranks
from holdfast.run import LANGUAGE_MODEL, Stopped, build, device, read_result, run
from holdfast.store import Failure, Result, Store, from_json, to_json
from holdfast.streams import build as build_stream
from holdfast.streams import is_encoded, is_language
from holdfast.tracking import check, tracked

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.config import Config

RESULTS, REPORT = "results.sqlite", "report.html"


def run_one(stream: str, method: str, given: Given) -> None:
    """Do one run in this process, and show what was kept."""
    config = given.config(stream, method)
    ranks = Ranks.here(device(config.device))
    with ranks.first_speaks():
        _run_one(config, stream, method, given, ranks)


def _run_one(config: Config, stream: str, method: str, given: Given, ranks: Ranks) -> None:
    out = ranks.agree(out_folder(given, config))
    again = given.command("run", stream, method, out=out, resume=True)
    console = Console(quiet=not ranks.first)
    if ranks.first:
        _pretrain(console, config)
    ranks.agree(None)
    watch = RunProgress(console, config.method)
    told = tracked(given["track"], config, out) if ranks.first else []
    try:
        with stopping_on_interrupt() as stop, watch.bars:
            result = run(config, out, resume=bool(given["resume"]), observers=[watch, *told, stop])
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    if not ranks.first:
        return
    with Store(out / RESULTS) as store:
        if (result.stream, result.method, result.seed) not in store.done():
            store.add(result)
    _conclude(console, out, config.stream, Comparison([result], []), given)


def run_many(
    stream: str, methods: Sequence[str], given: Given, words: Sequence[str], typed: Given
) -> None:
    """Do every method with every seed in parallel processes, and show what was kept.

    Args:
        words: The command and its arguments as they were typed, for the hint on how to go on.
        typed: Its options; `given` may hold more, which the command adds by itself.
    """
    base = given.config(stream, methods[0])
    seeds = 1 if given["seeds"] is None else int(given["seeds"])
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1; given: {seeds}.")
    out = out_folder(given, base)
    if given["resume"] and not (out / "compare.json").exists():
        raise UsageError(f"There is no comparison in {out} to resume.")
    cells = grid(base, methods, range(base.seed, base.seed + seeds))
    again = typed.command(*words, out=out, resume=True)
    console = Console()
    watch = CompareProgress(console)
    try:
        if given["track"] is not None:
            check(given["track"])
        for method in dict.fromkeys(cell.method for cell in cells):
            build_method(method)
        _pretrain(console, base)
        _check_names(cells)
        with watch.bars:
            comparison = compare(
                cells, out, given["jobs"], watch, track=given["track"], ray=given["ray"]
            )
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    _conclude(console, out, base.stream, comparison, given)
    if given.debug:
        print("\n".join(watch.details), file=sys.stderr)
    if comparison.failures:
        count = len(comparison.failures)
        print(f"{count} of {len(cells)} runs failed:", file=sys.stderr)
        for failure in comparison.failures:
            print(f"  {failure.method}, seed {failure.seed}: {failure.error}", file=sys.stderr)
        raise typer.Exit(1)


def _pretrain(console: Console, config: Config) -> None:
    """Make what a run starts from and is not there yet: a small model, embeddings of texts."""
    if is_encoded(config.stream):
        with console.status("Encoding the texts: once, a few minutes"):
            build_stream(config.stream, config.seed, config.experiences)
        return
    if config.model and is_folder(config.model):
        return
    if not is_language(config.stream):
        _pretrain_pictures(console, config)
        return
    from holdfast.models import zoo

    name = config.model or LANGUAGE_MODEL
    recipe = zoo.recipe(name)
    if not zoo.place(recipe).is_dir():
        watch = PretrainingProgress(console, name)
        with watch.bars:
            zoo.folder(recipe, [watch])


def _pretrain_pictures(console: Console, config: Config) -> None:
    if config.model is None or not config.model.startswith("pretrained"):
        return
    from holdfast.models.zoo import pictures

    recipe = pictures.recipe_in(config.model)
    if recipe is not None and not pictures.kept_at(recipe).is_dir():
        watch = PretrainingProgress(console, recipe.model, f"{recipe.on}: once")
        with watch.bars:
            pictures.kept(recipe, [watch])


def render(source: Path, out: Path | None) -> None:
    """Write the report again from a folder or from a file of results."""
    failures: list[Failure] = []
    if source.is_dir() and (source / RESULTS).exists():
        with Store(source / RESULTS, create=False) as store:
            results, failures = store.results(), store.failures()
    elif source.is_dir() and (source / "result.json").exists():
        results = [read_result(source)]
    elif source.is_dir():
        raise UsageError(f"There are no results in {source}.")
    else:
        results = from_json(source)
    if not results:
        raise UsageError(f"{source} holds no finished run.")
    target = out or (source / REPORT if source.is_dir() else source.with_suffix(".html"))
    _show(Console(), target, Comparison(results, failures))


def _check_names(cells: Sequence[Config]) -> None:
    """Refuse what cannot be built before any process is started."""
    build(cells[0])


def _conclude(
    console: Console, out: Path, stream: str, comparison: Comparison, given: Given
) -> None:
    if given["json"] is not None:
        document = to_json(stream, comparison.results, comparison.failures)
        write_atomically(given["json"], document.encode())
    if comparison.results:
        _show(console, out / REPORT, comparison)
        _line(f"Again:   {shlex.join(['holdfast', 'report', str(out)])}")


def _show(console: Console, target: Path, comparison: Comparison) -> None:
    results: Sequence[Result] = comparison.results
    path = report.write(results, target)
    console.print(report.text_table(results))
    losses = report.loss_table(results)
    if losses is not None:
        print()
        console.print(losses)
    _line(f"Report:  {path}")


def _line(text: str) -> None:
    """A line as it is: paths are not wrapped, so that they can be copied."""
    print(text, flush=True)


def out_folder(given: Given, config: Config) -> Path:
    """The folder that was asked for, or a new one under `runs`; checks what else is written to."""
    target: Path | None = given["json"]
    if target is not None and target.is_dir():
        raise UsageError(f"--json needs a file; {target} is a folder.")
    out: Path | None = given["out"]
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out needs a folder; {out} is a file.")
    if out is not None:
        return out
    if given["resume"]:
        raise UsageError("--resume needs --out: the folder of what is to go on.")
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", config.stream).strip("-")[:60]
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out, number = stem, 2
    while out.exists():
        out, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return out
