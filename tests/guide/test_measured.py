"""The command that measures all methods at equal memory, and what it leaves."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from holdfast import streams
from holdfast.errors import DataError
from holdfast.guide.measured import Measured, load, read
from holdfast.guide.taxonomy import load as records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measured", ROOT / "benchmarks" / "measured.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["measured"] = module
    spec.loader.exec_module(module)
    return module


def test_a_row_of_replay_takes_an_input_and_its_label(command: ModuleType) -> None:
    small = "split-digits(limit=60)"
    assert command.bytes_of_a_row("er", small) == 64 + 8
    # outputs of ten classes in single precision, and how many classes there were
    assert command.bytes_of_a_row("der", small) == 64 + 8 + 10 * 4
    assert command.allowed(streams.build(small)) == 200 * (64 + 8)


@pytest.mark.contract
def test_who_stores_more_for_an_example_holds_fewer(command: ModuleType) -> None:
    bench = command.BENCHES[0]
    arms = {arm.label: arm for arm in command.arms(bench, rows=1437)}
    budget = 200 * 72
    for arm in arms.values():
        assert arm.row * arm.capacity <= budget
        assert (arm.capacity > 0) == (arm.role == "examples")
    assert arms["er"].capacity == 200
    assert arms["der"].spec == f"der(capacity={budget // 112})"
    assert arms["ewc"].role == "weights"
    assert arms["joint"].role == "bound"
    assert not [arm for arm in arms.values() if arm.role == "more"]  # there are not as many
    assert "guard" not in arms
    assert "packnet" not in arms
    learning = {n for n, r in records().items() if "none" in r.stages and "class" in r.scenarios}
    assert learning - {"guard"} <= set(arms)


@pytest.mark.contract
def test_replay_with_the_bytes_of_the_weights_stands_beside_where_data_suffice(
    command: ModuleType,
) -> None:
    (more,) = [arm for arm in command.arms(command.BENCHES[0], 10_000) if arm.role == "more"]
    weights = 4 * (64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10)
    assert more.capacity == pytest.approx((200 * 72 + weights) / 72, abs=20)


@pytest.mark.study
def test_what_is_measured_is_written_read_and_shown(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [
        command.Arm("finetune", "finetune", "bound"),
        command.Arm("er", "er(capacity=30)", "examples", 72.0, 30),
        command.Arm("lwf", "lwf", "weights"),
    ]
    monkeypatch.setattr(command, "arms", lambda bench, rows: iter(few))
    monkeypatch.setattr(command, "MODEL", "mlp(width=16, depth=1)")
    bench = replace(command.BENCHES[0], setting={**command.DIGITS, "model": command.MODEL})
    found = command.measure(bench, 2, 1, tmp_path / "runs", quick=True)
    again = command.measure(bench, 2, 1, tmp_path / "runs", quick=True)
    assert again == found  # finished runs are not done again
    command.write([found], tmp_path / "data", tmp_path / "docs")
    assert read((tmp_path / "data" / "split-digits.json").read_text()) == found
    row = found.row("er")
    assert row.spec == "er(capacity=30)"
    assert len(row.accuracy) == 2
    assert row.examples_bytes == 30 * 72
    assert found.row("lwf").examples_bytes == 0
    assert found.row("lwf").other_bytes == pytest.approx(found.weights, abs=64)
    page = (tmp_path / "docs" / "measured.md").read_text()
    assert "| **`finetune`** |" in page
    assert "| `er` |" in page
    assert (tmp_path / "docs" / "figures" / "measured-split-digits.svg").read_text().count(
        "<circle"
    ) >= 3


def test_measurements_of_another_version_are_refused(tmp_path: Path) -> None:
    held = Measured("a", "s", "class", {}, 1, 1, 1, (), "2")
    path = held.write(tmp_path)
    assert read(path.read_text()) == held
    newer = json.dumps({**json.loads(path.read_text()), "schema": 99})
    with pytest.raises(DataError, match="another version"):
        read(newer)


@pytest.mark.parametrize("measured", load().values(), ids=lambda measured: measured.name)
def test_the_page_shows_what_the_guide_reads(command: ModuleType, measured: Measured) -> None:
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    assert command.table(measured) in page
    drawn = ROOT / "docs" / "figures" / f"measured-{measured.name}.svg"
    assert drawn.read_text(encoding="utf-8") == command.picture(measured) + "\n"
    assert all(set(row.methods) <= set(records()) for row in measured.rows)


@pytest.mark.slow  # a new method is measured with the next long run, not before it lands
def test_every_method_that_learns_classes_was_measured() -> None:
    learning = {n for n, r in records().items() if "none" in r.stages and "class" in r.scenarios}
    seen = {name for row in load()["split-digits"].rows for name in row.methods}
    assert sorted(learning - {"guard"} - seen) == [], "run `make measured`"
