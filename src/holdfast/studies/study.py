"""What a study is: arms to run, claims to test, and a rule that decides before anything is run.

A claim is a list of conditions. A condition names a number that every seed gives (mostly a
difference between two arms under the same seed) and a bound. It holds when the whole 95 % interval
of that number's mean over seeds (Student's t) lies beyond the bound. A claim is *reproduced* when
all of its conditions hold, *partly* when some do, and *not reproduced* when none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from holdfast.metrics import interval

Scale = Literal["data", "digits", "quick"]
"""On the data of HOLDFAST_DATA, on what ships with the installation, or in seconds."""

Settings = dict[str, Any]
"""What one arm is run with, as JSON can hold it."""

Measured = dict[str, Any]
"""What one run of one arm gave, as JSON can hold it."""

Decision = Literal["reproduced", "partly", "not reproduced"]

RULE = (
    "A condition holds when the whole 95 % interval of its mean over seeds lies beyond its bound. "
    "A claim is reproduced when all of its conditions hold, partly when some do, "
    "not reproduced when none does."
)


@dataclass(frozen=True)
class Results:
    """What every arm gave, seed by seed.

    Args:
        runs: Arm to one measurement a seed; the same seeds in the same order in every arm.
    """

    runs: Mapping[str, Sequence[Measured]]

    def values(self, arm: str, *path: str) -> list[float]:
        """A number of an arm, one a seed: `values("er", "gap", "dip")`."""
        if arm not in self.runs:
            raise KeyError(f"No arm {arm!r}; there are: {', '.join(self.runs)}.")
        found: list[Any] = list(self.runs[arm])
        for key in path:
            found = [value[key] for value in found]
        return [float("nan") if value is None else float(value) for value in found]

    def less(self, arm: str, other: str, *path: str) -> list[float]:
        """A number of one arm minus that of another, seed by seed."""
        pairs = zip(self.values(arm, *path), self.values(other, *path), strict=True)
        return [a - b for a, b in pairs]


@dataclass(frozen=True)
class Condition:
    """One number that must lie beyond a bound.

    Attributes:
        what: The number, in words.
        measure: From results to one value a seed.
        bound: In the number's own unit.
        side: Whether the number must lie `"above"` or `"below"` the bound.
        percent: Whether the number is a fraction, to be shown in percent.
    """

    what: str
    measure: Callable[[Results], Sequence[float]]
    bound: float = 0.0
    side: Literal["above", "below"] = "above"
    percent: bool = True

    @property
    def rule(self) -> str:
        """The condition before the run."""
        return f"{self.what}: {self.side} {self._show(self.bound)}"

    def check(self, results: Results) -> Finding:
        """The condition after the run."""
        values = [float(value) for value in self.measure(results)]
        mean, half = interval(values)
        edge = mean - half if self.side == "above" else mean + half
        # A single seed has no interval: NaN compares as false, so nothing holds.
        holds = edge > self.bound if self.side == "above" else edge < self.bound
        return Finding(self.rule, tuple(values), mean, half, bool(holds), self._shown(mean, half))

    def _show(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.percent else f"{value:.2f}"

    def _shown(self, mean: float, half: float) -> str:
        factor, digits, unit = (100, 1, " %") if self.percent else (1, 2, "")
        width = "?" if np.isnan(half) else f"{factor * half:.{digits}f}"
        return f"{factor * mean:.{digits}f} ± {width}{unit}"


@dataclass(frozen=True)
class Finding:
    """A condition and what was observed.

    Attributes:
        rule: The condition in words, with its bound.
        values: One a seed.
        mean: Over seeds.
        half: Half-width of the 95 % interval.
        holds: Whether the interval lies beyond the bound.
        shown: Mean and interval as text.
    """

    rule: str
    values: tuple[float, ...]
    mean: float
    half: float
    holds: bool
    shown: str


@dataclass(frozen=True)
class Claim:
    """What is claimed, and the conditions that decide.

    Attributes:
        text: In our words.
        conditions: At least one.
        by: Who claims it: `"paper"`, or `"us"` for what we expected beyond it.
    """

    text: str
    conditions: tuple[Condition, ...]
    by: Literal["paper", "us"] = "paper"

    def judge(self, results: Results) -> Verdict:
        """Hold the claim against what was observed."""
        findings = tuple(condition.check(results) for condition in self.conditions)
        held = sum(finding.holds for finding in findings)
        decision: Decision = "partly"
        if held in (0, len(findings)):
            decision = "reproduced" if held else "not reproduced"
        return Verdict(self.text, self.by, findings, decision)


@dataclass(frozen=True)
class Verdict:
    """A claim, what was observed, and whether it was reproduced."""

    claim: str
    by: str
    findings: tuple[Finding, ...]
    decision: Decision


@dataclass(frozen=True)
class Grid:
    """A table of numbers over seeds.

    Attributes:
        title: What it shows.
        header: Of its columns, the first for the rows' names.
        rows: Name and cells, already as text.
        note: What its columns are, where their names do not say it all.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: Of its file, without ending.
        caption: What is seen.
        svg: The picture itself.
    """

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Study:
    """One published claim, or a few of one paper, as an experiment.

    Attributes:
        name: As on the command line.
        title: Of the publication.
        source: Authors and year.
        claim: In one sentence.
        minutes: What a run with its number of seeds takes on two cores, by scale.
        data: Sources, or files, in HOLDFAST_DATA without which it runs on what ships with the
            installation.
        arms: From a scale to every arm's settings.
        measure: From an arm's settings and a seed to what the run gave. It runs in another
            process.
        claims: What is tested.
        grids: Tables of the results.
        figures: Pictures of the results.
        departures: Where the experiment is not the paper's, a sentence each.
        seeds: How many it is run with unless others are asked for.
    """

    name: str
    title: str
    source: str
    claim: str
    minutes: Mapping[Scale, float]
    data: tuple[str, ...]
    arms: Callable[[Scale], Mapping[str, Settings]]
    measure: Callable[[Settings, int], Measured]
    claims: tuple[Claim, ...]
    grids: Callable[[Results], Sequence[Grid]]
    figures: Callable[[Results], Sequence[Figure]]
    departures: tuple[str, ...] = field(default_factory=tuple)
    seeds: int = 3


def shown(values: Sequence[float], percent: bool = True) -> str:
    """Mean and half-width of the 95 % interval, as a table's cell.

    Example:
        >>> shown([0.5, 0.6, 0.7])
        '60.0 ± 24.8'
    """
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "-"
    mean, half = interval(known)
    factor, digits = (100, 1) if percent else (1, 2)
    width = "?" if np.isnan(half) else f"{factor * half:.{digits}f}"
    return f"{factor * mean:.{digits}f} ± {width}"
