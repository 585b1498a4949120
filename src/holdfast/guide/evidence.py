"""Measured evidence in one form: tables of methods, each with the naive baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from holdfast.guide import measured


@dataclass(frozen=True)
class Table:
    """What was measured of several methods under equal conditions.

    Attributes:
        name: Of the table.
        page: Where it is in the repository.
        measure: What the values are.
        better: `up` or `down`.
        naive: Spec of the baseline that does nothing against forgetting.
        goal: As in a situation.
        model: Likewise.
        kinds: Kinds of streams, or stages of a language model, that it speaks for.
        old_data: The amounts of old data for which it was made; empty: any.
        values: By spec.
        halves: Half-widths of their 95 % intervals, where there are any.
        bounds: Specs that are no choices.
        pretrained: Whether the models knew something before; of classifiers that learn alone.
    """

    name: str
    page: str
    measure: str
    better: str
    naive: str
    goal: str
    model: str
    kinds: tuple[str, ...]
    old_data: tuple[str, ...]
    values: Mapping[str, float]
    halves: Mapping[str, float]
    bounds: tuple[str, ...] = ()
    pretrained: bool = False

    def gain(self, spec: str) -> float | None:
        """What a method wins over the baseline, as a share of what the best of the table wins.

        None if it is not in it, or if nothing is better than the baseline.
        """
        if spec not in self.values:
            return None
        most = max(map(self._won, [s for s in self.values if s not in self.bounds]))
        return self._won(spec) / most if most > 0 else None

    def _won(self, spec: str) -> float:
        difference = self.values[spec] - self.values[self.naive]
        return difference if self.better == "up" else -difference

    def told(self, spec: str) -> str:
        """A value beside the baseline's, as a phrase."""
        return f"{self._shown(spec)} against {self._shown(self.naive)} of {self.naive}"

    def _shown(self, spec: str) -> str:
        half = self.halves.get(spec)
        return f"{self.values[spec]:.4g}" + (f" ± {half:.2g}" if half is not None else "")


class Cost(NamedTuple):
    """A number of times, and where it was measured."""

    times: float
    table: str


@cache
def tables() -> tuple[Table, ...]:
    """All tables: those of `make measured` first, then those of the studies' pages."""
    return (*map(_of_stream, measured.load().values()), *map(_of_page, pages()))


@cache
def pages() -> tuple[dict[str, Any], ...]:
    """What `studies.yaml` holds: numbers of pages, each with its place there."""
    import yaml

    text = files("holdfast.guide").joinpath("studies.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text))


def about(
    goal: str, model: str, kinds: tuple[str, ...], old_data: str, pretrained: bool
) -> Iterator[Table]:
    """The tables that speak for a situation.

    Of classifiers that learn, those that began with fresh weights tell nothing of others.
    """
    for table in tables():
        fits = (table.goal, table.model) == (goal, model) and set(table.kinds) & set(kinds)
        alike = (goal, model) != ("learn", "classifier") or table.pretrained == pretrained
        rows = not table.old_data or old_data in table.old_data
        if fits and rows and alike:
            yield table


def cost(spec: str, goal: str, kind: str) -> Cost | None:
    """Operations against plain training's, where `make measured` counted them."""
    for table, row, naive in _rows(spec, goal, kind):
        plain = sum(naive.flops)
        if plain:
            return Cost(sum(row.flops) / plain, table)
    return None


def copies(spec: str, goal: str, kind: str) -> Cost | None:
    """Copies of the weights that a method keeps, by what `make measured` found stored."""
    for table, row, _ in _rows(spec, goal, kind):
        held = measured.load()[table]
        return Cost(row.other_bytes / held.weights, table)
    return None


def _rows(spec: str, goal: str, kind: str) -> Iterator[tuple[str, measured.Row, measured.Row]]:
    for name, held in measured.load().items() if goal == "learn" else ():
        row, naive = held.row(spec), held.row("finetune")
        if held.scenario == kind and row is not None and naive is not None:
            yield name, row, naive


def _of_stream(held: measured.Measured) -> Table:
    rows = [row for row in held.rows if row.role != "more"]
    halves = {row.label: row.half for row in rows}
    return Table(
        name=held.name,
        page="docs/measured.md",
        measure="average accuracy (%)",
        better="up",
        naive="finetune",
        goal="learn",
        model="classifier",
        kinds=(held.scenario,),
        old_data=(),
        values={row.label: round(100 * row.mean, 2) for row in rows},
        halves={label: 100 * half for label, half in halves.items() if half is not None},
        bounds=tuple(row.label for row in rows if row.role == "bound"),
    )


def _of_page(said: Mapping[str, Any]) -> Table:
    return Table(
        name=said["name"],
        page=said["page"],
        measure=said["measure"],
        better=said["better"],
        naive=said["naive"],
        goal=said["goal"],
        model=said["model"],
        kinds=tuple(said["kinds"]),
        old_data=tuple(said.get("old_data", ())),
        values={row["spec"]: row["value"] for row in said["rows"]},
        halves={row["spec"]: row["half"] for row in said["rows"] if "half" in row},
        bounds=tuple(said.get("bounds", ())),
        pretrained=bool(said.get("pretrained", False)),
    )
