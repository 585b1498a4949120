"""The page on published figures says what was recorded, and why where a figure is not met."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from holdfast import catalogue

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reference.py"


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_record(command: ModuleType) -> None:
    found = command.recorded()
    assert command.PAGE.read_text() == (
        command.HEAD + command.table(found) + command.missing([o.row for o in found])
    )


def test_what_is_recorded_belongs_to_a_row_at_its_present_setting(command: ModuleType) -> None:
    keys = {command.key(row) for row in command.ROWS}
    assert len(keys) == len({row.slug for row in command.ROWS}) == len(command.ROWS)
    recorded = [entry["key"] for entry in json.loads(command.RECORD.read_text())]
    assert len(recorded) == len(set(recorded))
    assert set(recorded) <= keys


def test_where_a_figure_is_not_met_the_page_says_why(command: ModuleType) -> None:
    unexplained = [o.row.name for o in command.recorded() if not o.reproduced and not o.row.reason]
    assert unexplained == []


def test_a_figure_is_met_within_two_deviations_or_two_points(command: ModuleType) -> None:
    row = command.Row("a", 80, 3, "", "er", "split-digits")
    assert command.Outcome(row, [85.0, 87.0]).reproduced
    assert not command.Outcome(row, [86.0, 88.0]).reproduced
    narrow = command.Row("a", 80, 0.1, "", "er", "split-digits")
    assert command.Outcome(narrow, [78.1]).reproduced
    assert not command.Outcome(narrow, [77.9]).reproduced


def test_every_row_names_a_method_and_a_stream(command: ModuleType) -> None:
    for row in command.ROWS:
        catalogue.build(row.method)
        assert row.config.stream
