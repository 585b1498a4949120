"""What was measured of methods, as data that the guide reads.

`measured/*.json` holds one file a stream, written by `make measured` together with the tables of
docs/measured.md. `studies.yaml` holds numbers of the studies' pages, each with the place where it
stands there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from holdfast.checkpoint import write_atomically
from holdfast.errors import DataError
from holdfast.metrics import interval

SCHEMA = 1
"""Of a file of measurements."""


@dataclass(frozen=True)
class Row:
    """What one method did on a stream, over seeds.

    Attributes:
        spec: As it was run.
        label: The same without the capacity that the budget gave it.
        methods: Names in the catalogue, in the order of the chain.
        role: `bound`, `examples` (keeps some, at the budget), `weights` (keeps none) or `more`
            (keeps examples beyond the budget, for comparison).
        accuracy: Average accuracy at the end by seed, in 0..1.
        anytime: Average anytime accuracy by seed.
        forgetting: By seed.
        seconds: Of training, by seed.
        flops: Floating-point operations of training, by seed.
        examples_bytes: That the method keeps in examples and what belongs to each of them.
        other_bytes: That it keeps otherwise: weights, importances, teachers, means.
    """

    spec: str
    label: str
    methods: tuple[str, ...]
    role: str
    accuracy: tuple[float, ...]
    anytime: tuple[float, ...]
    forgetting: tuple[float, ...]
    seconds: tuple[float, ...]
    flops: tuple[float, ...]
    examples_bytes: int
    other_bytes: int

    @property
    def mean(self) -> float:
        """Mean average accuracy."""
        return sum(self.accuracy) / len(self.accuracy)

    @property
    def half(self) -> float | None:
        """Half-width of its 95 % interval; None for a single seed."""
        return interval(self.accuracy)[1] if len(self.accuracy) > 1 else None


@dataclass(frozen=True)
class Measured:
    """All methods on one stream.

    Attributes:
        name: Of the file.
        stream: Spec of the stream.
        scenario: Kind of the stream.
        setting: The rest of the configuration that is not a default.
        seeds: How many.
        budget: Bytes for examples and what belongs to each of them.
        weights: Bytes of one copy of the model's weights.
        rows: In descending order of accuracy.
        torch: Version of PyTorch that it was run with.
    """

    name: str
    stream: str
    scenario: str
    setting: Mapping[str, Any]
    seeds: int
    budget: int
    weights: int
    rows: tuple[Row, ...]
    torch: str

    def row(self, spec: str) -> Row | None:
        """The row of a method by its name or label, if it was measured."""
        return next((row for row in self.rows if spec in (row.label, row.spec)), None)

    def write(self, folder: Path) -> Path:
        """Write it into a folder, and answer with the file."""
        path = folder / f"{self.name}.json"
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        write_atomically(path, (text + "\n").encode())
        return path


def read(text: str) -> Measured:
    """What `Measured.write` wrote.

    Raises:
        DataError: If it was written by a newer version.
    """
    found = json.loads(text)
    if found.pop("schema") != SCHEMA:
        raise DataError(f"Measurements of another version; this one reads schema {SCHEMA}.")
    rows = tuple(Row(**{k: _tuple(v) for k, v in row.items()}) for row in found.pop("rows"))
    return Measured(rows=rows, **found)


@cache
def load() -> dict[str, Measured]:
    """All measurements that come with the package, by name; none before they were made."""
    folder = files("holdfast.guide").joinpath("measured")
    if not folder.is_dir():
        return {}
    texts = sorted(f.name for f in folder.iterdir() if f.name.endswith(".json"))
    found = [read(folder.joinpath(name).read_text(encoding="utf-8")) for name in texts]
    return {measured.name: measured for measured in found}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
