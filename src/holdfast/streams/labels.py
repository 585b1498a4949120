"""From labelled parts to a source: labels become 0 .. classes - 1, and what cannot is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data import UNLABELLED, Table
from holdfast.errors import DataError, UsageError
from holdfast.streams.sampling import held_out, shuffled_place
from holdfast.streams.source import Source, scale_of

Labels = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """Labelled examples as they were read.

    Attributes:
        where: What a message calls them: a file, or "the training data".
        table: Columns `x` and any others but `y`.
        labels: Whole numbers from 0 or strings, one an example.
    """

    where: str
    table: Table
    labels: Labels


def assemble(
    name: str,
    train: Part,
    test: Part | None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    by_feature: bool = False,
) -> Source:
    """Number the classes in sorted order and bring both parts together.

    Args:
        name: Of the source.
        train: The training examples; their labels make the classes.
        test: The test examples; None: a fifth of each class of `train`, drawn by seed.
        seed: Draws that fifth.
        class_names: What label 0, 1, ... is called; None: strings are their own names.
        by_feature: Whether each feature has a scale of its own.

    Raises:
        DataError: If labels or inputs cannot be learned from.
    """
    wanted = _checked(train, class_names)
    classes, y = np.unique(wanted, return_inverse=True)
    train_table = train.table.with_columns(y=torch.from_numpy(y.astype(np.int64)))
    if test is None:
        train_table, test_table = held_out(train_table, seed)
        if not len(test_table):
            raise DataError(
                f"No class of {train.where} has two examples, so none can be held out to test on."
            )
    else:
        _same_shape(train, test)
        given = _checked(test, class_names)
        if given.dtype.kind != wanted.dtype.kind:
            raise DataError(
                f"The labels of {train.where} are {_kind(wanted)}s, those of {test.where} "
                f"{_kind(given)}s; accepted: the same in both."
            )
        place = np.searchsorted(classes, given).clip(max=len(classes) - 1)
        strange = np.flatnonzero(classes[place] != given)
        if len(strange):
            raise DataError(
                f"The test label {given[strange[0]].item()!r} (row {strange[0]} of {test.where}) "
                "occurs in no training example."
            )
        test_table = test.table.with_columns(y=torch.from_numpy(place.astype(np.int64)))
    names = [str(c) if class_names is None else class_names[int(c)] for c in classes]
    return Source(
        name=name,
        train=train_table,
        test=test_table,
        class_names=tuple(names),
        scale=scale_of(train_table["x"], by_feature),
    )


def partly_labelled(table: Table, share: float, seed: int) -> Table:
    """The table with the labels of some examples taken away: their `y` is -100.

    Args:
        table: With a column `y`.
        share: Of each class's examples, rounded up, that keep their label.
        seed: Draws them.

    Raises:
        UsageError: If the share is not above 0 and at most 1.

    Example:
        >>> y = partly_labelled(Table({"y": torch.arange(20) % 2}), 0.25, seed=0)["y"]
        >>> [int((y == label).sum()) for label in (0, 1, -100)]
        [3, 3, 14]
    """
    if not 0 < share <= 1:
        raise UsageError(f"labels must be a share above 0 and at most 1; given: {share}.")
    y = table["y"]
    kept = (y.bincount() * share - 1e-9).ceil()
    place = shuffled_place(y, torch.Generator().manual_seed(seed))
    return table.with_columns(y=torch.where(place < kept[y], y, UNLABELLED))


def inputs(array: Any, where: str) -> Tensor:
    """Arrays as inputs: bytes stay bytes, other numbers become 32-bit floats, channels come first.

    Args:
        array: (examples,), (examples, features), images (examples, height, width) or
            (examples, height, width, channels) with 1, 3 or 4 channels, or channels first.
        where: What a message calls it.

    Raises:
        DataError: If it does not hold numbers, is empty, or holds NaN or infinity.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"The inputs of {where} are of type {array.dtype}; accepted: bytes, whole numbers and "
            "floats."
        )
    if array.ndim == 0 or 0 in array.shape:
        raise DataError(f"The inputs of {where} are empty (shape {array.shape}).")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    x = torch.from_numpy(np.ascontiguousarray(array))
    if x.dim() in (1, 3):
        x = x.unsqueeze(1)
    elif x.dim() == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = x.permute(0, 3, 1, 2).contiguous()
    refuse_not_finite(x, where)
    return x


def refuse_not_finite(x: Tensor, where: str) -> None:
    """Raise `DataError` with the first row of `x` that holds NaN or infinity."""
    if x.is_floating_point() and not bool(x.isfinite().all()):
        rows = (~x.reshape(len(x), -1).isfinite().all(1)).nonzero().flatten()
        raise DataError(
            f"The inputs of {where} hold NaN or infinity, or a value is missing "
            f"(first in row {int(rows[0])} counting from 0, {len(rows)} rows in all)."
        )


def _checked(part: Part, class_names: Sequence[str] | None) -> Labels:
    """The labels as strings or as whole numbers from 0, one an example."""
    labels, where = np.asarray(part.labels), part.where
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(part.table):
        raise DataError(
            f"{where} has {len(part.table)} inputs and labels of shape {labels.shape}; accepted: "
            "one label an input."
        )
    if not len(labels):
        raise DataError(f"{where} is empty.")
    if labels.dtype.kind == "O":
        odd = [i for i, label in enumerate(labels) if not isinstance(label, str)]
        if odd:
            raise DataError(
                f"The label in row {odd[0]} of {where} is {labels[odd[0]]!r}; accepted: strings "
                "in all rows, or whole numbers in all."
            )
        return labels.astype(str)
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind == "f":
        odd_rows = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))
        if len(odd_rows):
            raise DataError(
                f"The label in row {odd_rows[0]} of {where} is {labels[odd_rows[0]].item()}; "
                "accepted: whole numbers from 0, or strings."
            )
    elif labels.dtype.kind not in "iub":
        raise DataError(
            f"The labels of {where} are of type {labels.dtype}; accepted: whole numbers from 0, "
            "or strings."
        )
    low, high = labels.min(), labels.max()
    if low < 0 or (class_names is not None and high >= len(class_names)):
        accepted = "from 0" if class_names is None else f"0..{len(class_names) - 1}"
        raise DataError(
            f"The labels of {where} lie in {low.item()}..{high.item()}; accepted: whole numbers "
            f"{accepted}."
        )
    return labels.astype(np.int64)


def _same_shape(train: Part, test: Part) -> None:
    shapes = [tuple(part.table["x"].shape[1:]) for part in (train, test)]
    types = [part.table["x"].dtype for part in (train, test)]
    if shapes[0] != shapes[1] or types[0] != types[1]:
        raise DataError(
            f"The inputs of {train.where} have shape {shapes[0]} ({types[0]}), those of "
            f"{test.where} {shapes[1]} ({types[1]}); accepted: the same in both."
        )


def _kind(labels: Labels) -> str:
    return "string" if labels.dtype.kind == "U" else "number"
