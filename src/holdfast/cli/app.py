"""The commands. What they do is imported when they do it, so that help is there at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import adapting, diffing, forgetting, guiding, merging
from holdfast.cli.options import (
    CONFIG,
    DEBUG,
    DRY_RUN,
    EDIT_OUT,
    EDITING,
    FILTERS,
    JOBS,
    JSON,
    LEARNING,
    LIST,
    OUT,
    PROTOCOLS,
    QUICK,
    RAY,
    RESUME,
    SCHEMA,
    SEEDS,
    SPACE,
    STUDY_OUT,
    STUDY_SEEDS,
    TRACK,
    TRIALS,
    TUNE_OUT,
    TUNING,
    UNDO,
    VALIDATE,
    Given,
    takes,
)

app = typer.Typer(
    name="holdfast",
    help="Change a model without losing what it knows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="As `holdfast streams` lists.")]
MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="As `holdfast methods` lists.")]
MethodNames = Annotated[
    list[str], typer.Argument(metavar="METHOD...", help="One or more, such as 'er(capacity=500)'.")
]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        import holdfast

        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Change a model without losing what it knows."""


@app.command()
@takes(*LEARNING, OUT, RESUME, TRACK, JSON, CONFIG, DEBUG)
def run(stream: StreamName, method: MethodName, given: Given) -> None:
    """Learn a stream with one method and report what was kept."""
    from holdfast.cli.running import run_one

    run_one(stream, method, given)


@app.command()
@takes(*LEARNING, *PROTOCOLS, SEEDS, JOBS, RAY, OUT, RESUME, TRACK, JSON, CONFIG, DEBUG)
def compare(stream: StreamName, methods: MethodNames, given: Given) -> None:
    """Learn a stream with several methods and seeds, in parallel processes."""
    from holdfast.cli.running import run_many

    if given.any_of(*PROTOCOLS):
        from holdfast.cli.comparing import run_protocol

        run_protocol(stream, methods, given)
        return
    run_many(stream, methods, given, ["compare", stream, *methods], given)


@app.command()
@takes(*LEARNING, SPACE, TRIALS, VALIDATE, SEEDS, JOBS, OUT, RESUME, JSON, CONFIG, DEBUG)
def search(stream: StreamName, method: MethodName, given: Given) -> None:
    """Choose settings without a look at any test set, then test the choice."""
    from holdfast.cli.searching import run_search

    run_search(stream, method, given)


@app.command()
@takes(*TUNING, TUNE_OUT, RESUME, DRY_RUN, JSON, CONFIG, DEBUG)
def finetune(given: Given) -> None:
    """Fine-tune a language model, and report what was gained and what was kept."""
    from holdfast.cli.tuning import tune

    tune(given)


@app.command()
@takes(*EDITING, EDIT_OUT, RESUME, LIST, UNDO, JSON, CONFIG, DEBUG)
def edit(
    given: Given,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="With --list and --undo: its folder.")
    ] = None,
) -> None:
    """Edit facts that a language model tells, and report what else changed."""
    from holdfast.cli.editing import run_edit

    run_edit(folder, given)


@app.command()
@takes(SEEDS, JOBS, OUT, RESUME, JSON, DEBUG)
def demo(
    given: Given,
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[digits|lm]", help="Handwritten digits, or a language model."),
    ] = None,
) -> None:
    """Compare methods on handwritten digits in a minute, or on a language model in three (lm)."""
    from holdfast.cli.demo import run_demo

    run_demo(kind, given)


@app.command()
@takes(*diffing.OPTIONS)
def diff(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Folder of the model before.")],
    tuned: Annotated[
        Path, typer.Argument(metavar="TUNED", help="Folder of the model, or adapter, after.")
    ],
    given: Given,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="More paths for --on.")
    ] = None,
    on: Annotated[
        list[Path] | None,
        typer.Option("--on", metavar="PATH", help="File or folder of probe sets; may be repeated."),
    ] = None,
) -> None:
    """Say what a tuned model lost against its base; exit status 3 for a drop."""
    diffing.run_diff(base, tuned, [*(on or []), *(more or [])], given)


@app.command()
@takes(*adapting.OPTIONS)
def adapt(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a run, or of a Hugging Face model.")
    ],
    stream: Annotated[
        str,
        typer.Argument(
            metavar="STREAM", help="Such as 'corrupted-digits(rounds=3)', or a path of your own."
        ),
    ],
    methods: MethodNames,
    given: Given,
) -> None:
    """Let a classifier adapt to drifting images without labels, and report errors on the way."""
    adapting.run_adapt(model, stream, methods, given)


@app.command()
@takes(*forgetting.OPTIONS)
def unlearn(given: Given) -> None:
    """Let a model forget what it was taught, and audit what is forgotten and what is kept."""
    forgetting.choose(given)


@app.command()
@takes(*merging.MERGE_OPTIONS)
def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Folders of models to merge.")
    ],
    given: Given,
) -> None:
    """Merge models into one checkpoint, tensor by tensor, wholly or not at all."""
    merging.run_merge(models, given)


@app.command()
@takes(*merging.REPAIR_OPTIONS)
def repair(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Folder of the model before.")],
    tuned: Annotated[Path, typer.Argument(metavar="TUNED", help="Folder of the model after.")],
    given: Given,
    on: Annotated[
        list[Path] | None,
        typer.Option("--on", metavar="PATH", help="What the base could do; may be repeated."),
    ] = None,
) -> None:
    """Mix a tuned model with its base to give back what it lost; exit status 3 for a drop."""
    merging.run_repair(base, tuned, on or [], given)


@app.command()
@takes(*FILTERS, SCHEMA, DEBUG)
def methods(given: Given, name: Name = None, as_json: AsJson = False) -> None:
    """List the methods, all or those that fit, or show one in full."""
    from holdfast.cli.listing import list_methods

    list_methods(name, as_json, given)


@app.command()
@takes(*guiding.OPTIONS)
def recommend(given: Given) -> None:
    """Say which method fits what there is, and why; asks at a terminal if told nothing."""
    guiding.run_recommend(given)


@app.command()
@takes(DEBUG)
def streams(given: Given, name: Name = None, as_json: AsJson = False) -> None:
    """List the streams, or show one in full."""
    from holdfast.cli.listing import list_streams

    list_streams(name, as_json)


@app.command()
@takes(STUDY_SEEDS, QUICK, JOBS, STUDY_OUT, JSON, DEBUG)
def study(given: Given, name: Name = None) -> None:
    """List the studies of published claims, or run one."""
    from holdfast.cli.listing import study as do

    do(name, given)


@app.command()
@takes(OUT, DEBUG)
def report(
    source: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of a run or comparison, or a JSON file.")
    ],
    given: Given,
) -> None:
    """Write the HTML report again from kept results."""
    from holdfast.cli.running import render

    render(source, given["out"])


def main() -> None:
    """The entry point of the command `holdfast`."""
    app()
