"""The numbers that a reader is shown: which ones, what they are called, how they are rounded.

Every such number comes from `Cell`, so the page, the terminal, Markdown and LaTeX cannot disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from holdfast.metrics import interval

Kind = Literal["percent", "seconds", "operations", "bytes", "nats", "number"]

_MINUS, _NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class Quantity:
    """A column of the table.

    Attributes:
        name: As in a result's metrics or costs.
        title: Heading.
        kind: How it is written: fractions as percent, the others with decimal prefixes.
        larger_is_better: Which way is good; None: neither.
        group: Heading above headings.
        meaning: One sentence.
    """

    name: str
    title: str
    kind: Kind
    larger_is_better: bool | None
    group: str
    meaning: str


_KEPT, _WHILE, _COST = "What was kept", "While learning", "What it cost"

QUANTITIES = (
    Quantity("average_accuracy", "Average accuracy", "percent", True, _KEPT,
             "mean over all test sets after the last experience"),
    Quantity("average_anytime_accuracy", "Anytime accuracy", "percent", True, _KEPT,
             "mean, over experiences, of the mean over test sets seen so far"),
    Quantity("forgetting", "Forgetting", "percent", False, _KEPT,
             "best earlier score minus the final one, mean over test sets but the last"),
    Quantity("backward_transfer", "Backward transfer", "percent", True, _KEPT,
             "final score minus the score just after learning, mean over test sets but the last"),
    Quantity("seconds", "Time", "seconds", False, _COST,
             "seconds of training, without evaluation"),
    Quantity("flops", "FLOPs", "operations", False, _COST,
             "floating-point operations of training: matrix products, convolutions, attention"),
    Quantity("peak_memory_bytes", "Peak memory", "bytes", False, _COST,
             "most memory in use: of the process on a CPU, allocated on a GPU"),
    Quantity("method_bytes", "Stored", "bytes", False, _COST,
             "bytes that the method keeps between experiences"),
    Quantity("deployed_bytes", "Deployed", "bytes", False, _COST,
             "bytes of the model, of what its predictions need, and of the examples kept"),
    Quantity("feature_seconds", "Features", "seconds", None, _COST,
             "seconds in which a frozen backbone's features were computed once, before training"),
    Quantity("feature_bytes", "Size of features", "bytes", None, _COST,
             "bytes of the features, kept beside what the method keeps"),
    Quantity("min_accuracy", "Min. accuracy", "percent", True, _WHILE,
             "lowest score after a test set's own experience, mean over earlier test sets"),
    Quantity("worst_case_accuracy", "Worst-case accuracy", "percent", True, _WHILE,
             "the newest test set's score and the minimum accuracy, weighted by experiences"),
    Quantity("windowed_forgetting_10", "WF 10", "percent", False, _WHILE,
             "largest drop within 10 evaluations, mean over test sets"),
    Quantity("windowed_forgetting_100", "WF 100", "percent", False, _WHILE,
             "largest drop within 100 evaluations, mean over test sets"),
    Quantity("windowed_plasticity_10", "WP 10", "percent", True, _WHILE,
             "largest rise within 10 evaluations, mean over test sets"),
    Quantity("windowed_plasticity_100", "WP 100", "percent", True, _WHILE,
             "largest rise within 100 evaluations, mean over test sets"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One quantity of one arm.

    Attributes:
        kind: How it is written.
        values: One number a run.

    Example:
        >>> Cell("percent", (0.85, 0.87, 0.89)).text
        '87.0 ± 5.0'
        >>> Cell("percent", (0.85,)).text
        '85.0'
        >>> Cell("bytes", (14472.0, 14472.0)).text
        '14.5 kB'
    """

    kind: Kind
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return interval(self.values)[0]

    @property
    def half(self) -> float:
        """Half-width of the 95 % interval; NaN for one run."""
        return interval(self.values)[1]

    @property
    def parts(self) -> tuple[str, str, str]:
        """Mean, half-width and unit as text, in one unit and to one number of decimals.

        Where some runs have no number, the first says how many and the others are empty; where
        none has, the quantity is not defined (a dash). One run has no interval, and neither have
        counts that are equal in all runs.
        """
        broken = sum(not math.isfinite(value) for value in self.values)
        if broken == len(self.values):
            return _NONE, "", ""
        if broken:
            return f"NaN in {broken} of {len(self.values)}", "", ""
        factor, decimals, unit = _scale(self.mean, self.kind)
        counted = self.kind in ("operations", "bytes")
        alone = math.isnan(self.half) or (counted and self.half == 0)
        half = "" if alone else _fixed(self.half * factor, decimals)
        return _fixed(self.mean * factor, decimals), half, unit

    @property
    def text(self) -> str:
        """As on the page, in the terminal and in Markdown."""
        mean, half, unit = self.parts
        return mean + (f" ± {half}" if half else "") + (f" {unit}" if unit else "")

    @property
    def latex(self) -> str:
        """As in LaTeX; numbers in mathematics, so that signs come out as signs."""
        mean, half, unit = self.parts
        if not all(map(math.isfinite, self.values)):
            return mean.replace(_NONE, "--")
        number = mean.replace(_MINUS, "-") + (rf" \pm {half}" if half else "")
        return f"${number}$" + (rf"\,{unit}" if unit else "")


def _scale(mean: float, kind: Kind) -> tuple[float, int, str]:
    """Factor, decimals and unit: one decimal of a percent, else three significant digits."""
    if kind == "percent":
        return 100.0, 1, ""
    if kind in ("nats", "number"):
        return 1.0, 3 if kind == "nats" else 1, ""
    size, prefix = abs(mean), 0
    if kind in ("operations", "bytes"):
        while size >= 999.5 and prefix < len(_PREFIXES) - 1:
            size, prefix = size / 1000, prefix + 1
    unit = _PREFIXES[prefix] + {"seconds": "s", "bytes": "B", "operations": ""}[kind]
    whole = kind != "seconds" and prefix == 0
    # The exponent after rounding, so that 999.7 is 1.00 k and not 1.000 k.
    exponent = int(f"{size:.2e}".partition("e")[2])
    digits = 0 if whole or size == 0 else max(0, min(6, 2 - exponent))
    return 1000.0**-prefix, digits, unit


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def heading(quantity: Quantity) -> str:
    """Title with its unit."""
    return f"{quantity.title} (%)" if quantity.kind == "percent" else quantity.title
