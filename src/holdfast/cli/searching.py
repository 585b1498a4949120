"""What `search` does."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from holdfast import report
from holdfast.checkpoint import write_atomically
from holdfast.cli.progress import CompareProgress
from holdfast.cli.running import REPORT, out_folder
from holdfast.errors import UsageError
from holdfast.run import Stopped, build
from holdfast.search import FIRST, SHARE, Dimension, Found, Plan, Protocol, Trial, confirmed, search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.cli.options import Given
    from holdfast.config import Config
    from holdfast.store import Result

SHOWN = 5
"""Trials that the terminal shows, best first."""


class SearchProgress(CompareProgress):
    """As for a comparison, without a line a run."""

    def on_finished(self, config: Config, result: Result) -> None:
        self._ended(config)


def run_search(stream: str, method: str, given: Given) -> None:
    """Search, or go on with a search, test the choice, and show both."""
    plan = _plan(stream, method, given)
    seeds = 1 if given["seeds"] is None else int(given["seeds"])
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1; given: {seeds}.")
    build(plan.trial({d.name: d.values[0] for d in plan.space}))  # may refuse
    out = out_folder(given, plan.base)
    again = given.command("search", stream, method, out=out, resume=True)
    console = Console()
    watch, tests = SearchProgress(console), CompareProgress(console)
    try:
        with watch.bars:
            found = search(plan, out, given["jobs"], watch)
        with tests.bars:
            found = confirmed(plan, found, seeds, out, given["jobs"], tests)
    except Stopped as error:
        raise Stopped(f"{error} To go on:\n  {again}") from error
    content = (json.dumps(_document(plan, found), indent=1) + "\n").encode()
    for path in (out / "search.json", *([given["json"]] if given["json"] else [])):
        write_atomically(path, content)
    report.write(found.results, out / REPORT)
    console.print(_table(plan, found))
    print(f"\n{textwrap.fill(plan.told, 80)}")
    print(f"Chosen:  trial {found.best.number}: {_shown(found.best)}")
    console.print(report.text_table(found.results))
    print(f"Report:  {out / REPORT}")


def _plan(stream: str, method: str, given: Given) -> Plan:
    base = given.config(stream, method)
    protocol: Protocol = given["validate"] or "first"
    if protocol == "end" and base.until is not None:
        raise UsageError("--until is for --validate first; end learns all experiences.")
    return Plan(
        base=replace(base, until=None, validation=0.0),
        space=tuple(Dimension.read(text) for text in given["space"] or ()),
        protocol=protocol,
        trials=20 if given["trials"] is None else int(given["trials"]),
        share=base.validation or SHARE,
        first=base.until or FIRST,
    )


def _document(plan: Plan, found: Found) -> dict[str, Any]:
    return {
        "format": 1,
        **plan.to_dict(),
        "validation": plan.told,
        "trials": [asdict(trial) for trial in found.trials],
        "best": asdict(found.best),
        "config": found.config.to_dict(),
        "stream": plan.base.stream,
        "results": [result.to_dict() for result in found.results],
    }


def _table(plan: Plan, found: Found) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("trial", *(dimension.name for dimension in plan.space), "held-out accuracy"):
        table.add_column(name, justify="right")
    for trial in _ordered(found.trials)[:SHOWN]:
        values = [_value(trial.values[dimension.name]) for dimension in plan.space]
        score = "failed" if trial.score is None else f"{100 * trial.score:.1f} %"
        table.add_row(str(trial.number), *values, score)
    return table


def _ordered(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda t: (t.score is None, -(t.score or 0.0), t.number))


def _shown(trial: Trial) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in trial.values.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
