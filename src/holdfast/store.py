"""Results of runs: what one run left, and a database of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.evaluation import Record
from holdfast.metrics import curve_summary, summary


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
        """All metrics of the run, by name."""
        return {
            **summary(self.record.matrix, self.record.initial),
            **curve_summary(self.record.curve),
        }
