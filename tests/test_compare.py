"""A comparison: every run done once, each failure on its own, and gone on with where it stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holdfast import compare as comparing
from holdfast.compare import Comparison, Watcher, compare, folder_name, grid
from holdfast.config import Config
from holdfast.errors import RunError, UsageError
from holdfast.run import Stopped, run
from holdfast.store import Failure, Result, Store

BASE = Config("split-digits", "er", model="mlp(width=16)", epochs=1, batch_size=128)
LONG = replace(BASE, epochs=20, checkpoint_every=20)


def alone(config: Config) -> Result:
    """The run in this process, with one thread as workers have: sums are then made in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(config)
    finally:
        torch.set_num_threads(threads)


class Told(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.waiting: list[Config] = []
        self.before = 0
        self.progress: list[float] = []
        self.finished: list[Config] = []

    def on_start(self, waiting: Sequence[Config], finished: int) -> None:
        self.waiting, self.before = list(waiting), finished

    def on_progress(self, config: Config, done: float) -> None:
        self.progress.append(done)

    def on_finished(self, config: Config, result: Result) -> None:
        self.finished.append(config)


CELLS = grid(BASE, ["finetune", "er(capacity=20)"], [0, 1])


@pytest.fixture(scope="module")
def never_noted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A comparison's folder whose parent died when the first run had ended."""
    out = tmp_path_factory.mktemp("compare")
    return out, run(CELLS[0], out / "runs" / folder_name(CELLS[0]))


@pytest.fixture(scope="module")
def done(never_noted: tuple[Path, Result]) -> tuple[Path, Comparison, Told]:
    out, told = never_noted[0], Told()
    return out, compare(CELLS, out, jobs=2, watcher=told), told


def test_every_method_meets_every_seed_and_results_come_in_the_order_asked(
    done: tuple[Path, Comparison, Told],
) -> None:
    _, comparison, told = done
    keys = [(result.method, result.seed) for result in comparison.results]
    assert keys == [
        ("finetune", 0),
        ("finetune", 1),
        ("er(capacity=20)", 0),
        ("er(capacity=20)", 1),
    ]
    assert comparison.failures == []
    assert len(told.finished) == 4
    assert max(told.progress) == 1.0
    assert all(0 <= share <= 1 for share in told.progress)


def test_a_run_in_a_worker_gives_what_it_gives_alone(done: tuple[Path, Comparison, Told]) -> None:
    _, comparison, _ = done
    result = alone(replace(BASE, method="er(capacity=20)", seed=1))
    assert comparison.results[3].record.matrix == result.record.matrix
    assert comparison.results[3].config == result.config
    assert comparison.results[3].environment["threads"] == 1


def test_a_finished_run_that_was_never_noted_is_not_done_again(
    never_noted: tuple[Path, Result], done: tuple[Path, Comparison, Told]
) -> None:
    assert done[1].results[0] == never_noted[1]  # its seconds and its date among the rest


def test_every_run_has_its_own_folder(done: tuple[Path, Comparison, Told]) -> None:
    out, _, _ = done
    names = sorted(path.name for path in (out / "runs").iterdir())
    assert len(names) == 4
    assert {"finetune-seed0", "finetune-seed1"} < set(names)
    assert all((out / "runs" / name / "result.json").exists() for name in names)


def test_asked_for_again_only_what_is_new_is_done(done: tuple[Path, Comparison, Told]) -> None:
    out, first, _ = done
    told = Told()
    cells = grid(BASE, ["finetune", "er(capacity=20)", "ncm"], [0, 1])
    second = compare(cells, out, jobs=1, watcher=told)
    assert told.before == 4
    assert [(cell.method, cell.seed) for cell in told.waiting] == [("ncm", 0), ("ncm", 1)]
    assert second.results[:4] == first.results
    assert len(second.results) == 6


def test_other_options_are_refused_and_named(done: tuple[Path, Comparison, Told]) -> None:
    out, _, _ = done
    with pytest.raises(UsageError, match="epochs is 1 there and 3 here"):
        compare(grid(replace(BASE, epochs=3), ["er"], [0]), out)


def test_a_single_runs_folder_is_refused(tmp_path: Path) -> None:
    run(BASE, tmp_path)
    with pytest.raises(UsageError, match="holds a single run"):
        compare(grid(BASE, ["er"], [0]), tmp_path)


@pytest.mark.system
def test_a_worker_that_the_system_ends_is_reported_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[comparing._Worker] = []

    class Recorded(comparing._Worker):
        def __init__(self) -> None:
            super().__init__()
            workers.append(self)

    class Killer(Watcher):
        def on_progress(self, config: Config, done: float) -> None:
            if len(workers) == 1:
                workers[0].process.kill()

    monkeypatch.setattr(comparing, "_Worker", Recorded)
    cells = grid(LONG, ["er", "ncm"], [0])
    comparison = compare(cells, tmp_path, jobs=1, watcher=Killer())
    assert len(workers) == 2
    assert [result.method for result in comparison.results] == ["ncm"]
    (failure,) = comparison.failures
    assert failure.method == "er"
    assert "memory has run out" in failure.error
    with Store(tmp_path / "results.sqlite") as store:
        assert store.failures() == [failure]


def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"could not be started.*status 1"):
        compare(grid(BASE, ["er"], [0]), tmp_path)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As a shell that runs the tests in its background leaves it, an interrupt would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.system
@pytest.mark.usefixtures("interruptible")
def test_interrupted_it_stops_soon_and_goes_on_from_where_it_was(tmp_path: Path) -> None:
    class Interrupt(Told):
        def on_progress(self, config: Config, done: float) -> None:
            super().on_progress(config, done)
            if config.method == "er" and done > 0:
                os.kill(os.getpid(), signal.SIGINT)

    cells = grid(LONG, ["ncm", "er", "finetune"], [0])
    with pytest.raises(Stopped, match="2 of 3 runs to go"):
        compare(cells, tmp_path, jobs=1, watcher=Interrupt())
    with Store(tmp_path / "results.sqlite") as store:
        assert [result.method for result in store.results()] == ["ncm"]
        assert store.failures() == []
    assert list((tmp_path / "runs/er-seed0/checkpoints").iterdir())
    assert not (tmp_path / "runs/finetune-seed0").exists()

    told = Told()
    comparison = compare(cells[:2], tmp_path, jobs=1, watcher=told)
    assert [cell.method for cell in told.waiting] == ["er"]
    assert min(told.progress) > 0  # not from the beginning
    uninterrupted = alone(replace(LONG, method="er"))
    assert comparison.results[1].record.matrix == uninterrupted.record.matrix


def test_jobs_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="jobs must be at least 1"):
        compare(grid(BASE, ["er"], [0]), tmp_path, jobs=0)


def test_methods_asked_for_twice_are_done_once() -> None:
    assert len(grid(BASE, ["er(capacity=20)", "er( capacity=20 )"], [0, 1])) == 2


def test_different_methods_have_different_folders() -> None:
    methods = ["er", "er(capacity=20)", "er(capacity=200)", "er+wa", "der++", "der", "der+er"]
    names = {folder_name(cell) for cell in grid(BASE, methods, [0, 1])}
    assert len(names) == 14
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-") for name in names)


def test_failures_of_runs_that_were_not_asked_for_are_left_out(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add_failure("split-digits", "lwf", 0, "Why.", {})
        store.add_failure("split-digits", "er", 0, "Because.", {})
        gathered = comparing.gathered(store, grid(BASE, ["er"], [0]))
    assert gathered == Comparison([], [Failure("er", 0, "Because.")])
    assert json.dumps(gathered.failures)
