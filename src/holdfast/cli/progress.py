"""Progress on the terminal: bars where there is one, plain lines where there is not."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from holdfast.compare import Watcher
from holdfast.learner import Learner, Observer
from holdfast.run import Stopped
from holdfast.worker import progress

if TYPE_CHECKING:
    from holdfast.config import Config
    from holdfast.store import Result


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def spinner(console: Console) -> Progress:
    """What is being done, and since when, where nobody knows how long it takes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class RunProgress(Observer):
    """One bar for one run; a line after each experience where there is no terminal."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.bars = console, _bars(console)
        self.task = self.bars.add_task(escape(name), total=1.0, note="")
        self.shown = 0.0

    def on_step(self, learner: Learner) -> None:
        now = time.monotonic()
        if now - self.shown > 0.1:  # an update costs as much as a small network's layer
            self.shown = now
            self.bars.update(self.task, completed=progress(learner))

    def on_experience(self, learner: Learner) -> None:
        assert learner.stream is not None
        if not learner.stream.evaluated(learner.index - 1):
            self.bars.update(self.task, completed=progress(learner))
            return
        accuracy = f"{100 * learner.record.seen_so_far():.1f} %"
        self.bars.update(self.task, completed=progress(learner), note=f"accuracy {accuracy}")
        if not self.console.is_terminal:
            print(
                f"experience {learner.index} of {len(learner.stream)}: "
                f"accuracy {accuracy} on what was met so far",
                flush=True,
            )


class PretrainingProgress(Observer):
    """One bar while a small model is pre-trained; a line where there is no terminal."""

    def __init__(
        self, console: Console, name: str, on: str = "Python's documentation: once, about a minute"
    ) -> None:
        self.bars = _bars(console)
        text = f"Pre-training {name} on {on}"
        self.task = self.bars.add_task(escape(text), total=1.0, note="")
        if not console.is_terminal:
            print(text, flush=True)

    def on_step(self, learner: Learner) -> None:
        self.bars.update(self.task, completed=progress(learner))


class CompareProgress(Watcher):
    """One bar a method; a line after each run where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console, self.bars = console, _bars(console)
        self.tasks: dict[str, TaskID] = {}
        self.done: dict[Config, float] = {}
        self.details: list[str] = []

    def on_start(self, waiting: Sequence[Config], finished: int) -> None:
        if finished:
            plural = "run" if finished == 1 else "runs"
            self.console.print(f"{finished} {plural} finished before; {len(waiting)} to go.")
        for method, runs in Counter(config.method for config in waiting).items():
            note = f"0/{runs}"
            self.tasks[method] = self.bars.add_task(escape(method), total=runs, note=note)

    def on_progress(self, config: Config, done: float) -> None:
        self.done[config] = done
        of_method = sum(d for other, d in self.done.items() if other.method == config.method)
        self.bars.update(self.tasks[config.method], completed=of_method)

    def on_finished(self, config: Config, result: Result) -> None:
        self._ended(config)
        if not self.console.is_terminal:
            accuracy = 100 * result.metrics["average_accuracy"]
            seconds = result.record.cost["seconds"]
            print(
                f"{config.method}, seed {config.seed}: accuracy {accuracy:.1f} %, {seconds:.1f} s",
                flush=True,
            )

    def on_failed(self, config: Config, error: str, detail: str) -> None:
        self._ended(config)
        self.details.append(detail)
        print(f"{config.method}, seed {config.seed} failed: {error}", file=sys.stderr, flush=True)

    def _ended(self, config: Config) -> None:
        self.on_progress(config, 1.0)
        of_method = [d for other, d in self.done.items() if other.method == config.method]
        task = self.tasks[config.method]
        total = next(t.total for t in self.bars.tasks if t.id == task)
        self.bars.update(task, note=f"{sum(d >= 1 for d in of_method)}/{total or 0:.0f}")


class StopOnInterrupt(Observer):
    """Stops a run at its next step once Ctrl-C has been pressed."""

    stops = True

    def __init__(self) -> None:
        self.asked = False

    def on_step(self, learner: Learner) -> None:
        if self.asked:
            raise Stopped(f"Stopped at step {learner.step} of experience {learner.index}; saved.")

    def on_experience(self, learner: Learner) -> None:
        if self.asked:
            raise Stopped(f"Stopped after experience {learner.index - 1}; saved.")


@contextmanager
def stopping_on_interrupt() -> Iterator[StopOnInterrupt]:
    """Within it, the first Ctrl-C stops the run at its next step, a second one at once."""
    observer = StopOnInterrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        if observer.asked:
            raise KeyboardInterrupt
        observer.asked = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield observer
    finally:
        signal.signal(signal.SIGINT, before)
