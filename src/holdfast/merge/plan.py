"""What a merge will do, known before anything is written: whether models fit, and fit in here."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from holdfast.errors import CheckpointError, unknown
from holdfast.language.movement import skeleton
from holdfast.language.tensors import DTYPES, Entry
from holdfast.merge.catalogue import Rule
from holdfast.merge.changes import PIECE, Inputs, Renamed
from holdfast.merge.fitting import (
    HEADS,
    REAL,
    Model,
    common_shapes,
    names_in,
    read,
    refuse_other_architecture,
    refuse_other_tokens,
    tied_head,
)


@dataclass(frozen=True)
class Plan:
    """A merge that can be done.

    Attributes:
        rule: By which.
        base: That changes are counted from; None where there is none.
        models: In order; the first gives configuration, tokenizer and all that is not merged.
        inputs: What the rule is given.
        entries: Name in the merged checkpoint to what will be written there, in order.
        copied: Names whose tensors are taken from the first model as they are.
        notes: What is worth knowing.
        memory: Bytes that the merge will hold at once, about.
        reading: Bytes that will be read.
    """

    rule: Rule
    base: Model | None
    models: tuple[Model, ...]
    inputs: Inputs
    entries: dict[str, Entry]
    copied: tuple[str, ...]
    notes: tuple[str, ...]
    memory: int
    reading: int

    @property
    def bytes(self) -> int:
        """Of the merged weights."""
        return sum(entry.bytes for entry in self.entries.values())

    @property
    def common(self) -> dict[str, str]:
        """From names in the merged checkpoint to those that all have in common."""
        return {stored: name for name, stored in self.models[0].names.items()}


def prepare(
    models: Sequence[str | Path],
    rule: Rule,
    *,
    base: str | Path | None = None,
    prefix: str | None = None,
    common_rows: bool = False,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> Plan:
    """Check that models can be merged, and work out what will be written.

    Arguments as of `merge`.

    Raises:
        UsageError: If they cannot be merged: the first tensor, token or setting that differs is
            named.
        CheckpointError: If one is damaged.
    """
    rule.check(len(models), base is not None)
    if dtype not in (*REAL, "auto"):
        raise unknown("dtype", dtype, (*REAL, "auto"))
    first = read(base, trust_remote_code) if base is not None else None
    others = [read(path, trust_remote_code) for path in models]
    reference = first or others[0]
    stored_as = {**reference.names, **tied_head(reference)}
    reference = replace(reference, names=stored_as)
    named = [replace(m, names=names_in(stored_as, m, prefix)) for m in others]
    notes: list[str] = []
    sides = ([reference] if first else []) + named
    for model in sides[1:]:
        notes += refuse_other_architecture(reference, model)
    shapes, extra = common_shapes(reference, named, common_rows)
    notes += extra
    notes += refuse_other_tokens(reference, named, common_rows)
    frame = named[0]
    stored = _order(frame)
    merged_names = {frame.names[name]: name for name in shapes}
    entries, copied = {}, []
    for name in stored:
        entry = frame.tensors.entries[name]
        if name in merged_names or entry.real:
            entries[name] = entry if dtype == "auto" else entry.of(getattr(torch, dtype))
        else:
            entries[name] = entry
        if name not in merged_names:
            copied.append(name)
    notes += _told(frame, merged_names, copied, sides)
    merging = named if rule.of_changes else sides
    origin = Renamed(reference.tensors, stored_as) if rule.of_changes else None
    inputs = Inputs(
        [Renamed(m.tensors, m.names) for m in merging],
        origin,
        shapes,
        lambda: skeleton(reference.path, trust_remote_code),
    )
    passes = 2 if rule.whole or rule.spec.name in ("neuron_fusion", "slerp") else 1
    touched = sum(m.tensors.bytes for m in merging) + (
        first.tensors.bytes if origin and first else 0
    )
    largest = max((math.prod(shape) for shape in shapes.values()), default=0)
    memory = 4 * (2 * len(sides) + 4) * min(PIECE, largest) + (4 * largest if rule.whole else 0)
    return Plan(
        rule, reference if first else None, tuple(named), inputs, entries, tuple(copied),
        tuple(notes), memory, passes * touched,
    )  # fmt: skip


def refuse_full_disk(plan: Plan, out: Path) -> int:
    """Raise `CheckpointError` unless the disk has room for what will be written.

    Returns:
        The bytes that are free.
    """
    place = out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if plan.bytes > free:
        raise CheckpointError(
            f"The merged model takes {gigabytes(plan.bytes)}, and {place} has "
            f"{gigabytes(free)} left; nothing was written. Choose another --out, or --dtype "
            "bfloat16 if it is stored in float32."
        )
    return free


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _order(frame: Model) -> list[str]:
    """What is written, in the order of the files, numbers of many bytes first.

    The output layer of a model whose embeddings are tied is left out: loading ties it again.
    """
    head = {frame.names.get(name, name) for name in HEADS} if frame.tied else set()
    names = [name for name in frame.tensors if name not in head]

    def width(name: str) -> int:
        entry = frame.tensors.entries[name]
        return DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 1

    return sorted(names, key=lambda name: -width(name))


def _told(
    frame: Model, merged: dict[str, str], copied: Sequence[str], sides: Sequence[Model]
) -> list[str]:
    notes = []
    if copied:
        notes.append(
            f"{len(copied)} tensors are taken from {frame.path} as they are, such as {copied[0]}."
        )
    kinds = {
        side.path: sorted({e.dtype for e in side.tensors.entries.values() if e.real})
        for side in sides
    }
    if len({tuple(kind) for kind in kinds.values()}) > 1:
        told = ", ".join(f"{path}: {'/'.join(kind)}" for path, kind in kinds.items())
        notes.append(f"Weights are stored in different dtypes ({told}); sums are in float32.")
    return notes
