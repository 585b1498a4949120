"""Arms x seeds in parallel processes, each result kept as soon as it is there.

A study's folder holds `cells/ARM-seedN.json`, one file a finished run, written atomically. A run
whose file is there with the same settings is not done again, so an interrupted study goes on.
"""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from holdfast.checkpoint import write_atomically
from holdfast.errors import RunError, UsageError
from holdfast.processes import spawn
from holdfast.studies.study import Measured, Settings


@dataclass(frozen=True)
class Cell:
    """One arm under one seed."""

    study: str
    arm: str
    seed: int
    settings: Settings

    @property
    def file(self) -> str:
        plain = re.sub(r"[^A-Za-z0-9_.]+", "-", self.arm).strip("-")
        digest = hashlib.blake2b(self.arm.encode(), digest_size=3).hexdigest()
        return f"{plain}-{digest}-seed{self.seed}.json"

    def to_dict(self) -> dict[str, Any]:
        return {
            "study": self.study,
            "arm": self.arm,
            "seed": self.seed,
            "settings": self.settings,
        }


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    jobs: int,
    done: Callable[[Cell], None] = lambda cell: None,
) -> Mapping[tuple[str, int], Measured]:
    """Do what is not done yet, `jobs` at a time, and return everything by arm and seed.

    Args:
        cells: What to run.
        folder: Where results are kept.
        jobs: Processes, of one thread each.
        done: Is told of every cell whose result is there.

    Raises:
        UsageError: If the folder holds results of other settings.
        RunError: If a run fails; those that had finished are kept.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1; given: {jobs}.")
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[tuple[str, int], Measured] = {}
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        kept = _kept(cell, folder)
        if kept is None:
            waiting.put(cell)
        else:
            measured[cell.arm, cell.seed] = kept
            done(cell)
    failures: list[str] = []

    def serve() -> None:
        try:
            work()
        except Exception as error:  # what ends a thread must not go unheard
            failures.append(str(error))

    def work() -> None:
        with _Worker() as worker:
            while not failures:
                try:
                    cell = waiting.get_nowait()
                except queue.Empty:
                    return
                answer = worker.ask(cell)
                if "error" in answer:
                    failures.append(f"{cell.arm!r} with seed {cell.seed}: {answer['error']}")
                    return
                content = {**cell.to_dict(), "measured": answer["measured"]}
                write_atomically(folder / cell.file, json.dumps(content).encode())
                measured[cell.arm, cell.seed] = answer["measured"]
                done(cell)

    threads = [
        threading.Thread(target=serve, daemon=True)  # daemon: Ctrl-C need not wait for a run
        for _ in range(min(jobs, waiting.qsize()))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RunError("A run of the study failed. " + " ".join(failures))
    missing = [cell.arm for cell in cells if (cell.arm, cell.seed) not in measured]
    if missing:
        raise RunError(f"Runs without a result: {', '.join(missing)}.")
    return measured


def _kept(cell: Cell, folder: Path) -> Measured | None:
    path = folder / cell.file
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        same = all(content[key] == value for key, value in cell.to_dict().items())
        measured: Measured = content["measured"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read as a study's result; delete it.") from error
    if not same:
        raise UsageError(
            f"{path} holds a result of other settings; choose another folder or delete it."
        )
    return measured


class _Worker:
    """A process that runs cells one after another; started with the first one."""

    def __enter__(self) -> _Worker:
        self.process = spawn("holdfast.studies.worker")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout
        return self

    def ask(self, cell: Cell) -> dict[str, Any]:
        try:
            self.requests.write(json.dumps(cell.to_dict()).encode() + b"\n")
            self.requests.flush()
        except BrokenPipeError:
            pass  # it has ended; reading tells so too
        line = self.answers.readline()
        if not line:
            return {"error": f"its process ended with status {self.process.wait()}."}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.answers):
            try:
                pipe.close()
            except BrokenPipeError:
                continue
