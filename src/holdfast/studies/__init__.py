"""Studies: the experiment behind a published claim, run again, with a verdict.

Example:
    >>> from holdfast import studies
    >>> studies.find("stability-gap").source
    'De Lange et al., 2023'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import UsageError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.studies.study import Scale, Study, Verdict

STUDIES: dict[str, str] = {
    "aljundi-thesis": "holdfast.studies.aljundi_thesis",
    "cf-glue": "holdfast.studies.cf_glue",
    "cil-survey": "holdfast.studies.cil_survey",
    "continual-pretraining": "holdfast.studies.continual_pretraining",
    "cotta": "holdfast.studies.cotta",
    "dmt": "holdfast.studies.dmt",
    "fpf": "holdfast.studies.fpf",
    "grads": "holdfast.studies.grads",
    "hft": "holdfast.studies.hft",
    "i-lora": "holdfast.studies.i_lora",
    "migu": "holdfast.studies.migu",
    "neuron-fusion": "holdfast.studies.neuron_fusion",
    "npo": "holdfast.studies.npo",
    "power-law-rehearsal": "holdfast.studies.power_law_rehearsal",
    "refresh-learning": "holdfast.studies.refresh_learning",
    "scole": "holdfast.studies.scole",
    "stability-gap": "holdfast.studies.stability_gap",
    "trace": "holdfast.studies.trace",
    "weight-aligning": "holdfast.studies.weight_aligning",
    "worst-case-forget-sets": "holdfast.studies.worst_case_forget_sets",
    "wise": "holdfast.studies.wise",
}


@dataclass(frozen=True)
class Entry:
    """A study in the catalogue.

    Attributes:
        name: As on the command line.
        claim: In one sentence.
        source: Authors and year.
        minutes: What a run takes on two cores, with the data that are here.
    """

    name: str
    claim: str
    source: str
    minutes: float


def find(name: str) -> Study:
    """A study by name.

    Raises:
        UsageError: If there is none; the nearest name is offered.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    found: Study = import_module(STUDIES[name]).STUDY
    return found


def entries() -> Iterator[Entry]:
    """All studies."""
    for name in STUDIES:
        found = find(name)
        yield Entry(name, found.claim, found.source, found.minutes[_scale(found, False)])


def run(
    name: str,
    seeds: int | None = None,
    out: Path | None = None,
    quick: bool = False,
    jobs: int | None = None,
    console: Console | None = None,
) -> list[Verdict]:
    """Run a study, print claim, observed and verdict, and write a report.

    What is already in the folder is not run again, so an interrupted study goes on.

    Args:
        name: Of the study.
        seeds: How many, from 0; at least 2, since a verdict needs intervals; None: the study's own
            number.
        out: Folder for results and report; None: `runs/study-NAME`, with `-quick` for a trial.
        quick: A trial in seconds on a part of the digits, whose verdicts are no evidence.
        jobs: Processes of one thread each; None: one a core.
        console: Where to print; None: standard output.

    Raises:
        UsageError: If there is no such study, or a number is out of range, or the folder holds
            results of other settings.
        RunError: If a run fails.
    """
    from rich.console import Console
    from rich.progress import Progress

    from holdfast.processes import usable_cores
    from holdfast.studies import present
    from holdfast.studies.runner import Cell, run_cells
    from holdfast.studies.study import Results

    found = find(name)
    seeds = found.seeds if seeds is None else seeds
    if seeds < 2:
        raise UsageError(f"A study needs at least 2 seeds for its intervals; given: {seeds}.")
    asked = range(seeds)
    console = console or Console()
    scale = _scale(found, quick)
    folder = out or default_folder(name, quick)
    arms = found.arms(scale)
    cells = [Cell(name, arm, seed, settings) for seed in asked for arm, settings in arms.items()]
    present.announce(found, scale, seeds, console)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=len(cells))
        measured = run_cells(
            cells,
            folder / "cells",
            jobs if jobs is not None else usable_cores(),
            lambda cell: progress.advance(task),
        )
    results = Results({arm: [measured[arm, seed] for seed in asked] for arm in arms})
    verdicts = [claim.judge(results) for claim in found.claims]
    outcome = present.Outcome(
        study=found,
        scale=scale,
        seeds=seeds,
        minutes=sum(run["wall_seconds"] for run in measured.values()) / 60,
        settings=arms,
        verdicts=verdicts,
        grids=found.grids(results),
        figures=found.figures(results),
    )
    present.write(outcome, folder)
    console.print(present.verdict_table(verdicts))
    console.print(f"Report: {folder / 'index.html'}", highlight=False)
    return verdicts


def default_folder(name: str, quick: bool = False) -> Path:
    """Where a study keeps its results when no folder is named."""
    return Path("runs") / f"study-{name}{'-quick' if quick else ''}"


def _scale(found: Study, quick: bool) -> Scale:
    """Quick if asked for, else the largest scale for which the data are here."""
    from holdfast.streams.sources import SOURCES, present

    if quick:
        return "quick"
    files = [SOURCES[name][1] if name in SOURCES else (name,) for name in found.data]
    here = all(any(map(present, either)) for either in files)
    return "data" if here else "digits"
