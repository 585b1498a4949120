"""Results of runs: what one run left, and a database of many.

The database is one SQLite file. Besides what is needed to read results back, it holds every score
as a row of its own, so that questions can be asked in SQL:

    select method, avg(value) from runs join metrics on metrics.run = runs.id
    where name = 'average_accuracy' group by method
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from holdfast.errors import RunError, UsageError
from holdfast.evaluation import Record
from holdfast.metrics import average_accuracy, curve_summary, summary
from holdfast.settings import read_json

SCHEMA = 1
"""Of the database; raised when older code could misread what newer code writes."""

FORMAT = 1
"""Of results as JSON; likewise."""

NEWER = ("tests", "since", "after")
"""What results written before there were such do not hold."""

_APPLICATION = 0x686F6C64  # "hold": tells our files from other SQLite databases

_TABLES = """
create table runs (
    id integer primary key,
    stream text not null,
    method text not null,
    seed integer not null,
    status text not null check (status in ('finished', 'failed')),
    error text,
    config text not null,
    environment text not null,
    record text,
    written text not null,
    unique (stream, method, seed)
) strict;
create table scores (
    run integer not null references runs on delete cascade,
    after integer not null,  -- the experience just learned; -1: before any
    test_set integer not null,
    plain real not null,
    task real,  -- with the task known
    primary key (run, after, test_set)
) strict, without rowid;
create table metrics (
    run integer not null references runs on delete cascade,
    name text not null,
    value real,
    primary key (run, name)
) strict, without rowid;
create table costs (
    run integer not null references runs on delete cascade,
    name text not null,
    value real not null,
    primary key (run, name)
) strict, without rowid;
create table curve (
    run integer not null references runs on delete cascade,
    point integer not null,
    experience integer not null,
    step integer not null,
    test_set integer not null,
    score real not null,
    primary key (run, point, test_set)
) strict, without rowid;
"""


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        stream: Spec of the stream.
        method: Spec of the method.
        seed: Of the run.
        record: Scores and costs.
        config: Everything the run was given, by name.
        environment: Versions and machine.
    """

    stream: str
    method: str
    seed: int
    record: Record
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the run, by name.

        Where classes arrive, `task_average_accuracy` is what the same outputs score when the task
        is known.
        """
        record = self.record
        met = record.met if record.since else None
        known = {"task_average_accuracy": average_accuracy(record.task_matrix, met)}
        return {
            **summary(record.matrix, record.initial, met),
            **(known if record.scenario == "class" and not record.tests else {}),
            **curve_summary(record.curve, record.since if record.tests else ()),
        }

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; metrics that are not defined are None."""
        metrics = {n: v if math.isfinite(v) else None for n, v in self.metrics.items()}
        record = self.record.to_dict()
        return {
            "method": self.method,
            "seed": self.seed,
            "matrix": record.pop("matrix"),
            "metrics": metrics,
            "cost": record.pop("cost"),
            **record,
            "config": dict(self.config),
            "environment": dict(self.environment),
        }

    @staticmethod
    def from_dict(stream: str, state: Mapping[str, Any]) -> Result:
        """The inverse of `to_dict`; metrics are computed anew."""
        names = [field.name for field in fields(Record)]
        return Result(
            stream=stream,
            method=state["method"],
            seed=state["seed"],
            record=Record(**{n: state[n] for n in names if n in state or n not in NEWER}),
            config=state["config"],
            environment=state["environment"],
        )


class Failure(NamedTuple):
    """A run that could not be finished, and the sentence that says why."""

    method: str
    seed: int
    error: str


def to_json(stream: str, results: Sequence[Result], failures: Sequence[Failure] = ()) -> str:
    """Results as one JSON document: `{"stream", "results": [...]}`."""
    document = {
        "format": FORMAT,
        "stream": stream,
        "results": [result.to_dict() for result in results],
        "failures": [failure._asdict() for failure in failures],
    }
    return json.dumps(document, indent=1) + "\n"


def from_json(path: Path) -> list[Result]:
    """The results in a file that holds what `to_json` gave.

    Raises:
        UsageError: If the file is missing, damaged, from a newer version or something else.
    """
    what = "a file of results"
    document = read_json(path, what)
    if document.get("format", FORMAT) > FORMAT:
        raise UsageError(
            f"{path} was written by a newer holdfast (format {document['format']}; this one reads "
            f"up to {FORMAT}). Update holdfast to use it."
        )
    try:
        stream = document["stream"]
        return [Result.from_dict(stream, state) for state in document["results"]]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is not {what}: {error} is missing or misplaced.") from error


class Store:
    """A database of results in one file.

    Args:
        path: Of the file; created if it does not exist, unless `create` is False.

    Raises:
        UsageError: If the file is missing, damaged, foreign or from a newer version.

    Example:
        >>> store = Store(Path(":memory:"))
        >>> store.add_failure("split-digits", "er", 0, "The loss became nan.", config={})
        >>> [failure.error for failure in store.failures()]
        ['The loss became nan.']
        >>> store.close()
    """

    def __init__(self, path: Path, create: bool = True) -> None:
        self.path = path
        if not create and not path.is_file():
            raise UsageError(f"There are no results at {path}.")
        try:
            self.connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self.connection.close()
                raise
        except sqlite3.Error as error:
            raise UsageError(f"{path} cannot be used as a database of results: {error}.") from error

    def _open(self) -> None:
        ask = self.connection.execute
        ask("pragma foreign_keys = on")
        application = ask("pragma application_id").fetchone()[0]
        version = ask("pragma user_version").fetchone()[0]
        if application == 0 and not ask("select count(*) from sqlite_master").fetchone()[0]:
            ask("pragma journal_mode = wal")
            self.connection.executescript(
                f"begin immediate; {_TABLES} pragma application_id = {_APPLICATION}; "
                f"pragma user_version = {SCHEMA}; commit"
            )
        elif application != _APPLICATION:
            raise UsageError(f"{self.path} is a database, but not one of holdfast's results.")
        elif version > SCHEMA:
            raise UsageError(
                f"{self.path} was written by a newer holdfast (schema {version}; this one reads up "
                f"to {SCHEMA}). Update holdfast to use it."
            )

    def add(self, result: Result) -> None:
        """Write a finished run, in one transaction, over an earlier failure if there is one.

        Raises:
            UsageError: If this run is there already.
            RunError: If it cannot be written; the database is then as before.
        """
        record, key = result.record, (result.stream, result.method, result.seed)
        with self._transaction():
            if key in self.done():
                raise UsageError(f"{self.path} already holds {result.method} with seed {key[2]}.")
            run = self._insert(key, "finished", None, result.config, result.environment, record)
            rows: list[tuple[Any, ...]]
            rows = [(run, -1, on, score, None) for on, score in enumerate(record.initial)]
            for after, (plain, task) in enumerate(
                zip(record.matrix, record.task_matrix, strict=True)
            ):
                pairs = zip(plain, task, strict=True)
                rows += [(run, after, on, *pair) for on, pair in enumerate(pairs)]
            self._many("scores", rows)
            self._many("metrics", [(run, *item) for item in result.metrics.items()])
            self._many("costs", [(run, *item) for item in record.cost.items()])
            self._many(
                "curve",
                [
                    (run, point, at["experience"], at["step"], on, score)
                    for point, at in enumerate(record.curve)
                    for on, score in enumerate(at["scores"])
                ],
            )

    def add_failure(
        self, stream: str, method: str, seed: int, error: str, config: Mapping[str, Any]
    ) -> None:
        """Write down that a run failed and why, over an earlier failure if there is one."""
        with self._transaction():
            self._insert((stream, method, seed), "failed", error, config, {}, None)

    def results(self) -> list[Result]:
        """All finished runs, in the order in which they finished."""
        rows = self._rows(
            "select stream, method, seed, record, config, environment from runs "
            "where status = 'finished' order by id"
        )
        return [
            Result(
                stream, method, seed, Record.from_dict(json.loads(record)), *map(json.loads, more)
            )
            for stream, method, seed, record, *more in rows
        ]

    def failures(self) -> list[Failure]:
        """All runs that failed and have not been finished since."""
        rows = self._rows(
            "select method, seed, error from runs where status = 'failed' order by id"
        )
        return [Failure(*row) for row in rows]

    def done(self) -> set[tuple[str, str, int]]:
        """Stream, method and seed of every finished run."""
        rows = self._rows("select stream, method, seed from runs where status = 'finished'")
        return {(stream, method, seed) for stream, method, seed in rows}

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _insert(
        self,
        key: tuple[str, str, int],
        status: str,
        error: str | None,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        record: Record | None,
    ) -> int | None:
        ask = self.connection.execute
        ask(
            "delete from runs where (stream, method, seed) = (?, ?, ?) and status = 'failed'",
            key,
        )
        values = (
            *(*key, status, error, json.dumps(dict(config)), json.dumps(dict(environment))),
            json.dumps(record.to_dict()) if record is not None else None,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        names = "stream, method, seed, status, error, config, environment, record, written"
        marks = ", ".join("?" * len(values))
        return ask(f"insert into runs ({names}) values ({marks})", values).lastrowid

    def _many(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.connection.executemany(f"insert into {table} values ({marks})", rows)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(query).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"Cannot read results from {self.path}: {error}.") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self.connection.execute("rollback")
                raise
            self.connection.execute("commit")
        except sqlite3.Error as error:
            if self.connection.in_transaction:
                self.connection.execute("rollback")
            raise RunError(f"Cannot write results to {self.path}: {error}.") from error
