"""Results made by hand, so that every number on a page can be worked out beside the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from holdfast.evaluation import Record
from holdfast.store import Result

Make = Callable[..., Result]


def _made(
    method: str = "er",
    seed: int = 0,
    matrix: Sequence[Sequence[float]] = ((0.9, 0.0), (0.6, 0.8)),
    *,
    stream: str = "split-digits",
    task_matrix: Sequence[Sequence[float]] | None = None,
    steps: Sequence[int] | None = None,
    curve: Sequence[dict[str, Any]] = (),
    cost: dict[str, float] | None = None,
    notes: Sequence[dict[str, Any]] = (),
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> Result:
    rows = [list(row) for row in matrix]
    record = Record(
        scenario="class",
        names=[f"part {place}" for place in range(len(rows))],
        steps=list(steps or [10] * len(rows)),
        initial=[0.1] * len(rows),
        matrix=rows,
        task_matrix=[list(row) for row in task_matrix or rows],
        curve=list(curve),
        cost={
            "seconds": 2.0,
            "flops": 3e9,
            "steps": 100,
            "peak_memory_bytes": 4e8,
            "method_bytes": 14472,
        }
        if cost is None
        else cost,
        notes=list(notes),
    )
    return Result(
        stream, method, seed, record, config or {"lr": 0.1, "seed": seed}, environment or {}
    )


@pytest.fixture(scope="session")
def made() -> Make:
    """From a method, a seed and a matrix to a result; everything else by name."""
    return _made


@pytest.fixture
def three_seeds() -> list[Result]:
    """Two methods, three seeds: final averages 0.85, 0.87, 0.89 and 0.40, 0.45, 0.50."""
    er = [
        _made("er(capacity=200)", s, ((0.9, 0.0), (a, 0.9)))
        for s, a in enumerate((0.8, 0.84, 0.88))
    ]
    plain = [_made("finetune", s, ((0.9, 0.0), (a, 0.9))) for s, a in enumerate((-0.1, 0.0, 0.1))]
    return er + plain
