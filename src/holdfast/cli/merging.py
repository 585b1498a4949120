"""What `merge` and `repair` do. Nothing heavy is imported before they do it."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli.diffing import DROPPED, check_targets, device_of
from holdfast.cli.options import DEBUG, DRY_RUN, JSON, Option
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.cli.options import Given
    from holdfast.merge.checkpoints import Merged

_MERGE, _SEARCH, _PROBES, _MACHINE = "Merging", "Search", "Probe sets", "Files and machine"
_ROWS = Option("common_rows", bool, "Merge the rows that all vocabularies have.", panel=_MERGE)
_TRUST = Option("trust_remote_code", bool, "Run code that came with a checkpoint.", panel=_MACHINE)

MERGE_OPTIONS = (
    Option("rule", str, "How, such as 'ties(density=0.2)'.", "average", _MERGE),
    Option("base", Path, "What the models were tuned from.", panel=_MERGE),
    Option("prefix", str, "By what names are longer in a multimodal model.", "found", _MERGE),
    _ROWS,
    Option("dtype", str, "Of the result: float32, bfloat16 or float16.", "as stored", _MERGE),
    Option("out", Path, "Folder to write.", "runs/merge-MODEL-TIME", panel=_MACHINE),
    Option("replace", bool, "Replace an older checkpoint at --out.", panel=_MACHINE),
    DRY_RUN,
    _TRUST,
    JSON,
    DEBUG,
)
REPAIR_OPTIONS = (
    Option("new", tuple, "File or folder of what was learned; may be repeated.", panel=_PROBES),
    Option(
        "rule", tuple, "Mixtures to search, such as 'ties(density=[0.2, 0.5])'; may be repeated.",
        "wise_ft and neuron_fusion", _SEARCH,
    ),
    Option("keep_new", float, "Share of what was gained that must be kept.", "0.95", _SEARCH),
    Option("max_drop", float, "Allowed loss of an old ability, as in diff.", "0.02", _SEARCH),
    _ROWS,
    Option("metric", str, "For all sets, such as rouge_l; answers are generated.", "auto", _PROBES),
    Option("fields", str, "Which field is which: 'prompt=question,answer=reply'.", panel=_PROBES),
    Option("template", str, "Chat template: simple, or Jinja.", "the tokenizer's", _PROBES),
    Option("generate", bool, "Generate answers instead of reading them.", panel=_PROBES),
    Option("max_new_tokens", int, "Longest generated answer.", "64", _PROBES),
    Option("end", bool, "Right answers must end where they end.", panel=_PROBES),
    Option("length", int, "Longest row in tokens.", "1024", _PROBES),
    Option("seed", int, "Of the bootstrap.", "0", _SEARCH),
    Option("batch_tokens", int, "Tokens a pass.", "by vocabulary", _MACHINE),
    Option("dtype", str, "float32, bfloat16, float16 or auto.", "float32", _MACHINE),
    Option(
        "device", str, "Where models run: cpu or cuda", "cuda if there is one, else cpu", _MACHINE
    ),
    _TRUST,
    Option("out", Path, "Folder for everything.", "runs/repair-MODEL-TIME", panel=_MACHINE),
    JSON,
    DEBUG,
)  # fmt: skip
_PASSED = (
    "keep_new", "max_drop", "common_rows", "metric", "fields", "template", "generate",
    "max_new_tokens", "end", "length", "seed", "batch_tokens", "dtype", "trust_remote_code",
)  # fmt: skip


def run_merge(models: list[Path], given: Given) -> None:
    """Merge models, or with --dry-run tell whether and how it would be done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from holdfast.checkpoint import write_atomically
    from holdfast.merge.checkpoints import merge

    check_targets(given)
    out = given["out"] or _named("merge", models[0])
    console = Console()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    options: dict[str, Any] = {
        name: given[name]
        for name in ("rule", "base", "prefix", "common_rows", "dtype", "replace", "dry_run",
                     "trust_remote_code")
        if given[name] is not None
    }  # fmt: skip
    with bars:
        task = bars.add_task("merging", total=1.0)
        found = merge(
            models, out, progress=lambda share: bars.update(task, completed=share), **options
        )
    for note in found.notes:
        print(f"Note: {note}", file=sys.stderr)
    show_merge(found, console, out)
    if given["json"] is not None:
        write_atomically(given["json"], (json.dumps(found.to_dict(), indent=1) + "\n").encode())


def show_merge(found: Merged, console: Console, out: Path) -> None:
    """What was merged, or would be, line by line."""
    from holdfast.merge.plan import gigabytes

    trial = found.out is None
    also = f", {found.copied:,} taken as they are" if found.copied else ""
    lines = [
        ("rule", found.rule),
        *([("base", found.base)] if found.base else []),
        ("models", ", ".join(found.models)),
        ("tensors", f"{found.tensors:,} merged{also}"),
        ("disk", f"{gigabytes(found.bytes)} of {gigabytes(found.free)} that are free"),
        ("memory", f"about {gigabytes(found.memory)} beside the program's own"),
        ("time", f"{'about ' if trial else ''}{found.seconds:.1f} s"),
    ]
    for name, value in lines:
        console.print(f"{name:<10}{value}", highlight=False, markup=False, soft_wrap=True)
    if trial:
        console.print("Everything is in order; without --dry-run it is done.", highlight=False)
    else:
        print(f"Model:    {out}", flush=True)


def run_repair(base: Path, tuned: Path, on: list[Path], given: Given) -> None:
    """Search mixtures, write the best, and leave with status 3 if it still lost too much."""
    from rich.console import Console

    from holdfast.checkpoint import write_atomically
    from holdfast.cli.progress import spinner
    from holdfast.repair import repair
    from holdfast.report import repair as report

    check_targets(given)
    if not on:
        raise UsageError("Say what the base could do: --on PATH.")
    if not given["new"]:
        raise UsageError("Say what the tuned model learned: --new PATH.")
    out = given["out"] or _named("repair", tuned)
    console = Console()
    bars = spinner(console)
    options: dict[str, Any] = {name: given[name] for name in _PASSED if given[name] is not None}
    if given["rule"]:
        options["rules"] = given["rule"]
    with bars:
        doing = bars.add_task("starting")
        result = repair(
            base, tuned, on, given["new"], out / "model", device=device_of(given),
            progress=lambda what: bars.update(doing, description=what), **options,
        )  # fmt: skip
    report.print_to(console, result)
    document = (json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    if given["json"] is not None:
        write_atomically(given["json"], document)
    write_atomically(out / "repair.json", document)
    page = report.write(result, out / "report.html")
    print(f"Model:   {out / 'model'}\nReport:  {page}", flush=True)
    if result.dropped:
        raise typer.Exit(DROPPED)


def _named(verb: str, model: Path) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", model.name).strip("-")[:60]
    return Path("runs") / f"{verb}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
