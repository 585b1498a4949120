"""Results come back from the database as they went in, and wrong files are refused."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import RunError, UsageError
from holdfast.evaluation import Record
from holdfast.store import FORMAT, SCHEMA, Failure, Result, Store, from_json, to_json

RECORD = Record(
    initial=[0.5, 0.25],
    matrix=[[1.0, 0.0], [0.25, 0.75]],
    task_matrix=[[1.0, 0.5], [0.5, 1.0]],
    curve=[
        {"experience": 0, "step": 5, "scores": [0.75, 0.0]},
        {"experience": 1, "step": 5, "scores": [0.125, 0.5]},
    ],
    cost={"seconds": 1.5, "flops": 1000, "steps": 10, "peak_memory_bytes": 7, "method_bytes": 3},
    notes=[{"experience": 1, "step": 5, "factor": 0.9}],
)
RESULT = Result("split-digits", "er", 0, RECORD, {"epochs": 1}, {"python": "3.11"})


def test_results_come_back_as_they_went_in(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add(RESULT)
        store.add(replace(RESULT, seed=1))
    with Store(tmp_path / "results.sqlite", create=False) as store:
        assert store.results() == [RESULT, replace(RESULT, seed=1)]
        assert store.done() == {("split-digits", "er", 0), ("split-digits", "er", 1)}


def test_every_score_can_be_asked_for_in_sql(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        store.add(RESULT)
    ask = sqlite3.connect(path).execute
    assert ask("select plain, task from scores where after = 1 and test_set = 0").fetchall() == [
        (0.25, 0.5)
    ]
    assert ask("select plain from scores where after = -1 order by test_set").fetchall() == [
        (0.5,),
        (0.25,),
    ]
    # By hand: the last row's mean is (0.25 + 0.75) / 2; test set 0 fell from 1 to 0.25.
    metrics = dict(ask("select name, value from metrics").fetchall())
    assert metrics["average_accuracy"] == 0.5
    assert metrics["forgetting"] == 0.75
    assert dict(ask("select name, value from costs").fetchall())["flops"] == 1000
    assert ask("select score from curve where point = 1 and test_set = 0").fetchone() == (0.125,)
    assert ask("pragma journal_mode").fetchone() == ("wal",)


def test_a_run_is_written_once(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add(RESULT)
        with pytest.raises(UsageError, match="already holds er with seed 0"):
            store.add(RESULT)
        assert len(store.results()) == 1


def test_a_result_replaces_the_failure_of_the_same_run(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add_failure("split-digits", "er", 0, "The loss became nan.", {})
        store.add_failure("split-digits", "er", 0, "The loss became inf.", {})
        assert store.failures() == [Failure("er", 0, "The loss became inf.")]
        assert store.results() == []
        store.add(RESULT)
        assert store.failures() == []
        assert store.results() == [RESULT]


def test_a_failed_write_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    crooked = replace(RECORD, curve=[{"experience": 0, "step": 1, "scores": ["no number"]}])
    with Store(tmp_path / "results.sqlite") as store:
        with pytest.raises((RunError, ValueError)):
            store.add(replace(RESULT, record=crooked))
        assert store.results() == []
        assert store.connection.execute("select count(*) from scores").fetchone() == (0,)
        store.add(RESULT)


def test_a_full_disk_is_a_sentence_and_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add(RESULT)
        pages = store.connection.execute("pragma page_count").fetchone()[0]
        store.connection.execute(f"pragma max_page_count = {pages}")
        long = replace(RECORD, notes=[{"text": "x" * 100_000}])
        with pytest.raises(RunError, match="full"):
            store.add(replace(RESULT, seed=1, record=long))
        assert store.results() == [RESULT]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    Store(path).close()
    other = sqlite3.connect(path)
    other.execute(f"pragma user_version = {SCHEMA + 1}")
    other.close()
    with pytest.raises(UsageError, match="newer holdfast"):
        Store(path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    other = sqlite3.connect(path)
    other.execute("create table cats (name)")
    other.close()
    with pytest.raises(UsageError, match="not one of holdfast's"):
        Store(path)


def test_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(UsageError, match="cannot be used as a database"):
        Store(path)


def test_a_missing_file_is_refused_where_none_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There are no results"):
        Store(tmp_path / "results.sqlite", create=False)
    assert list(tmp_path.iterdir()) == []


def test_results_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(to_json("split-digits", [RESULT], [Failure("wa", 1, "Refused.")]))
    assert from_json(path) == [RESULT]
    document = json.loads(path.read_text())
    assert document["failures"] == [{"method": "wa", "seed": 1, "error": "Refused."}]


def test_undefined_metrics_are_null_because_json_has_no_nan() -> None:
    one = Record(
        initial=[0.0],
        matrix=[[1.0]],
        task_matrix=[[1.0]],
        curve=[{"experience": 0, "step": 1, "scores": [0.5]}],
    )
    document = to_json("s", [Result("s", "er", 0, one)])
    assert "NaN" not in document
    assert json.loads(document)["results"][0]["metrics"]["min_accuracy"] is None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"format": FORMAT + 1, "stream": "s", "results": []}, "newer holdfast"),
        ({"results": []}, "'stream' is missing"),
        ({"stream": "s", "results": [{"method": "er"}]}, "is missing"),
        ({"stream": "s", "results": [3]}, "not a file of results"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, document: dict[str, object], sentence: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=sentence):
        from_json(path)


def test_where_classes_arrive_the_score_with_the_task_known_is_a_metric() -> None:
    record = replace(RECORD, scenario="class")
    known = Result("split-digits", "er", 0, record).metrics["task_average_accuracy"]
    last = RECORD.task_matrix[-1]
    assert known == pytest.approx(sum(last) / len(last))
    domain = replace(RECORD, scenario="domain")
    assert "task_average_accuracy" not in Result("rotated-digits", "er", 0, domain).metrics
