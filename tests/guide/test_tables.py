"""The pages that are made from the records are as they would be made now."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.guide import tables, taxonomy
from holdfast.guide.protocol import PROTOCOLS, protocols

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "made"),
    [("taxonomy.md", tables.taxonomy_page), ("guide.md", tables.guide_page)],
)
def test_a_page_is_as_it_would_be_made_now(page: str, made) -> None:  # type: ignore[no-untyped-def]
    committed = (DOCS / page).read_text(encoding="utf-8")
    assert committed == made(), "run `make docs-tables`"


def test_the_table_of_methods_is_as_it_would_be_made_now() -> None:
    committed = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    assert committed == tables.index(committed), "run `make docs-tables`"


def test_coverage_shows_what_there_is_and_what_is_missing() -> None:
    lines = [line.split("|") for line in tables.coverage().splitlines()]
    header = [cell.strip() for cell in lines[0]]
    rows = {line[1].strip(): [cell.strip() for cell in line] for line in lines[2:]}
    assert "ewc" in rows["parameters"][header.index("cpt")].split(", ")
    assert rows["prompt"][2:-1] == [""] * len(taxonomy.vocabulary("stages"))


def test_every_metric_has_a_function_a_direction_and_a_stage() -> None:
    assert len({protocol.name for protocol in PROTOCOLS}) == len(PROTOCOLS)
    for protocol in PROTOCOLS:
        assert callable(protocol.load())
        assert protocol.better in ("up", "down")
        assert set(protocol.stages) <= set(taxonomy.vocabulary("stages"))
    assert {stage for p in PROTOCOLS for stage in p.stages} == set(taxonomy.vocabulary("stages"))


def test_vertical_and_horizontal_metrics_stand_side_by_side() -> None:
    names = {p.name: p.axis for p in protocols("cft")}
    assert names["backward transfer"] == "horizontal"
    assert names["FUAR"] == names["X-delta"] == names["general ability delta"] == "vertical"
