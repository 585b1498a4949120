"""Comparisons: every method with every seed, in parallel processes, each run in its own folder.

A comparison's folder holds `compare.json` (the options that all runs share), `results.sqlite` and
`runs/METHOD-seedN/`, a run's folder each. Asked for again with the same options it goes on where
it stopped: finished runs are skipped, begun ones go on from their checkpoints, new methods and
seeds are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import selectors
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from holdfast.config import Config
from holdfast.errors import RunError, UsageError
from holdfast.processes import spawn, usable_cores
from holdfast.run import Stopped, locked
from holdfast.store import Failure, Result, Store

SECONDS_TO_STOP = 20.0
"""How long workers may take to reach their next step and save, before they are ended."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave.

    Attributes:
        results: Of the runs asked for, method by method, seed by seed.
        failures: Runs that could not be finished, and why.
    """

    results: list[Result]
    failures: list[Failure]


class Watcher:
    """Looks on while a comparison is at work."""

    def on_start(self, waiting: Sequence[Config], finished: int) -> None: ...

    def on_progress(self, config: Config, done: float) -> None: ...

    def on_finished(self, config: Config, result: Result) -> None: ...

    def on_failed(self, config: Config, error: str, detail: str) -> None: ...


def grid(base: Config, methods: Sequence[str], seeds: Sequence[int]) -> list[Config]:
    """One configuration for every method and seed, otherwise as `base`.

    Example:
        >>> base = Config("split-digits", "er")
        >>> [(c.method, c.seed) for c in grid(base, ["er", "finetune"], [0, 1])]
        [('er', 0), ('er', 1), ('finetune', 0), ('finetune', 1)]
    """
    cells = [replace(base, method=method, seed=seed) for method in methods for seed in seeds]
    return list(dict.fromkeys(cells))


def compare(
    cells: Sequence[Config],
    out: Path,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    track: str | None = None,
    ray: str | None = None,
    starts: Path | None = None,
) -> Comparison:
    """Do all runs, `jobs` at a time, and keep what each gave.

    Args:
        cells: The runs, from `grid`: equal but for method and seed.
        out: The comparison's folder; one that holds a part of it already is gone on with.
        jobs: Processes, of one thread each; None: one a core, or one in all on a GPU.
        watcher: Is told of progress.
        track: A tracker that every run tells of itself, as for `holdfast.tracking.Tracking`.
        ray: Address of a Ray cluster that does the runs (`local`: of this machine alone); `out`
            must then be on a disk that its machines share. None: processes of this machine.
        starts: Folder of the models that runs with `shared_start` begin from, which several
            comparisons may share; None: `starts` in `out`.

    Raises:
        UsageError: If `out` holds a comparison with other options, or if Ray is asked for and not
            installed.
        RunError: If the cluster cannot be reached.
        Stopped: On a keyboard interrupt, when every worker has saved where it was.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs must be at least 1; given: {jobs}.")
    watcher = watcher or Watcher()
    _check_folder(out, cells[0])
    with locked(out):
        _check_folder(out, cells[0], write=True)
        with Store(out / "results.sqlite") as store:
            done = store.done()
            waiting = [cell for cell in cells if _key(cell) not in done]
            watcher.on_start(waiting, len(cells) - len(waiting))
            if waiting:
                crew = Crew(waiting, out, store, watcher, track, starts)
                if ray is None:
                    crew.work(min(jobs or default_jobs(cells[0]), len(waiting)))
                else:
                    crew.work_on(ray, jobs)
            return gathered(store, cells)


def default_jobs(config: Config) -> int:
    """Processes when none are asked for: one a usable core, or one in all on a GPU."""
    from holdfast.run import device

    if device(config.device).type == "cuda":
        return 1
    return usable_cores()


def gathered(store: Store, cells: Sequence[Config]) -> Comparison:
    """What the store holds of `cells`, in their order."""
    finished = {(r.stream, r.method, r.seed): r for r in store.results()}
    failed = {(f.method, f.seed): f for f in store.failures()}
    return Comparison(
        [finished[_key(cell)] for cell in cells if _key(cell) in finished],
        [failed[cell.method, cell.seed] for cell in cells if (cell.method, cell.seed) in failed],
    )


def folder_name(config: Config) -> str:
    """The name of a run's folder: readable, and different for different methods.

    Example:
        >>> folder_name(Config("split-digits", "er", seed=1))
        'er-seed1'
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", config.method.replace("++", "pp")).strip("-")[:60]
    if plain != config.method:
        plain += "-" + hashlib.blake2b(config.method.encode(), digest_size=3).hexdigest()
    return f"{plain}-seed{config.seed}"


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
        self.process = spawn(
            "holdfast.worker",
            stderr=self.log,
            start_new_session=True,  # Ctrl-C is for the parent, which then asks workers to stop
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.reports = self.process.stdin, self.process.stdout
        self.cell: Config | None = None
        self.ready = False
        self._pending = b""

    def ask(self, cell: Config, folder: Path, starts: Path, track: str | None) -> None:
        self.cell = cell
        asked = {
            "config": cell.to_dict(),
            "folder": str(folder),
            "starts": str(starts),
            "track": track,
        }
        request = json.dumps(asked) + "\n"
        try:
            self.requests.write(request.encode())
            self.requests.flush()
        except BrokenPipeError:
            return  # it has died: its reports end too, which is where that is dealt with

    def read(self) -> list[dict[str, Any]] | None:
        """Reports that have come; None when the process has ended."""
        chunk = os.read(self.reports.fileno(), 1 << 20)
        if not chunk:
            return None
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def release(self) -> None:
        """No more requests: the worker ends when it is idle."""
        try:
            self.requests.close()
        except BrokenPipeError:
            return

    def obituary(self) -> str:
        """Why the process ended before its time, as a sentence."""
        status = self.process.wait()
        if status == -signal.SIGKILL:
            return (
                "The system ended its process (SIGKILL); most often memory has run out: "
                "try fewer --jobs."
            )
        if status < 0:
            return f"Its process was ended by {signal.Signals(-status).name}."
        self.log.seek(0)
        last = self.log.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"Its process ended with status {status}{': ' if last else ''}{''.join(last)}."


class Crew:
    """Workers, the runs that wait for them, and where results go.

    Who keeps results elsewhere than in a store says so by `_keep`, `_lose` and `_left`.
    """

    def __init__(
        self,
        cells: Sequence[Config],
        out: Path,
        store: Store,
        watcher: Watcher,
        track: str | None = None,
        starts: Path | None = None,
    ) -> None:
        self.cells, self.waiting, self.track = cells, list(cells), track
        self.starts = starts or out / "starts"
        self.stopping = False
        self.out, self.store, self.watcher = out, store, watcher
        self.selector = selectors.DefaultSelector()

    def work_on(self, address: str, jobs: int | None) -> None:
        """Until a Ray cluster has done everything."""
        from holdfast.engines import ray_cluster

        cells = [(cell, self._folder(cell)) for cell in self.cells]
        try:
            ray_cluster.work(cells, self.starts, address, jobs, self.track, self._take)
        except KeyboardInterrupt:
            raise self._stopped() from None

    def work(self, jobs: int) -> None:
        """Until nothing waits and nobody is at work."""
        try:
            for _ in range(jobs):
                self._hire()
            while self._workers():
                self._listen(None)
        except KeyboardInterrupt:
            self._stop()
            raise self._stopped() from None
        finally:
            for worker in self._workers():
                worker.process.kill()
                self._dismiss(worker)
            self.selector.close()

    def _stopped(self) -> Stopped:
        return Stopped(
            f"Stopped with {self._left()} of {len(self.cells)} runs to go; everything until here "
            f"is kept in {self.out}."
        )

    def _left(self) -> int:
        """How many runs have not finished."""
        done = self.store.done()
        return sum(_key(cell) not in done for cell in self.cells)

    def _keep(self, cell: Config, result: Result) -> None:
        self.store.add(result)

    def _lose(self, cell: Config, error: str) -> None:
        self.store.add_failure(cell.stream, cell.method, cell.seed, error, cell.to_dict())

    def _folder(self, cell: Config) -> Path:
        return self.out / "runs" / folder_name(cell)

    def _workers(self) -> list[_Worker]:
        return [key.data for key in self.selector.get_map().values()]

    def _hire(self) -> None:
        worker = _Worker()
        self.selector.register(worker.reports, selectors.EVENT_READ, worker)

    def _dismiss(self, worker: _Worker) -> None:
        self.selector.unregister(worker.reports)
        worker.release()
        worker.process.wait()
        worker.reports.close()
        worker.log.close()

    def _listen(self, timeout: float | None) -> None:
        """Deal with all reports that come until one has, or until `timeout` seconds have gone."""
        for key, _ in self.selector.select(timeout):
            worker: _Worker = key.data
            reports = worker.read()
            if reports is None:
                self._bury(worker)
                continue
            for report in reports:
                self._deal_with(worker, report)

    def _deal_with(self, worker: _Worker, report: dict[str, Any]) -> None:
        cell = worker.cell
        if report["kind"] == "progress":
            assert cell is not None
            self.watcher.on_progress(cell, report["done"])
            return
        if report["kind"] == "ready":
            worker.ready = True
        elif cell is not None:
            self._take(cell, report)
        worker.cell = None
        if self.waiting:
            cell = self.waiting.pop(0)
            worker.ask(cell, self._folder(cell), self.starts, self.track)
        else:
            worker.process.kill()  # it is idle; its own way out would take a second

    def _take(self, cell: Config, report: dict[str, Any]) -> None:
        """Keep what a run gave, or why it could not be finished."""
        if report["kind"] == "finished":
            result = Result.from_dict(report["stream"], report["result"])
            self._keep(cell, result)
            self.watcher.on_finished(cell, result)
        elif report["kind"] == "failed":
            self._fail(cell, report["error"], report["detail"])

    def _fail(self, cell: Config, error: str, detail: str = "") -> None:
        self._lose(cell, error)
        self.watcher.on_failed(cell, error, detail)

    def _bury(self, worker: _Worker) -> None:
        """A worker's reports have ended: it was released, or it died."""
        cell, idle = worker.cell, worker.cell is None and worker.ready
        reason = "" if idle else worker.obituary()
        self._dismiss(worker)
        if cell is not None:
            self._fail(cell, reason)
        elif not idle and not self.stopping:
            raise RunError(f"A worker could not be started. {reason}")
        if self.waiting:
            self._hire()

    def _stop(self) -> None:
        """Ask every worker to stop at its next step, and wait for those that are at work."""
        self.waiting.clear()
        self.stopping = True
        for worker in self._workers():
            worker.release()
            worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        try:
            while any(worker.cell is not None for worker in self._workers()):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._listen(left)
        except KeyboardInterrupt:
            return  # asked twice: `work` ends them at once; their checkpoints are whole


def _key(config: Config) -> tuple[str, str, int]:
    return config.stream, config.method, config.seed


def _check_folder(out: Path, cell: Config, write: bool = False) -> None:
    """Refuse a folder that holds something else; with `write`, mark it as this comparison's."""
    path = out / "compare.json"
    base = replace(cell, method="any", seed=0)
    if path.exists():
        differences = base.differences(Config.read(path))
        if differences:
            raise UsageError(
                f"{out} holds a comparison with other options: {'; '.join(differences)}. "
                "Go on with the same options, or choose another --out."
            )
    elif (out / "config.json").exists():
        raise UsageError(f"{out} holds a single run; choose another --out.")
    elif write:
        base.write(path)
