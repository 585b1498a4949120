"""A worker process: does runs one after another, as the process that started it asks.

Requests come as lines of JSON on standard input (`{"config", "folder", "starts", "track"}`),
reports go as lines of JSON to what was standard output when it started. A plain child process is
used, not `multiprocessing`: it imports nothing of the caller's main module and exchanges no
pickles.

SIGTERM stops the run at hand at its next step, after a checkpoint. When the parent has gone the
worker stops likewise, because its reports find no reader.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast.config import Config
from holdfast.errors import HoldfastError
from holdfast.learner import Learner, Observer
from holdfast.run import Stopped, run
from holdfast.tracking import tracked

SECONDS_BETWEEN_REPORTS = 0.2


class Reports(Observer):
    """Tells the parent how far the run is, and stops it when asked to.

    Args:
        descriptor: Of the pipe to the parent.
    """

    stops = True

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stopping = False
        self._next = 0.0

    def send(self, **report: Any) -> None:
        """One report; a parent that no longer reads ends the run."""
        left = (json.dumps(report) + "\n").encode()
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except BrokenPipeError as error:
            raise Stopped("The process that asked for this run has gone.") from error

    def on_step(self, learner: Learner) -> None:
        if self.stopping:
            raise Stopped("Stopped on request.")
        if time.monotonic() >= self._next:
            self._progress(learner)

    def on_experience(self, learner: Learner) -> None:
        if self.stopping:
            raise Stopped("Stopped on request.")
        self._progress(learner)

    def _progress(self, learner: Learner) -> None:
        self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS
        self.send(kind="progress", done=progress(learner))


def progress(learner: Learner) -> float:
    """How much of the stream has been learned, from 0 to 1; experiences count equally."""
    assert learner.stream is not None
    steps = len(learner.batches) if learner.batches is not None else 0
    done = learner.phase + (learner.phase_step / steps if steps else 0)
    return (learner.index + done / len(learner.phases)) / len(learner.stream)


def serve() -> None:
    """Do what is asked until there is no more."""
    reports = Reports(os.dup(1))
    os.dup2(2, 1)  # whatever libraries print must not fall among the reports

    def stop(number: int, frame: object) -> None:
        reports.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        reports.send(kind="ready")
        for line in sys.stdin:
            request = json.loads(line)
            reports.send(**answer(request, [reports]))
    except Stopped:
        return


def answer(request: dict[str, Any], observers: Sequence[Observer]) -> dict[str, Any]:
    """Do the run that is asked for, and say what it gave or why it could not be done."""
    config, folder = Config.from_dict(request["config"]), Path(request["folder"])
    resume = (folder / "config.json").exists()
    try:
        told = tracked(request["track"], config, folder)
        starts = Path(request["starts"])
        result = run(config, folder, resume, [*told, *observers], starts)
    except Stopped:
        return {"kind": "stopped"}
    except HoldfastError as error:
        return {"kind": "failed", "error": str(error), "detail": traceback.format_exc()}
    except Exception as error:
        sentence = f"Unexpected {type(error).__name__}: {error}"
        return {"kind": "failed", "error": sentence, "detail": traceback.format_exc()}
    return {"kind": "finished", "stream": result.stream, "result": result.to_dict()}


if __name__ == "__main__":
    serve()
