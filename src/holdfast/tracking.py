"""Progress told to an experiment tracker: TensorBoard, Weights & Biases, MLflow or Trackio.

Accelerate knows how to speak to each of them; this file says what is told and when. Nothing is
waited for that the learner does not wait for itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UsageError, unknown
from holdfast.learner import Observer

if TYPE_CHECKING:
    from holdfast.config import Config
    from holdfast.learner import Learner

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Trackers by name, which is also the name of the package each needs."""


def check(name: str) -> None:
    """Raise `UsageError` if there is no such tracker, or if its package is not installed."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if importlib.util.find_spec(name) is None:
        raise UsageError(
            f"Tracking with {name} needs its package, which is not installed: pip install {name}."
        )


def tracked(name: str | None, config: Config, out: Path) -> list[Observer]:
    """The observers that tell a tracker of a run; none if none is named."""
    return [] if name is None else [Tracking(name, config, out / "tracking")]


class Tracking(Observer):
    """Tells a tracker of losses, learning rates and scores.

    By update (counted over all experiences): `train/loss`, the mean since the last time, and
    `train/rate`, whenever the learner has looked at its losses; `test/NAME` for every test set, and
    `test/average`, after every experience and at every continual evaluation; in the end what the
    run has cost (`cost/seconds`, ...).

    Args:
        name: Of the tracker.
        config: What is learned, noted as the run's settings.
        folder: Where trackers that write files put them.

    Raises:
        UsageError: If there is no such tracker, or if its package is not installed.
    """

    def __init__(self, name: str, config: Config, folder: Path) -> None:
        check(name)
        self.name, self.config, self.folder = name, config, folder
        self.tracker: Any = None
        self.looks, self.probes = 0, 0

    def on_step(self, learner: Learner) -> None:
        told = self._losses(learner)
        if len(learner.record.curve) != self.probes:
            self.probes = len(learner.record.curve)
            told |= scores(learner.record.names, learner.record.curve[-1]["scores"])
        if told:
            self._log(told, learner.updates)

    def on_experience(self, learner: Learner) -> None:
        record = learner.record
        told = {**self._losses(learner), **scores(record.names, record.matrix[-1])}
        for measure, rows in record.measures.items():
            told |= scores(record.names, rows[-1], measure)
        self._log(told, learner.updates)
        if learner.stream is not None and learner.index == len(learner.stream):
            self._log({f"cost/{k}": float(v) for k, v in record.cost.items()}, learner.updates)
            self.tracker.finish()

    def _losses(self, learner: Learner) -> dict[str, float]:
        """The mean loss and the learning rate, if the learner has looked at losses since."""
        if learner.watch.looks == self.looks:
            return {}
        self.looks = learner.watch.looks
        return {"train/loss": learner.watch.mean, "train/rate": rate(learner)}

    def _log(self, told: dict[str, float], update: int) -> None:
        if self.tracker is None:
            self.tracker = self._begun()
        self.tracker.log(told, step=update)

    def _begun(self) -> Any:
        """The tracker, told of the settings; not before there is something to tell."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # which trackers ask whether this process is the one that speaks
        config, kind = self.config, LOGGER_TYPE_TO_CLASS[self.name]
        where = {"logging_dir": str(self.folder)} if kind.requires_logging_directory else {}
        tracker = kind(f"{config.stream} {config.method} seed {config.seed}", **where)
        tracker.start()
        settings = {key: value for key, value in config.to_dict().items() if value is not None}
        tracker.store_init_configuration(settings)
        return tracker


def scores(names: list[str], row: list[float], of: str = "test") -> dict[str, float]:
    """A row of the matrix as a tracker takes it."""
    named: Mapping[str, float] = dict(zip(names, row, strict=True))
    return {f"{of}/average": sum(row) / len(row), **{f"{of}/{n}": v for n, v in named.items()}}


def rate(learner: Learner) -> float:
    """The learning rate of the latest step."""
    return float(learner.optimizer.param_groups[0]["lr"]) if learner.parameters else 0.0
