"""What `diff` does. Nothing heavy is imported before it does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli.options import DEBUG, JSON, Option
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.cli.options import Given

DROPPED = 3
"""Exit status if more was lost than is allowed, beyond chance."""

_VERDICT, _PROBES, _MACHINE = "Verdict", "Probe sets", "Files and machine"
OPTIONS = (
    Option(
        "max_drop",
        float,
        "Allowed: points of score (0.02 = 2 %), or share of a text's loss.",
        "0.02",
        _VERDICT,
    ),
    Option("tasks", str, "lm-eval tasks, separated by commas.", panel=_PROBES),
    Option("task_limit", int, "Examples of each task at most.", "all", panel=_PROBES),
    Option("metric", str, "For all sets, such as rouge_l; answers are generated.", "auto", _PROBES),
    Option("fields", str, "Which field is which: 'prompt=question,answer=reply'.", panel=_PROBES),
    Option("template", str, "Chat template: simple, or Jinja.", "the tokenizer's", _PROBES),
    Option("generate", bool, "Generate answers instead of reading them.", panel=_PROBES),
    Option("max_new_tokens", int, "Longest generated answer.", "64", _PROBES),
    Option("end", bool, "Right answers must end where they end.", panel=_PROBES),
    Option("length", int, "Longest row in tokens.", "1024", _PROBES),
    Option("no_weights", bool, "Do not compare weights.", panel="What is compared"),
    Option("no_ranks", bool, "No ranks of weight differences (faster).", panel="What is compared"),
    Option("flips", int, "Flipped examples shown in the terminal for each set.", "5", _VERDICT),
    Option("seed", int, "Of the bootstrap.", "0", _VERDICT),
    Option("batch_tokens", int, "Tokens a pass.", "by vocabulary", _MACHINE),
    Option("dtype", str, "float32, bfloat16, float16 or auto.", "float32", _MACHINE),
    Option(
        "device", str, "Where models run: cpu or cuda", "cuda if there is one, else cpu", _MACHINE
    ),
    Option("trust_remote_code", bool, "Run code that came with a checkpoint.", panel=_MACHINE),
    Option("out", Path, "Folder for index.html and diff.json.", panel=_MACHINE),
    JSON,
    DEBUG,
)
_PASSED = (
    "max_drop", "task_limit", "metric", "fields", "template", "generate", "max_new_tokens", "end",
    "length", "seed", "batch_tokens", "dtype", "trust_remote_code",
)  # fmt: skip


def run_diff(base: Path, tuned: Path, on: list[Path], given: Given) -> None:
    """Compare two models, show what was found, and leave with status 3 if there is a drop."""
    check_targets(given)

    from rich.console import Console

    from holdfast.checkpoint import write_atomically
    from holdfast.cli.progress import spinner
    from holdfast.diff import diff
    from holdfast.report import diff as report

    console = Console()
    bars = spinner(console)
    options: dict[str, Any] = {name: given[name] for name in _PASSED if given[name] is not None}
    tasks = [name.strip() for name in (given["tasks"] or "").split(",") if name.strip()]
    with bars:
        doing = bars.add_task("starting")
        result = diff(
            base, tuned, on, tasks=tasks, weights=not given["no_weights"],
            ranks=not given["no_ranks"], device=device_of(given),
            progress=lambda what: bars.update(doing, description=what), **options,
        )  # fmt: skip
    report.print_to(console, result, 5 if given["flips"] is None else given["flips"])
    document = (json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    if given["json"] is not None:
        write_atomically(given["json"], document)
    if given["out"] is not None:
        write_atomically(given["out"] / "diff.json", document)
        print(f"Report:  {report.write(result, given['out'] / 'index.html')}", flush=True)
    if result.dropped:
        raise typer.Exit(DROPPED)


def device_of(given: Given) -> str:
    """The device that was asked for; without one a GPU, if there is one."""
    import torch

    return given["device"] or ("cuda" if torch.cuda.is_available() else "cpu")


def check_targets(given: Given) -> None:
    """Refuse targets that are of the wrong kind, before anything is done."""
    if given["json"] is not None and given["json"].is_dir():
        raise UsageError(f"--json needs a file; {given['json']} is a folder.")
    if given["out"] is not None and given["out"].exists() and not given["out"].is_dir():
        raise UsageError(f"--out needs a folder; {given['out']} is a file.")
