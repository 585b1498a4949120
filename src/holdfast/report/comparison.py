"""What is compared: results gathered by stream and by method, each with all its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, nan
from typing import Any

from holdfast.catalogue import method_class
from holdfast.errors import HoldfastError, UsageError
from holdfast.metrics import interval
from holdfast.spec import parse
from holdfast.store import Result


@dataclass(frozen=True)
class Arm:
    """One method in one setting, over its seeds.

    Attributes:
        label: The method's spec; with the settings that set it apart, where there are several.
        runs: One result a seed, by seed.
        values: Every metric and cost by name, one number a run (NaN where a run lacks it).
        place: Its place in the order in which results were given; decides its colour.
        reference: Whether it is given all earlier data, and so is a bound rather than a rival.
    """

    label: str
    runs: tuple[Result, ...]
    values: Mapping[str, tuple[float, ...]]
    place: int
    reference: bool

    def mean(self, name: str) -> float:
        """Mean of a metric or cost over the runs."""
        return interval(self.values[name])[0] if name in self.values else nan

    def half(self, name: str) -> float:
        """Half-width of its 95 % interval; NaN for one run."""
        return interval(self.values[name])[1] if name in self.values else nan


@dataclass(frozen=True)
class Comparison:
    """All arms on one stream, best final average accuracy first.

    Attributes:
        stream: Spec of the stream.
        arms: The arms.
    """

    stream: str
    arms: tuple[Arm, ...]

    @property
    def experiences(self) -> int:
        """Number of experiences of the longest run."""
        return max(run.record.experiences for arm in self.arms for run in arm.runs)


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """Gather results by stream, then by method and settings, in the order given.

    Results of one method in different settings (anything in `config` but the seed) are different
    arms: averaging over them would give an interval that means nothing.

    Raises:
        UsageError: If there are no results, if one has no complete matrix, or if two are of the
            same method, settings and seed.
    """
    if not results:
        raise UsageError("A report needs at least one result; none was given.")
    streams: dict[str, dict[str, dict[str, list[Result]]]] = {}
    for result in results:
        methods = streams.setdefault(result.stream, {})
        methods.setdefault(result.method, {}).setdefault(_settings(result), []).append(result)
    return [Comparison(stream, _arms(methods)) for stream, methods in streams.items()]


def _arms(methods: Mapping[str, Mapping[str, list[Result]]]) -> tuple[Arm, ...]:
    arms: list[Arm] = []
    for method, settings in methods.items():
        apart = _differing([runs[0].config for runs in settings.values()])
        for runs in settings.values():
            own = ", ".join(f"{key}={runs[0].config.get(key)}" for key in apart)
            label = f"{method} · {own}" if own else method
            arms.append(_arm(label, method, runs, len(arms)))
    # A mean that is not a number has no rank and comes last.
    return tuple(sorted(arms, key=lambda arm: -_rank(arm.mean("average_accuracy"))))


def _rank(mean: float) -> float:
    return mean if isfinite(mean) else -1.0


def _arm(label: str, method: str, runs: list[Result], place: int) -> Arm:
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    seeds = [run.seed for run in ordered]
    twice = next((a for a, b in pairwise(seeds) if a == b), None)
    if twice is not None:
        raise UsageError(
            f"Two results are of {method!r} with the same settings and seed {twice}; give each "
            "run once, or its interval would be too narrow."
        )
    numbers = [_numbers(run) for run in ordered]
    names = dict.fromkeys(name for run in numbers for name in run)
    values = {name: tuple(run.get(name, nan) for run in numbers) for name in names}
    return Arm(label, ordered, values, place, _has_past_data(method))


def _numbers(run: Result) -> dict[str, float]:
    try:
        numbers = {**run.metrics, **run.record.cost}
        return {name: float(value) for name, value in numbers.items()}
    except (ValueError, IndexError, TypeError) as error:
        raise UsageError(
            f"The result of {run.method!r} on {run.stream!r}, seed {run.seed}, is not that of a "
            f"finished run: {error}"
        ) from error


def _settings(result: Result) -> str:
    """Everything a run was given but its seed, in one spelling."""
    given = {key: value for key, value in result.config.items() if key != "seed"}
    return json.dumps(given, sort_keys=True, default=str)


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config if key != "seed")
    return [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]


def _has_past_data(method: str) -> bool:
    """By the catalogue's tags; a method that is unknown here is taken for an ordinary one."""
    try:
        return any("past data" in method_class(spec.name).tags.needs for spec in parse(method))
    except (HoldfastError, ImportError):
        return False
