"""Every number that the guide has of a page stands on that page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast import catalogue
from holdfast.guide import evidence

ROOT = Path(__file__).parents[2]


def cell(page: str, heading: str, column: str, row: str) -> str:
    """What a page's first table with this column (after a heading) holds in a row."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = text[text.index(heading) :].splitlines()
    place: int | None = None
    for line in lines:
        cells = [part.strip() for part in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            place = None
        elif place is None:
            place = cells.index(column) if column in cells else -1
        elif place > 0 and cells[0] == row:
            return cells[place]
    raise LookupError(f"{page} has no {row!r} in a table with {column!r}")


@pytest.mark.parametrize("said", evidence.pages(), ids=lambda said: said["name"])
def test_every_number_stands_in_its_place(said: dict[str, Any]) -> None:
    assert said["rows"]
    for row in said["rows"]:
        found = cell(said["page"], said.get("heading", ""), said["column"], row["row"])
        mean, _, half = found.partition(" ± ")
        assert float(mean) == row["value"], row
        assert half == "" or float(half) == row["half"], row


@pytest.mark.parametrize("table", evidence.tables(), ids=lambda table: table.name)
def test_a_table_has_its_baseline_and_methods_that_exist(table: evidence.Table) -> None:
    assert table.naive in table.values
    for spec in table.values:
        catalogue.build(spec)
    assert (ROOT / table.page).is_file()
    assert table.better in ("up", "down")
    assert len({t.name for t in evidence.tables()}) == len(evidence.tables())
