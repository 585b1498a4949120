"""Streams from data at hand in Python: torch datasets, tables, pairs of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.stream import Stream
from holdfast.streams import recipes
from holdfast.streams.labels import Part, assemble, refuse_not_finite
from holdfast.streams.recipes import First, Known, Order
from holdfast.streams.source import Source


class TorchDataset(Protocol):
    """What is asked of a `torch.utils.data.Dataset`."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


Given = Table | TorchDataset | tuple[Any, Any]
"""A table with columns `x` and `y`, a torch `Dataset` of pairs, or `(x, y)` as tensors or arrays.

Inputs are taken as they are, images with their channels first; labels are whole numbers from 0 or
strings (in arrays), and become 0 .. classes - 1 in their sorted order.
"""


def split(
    train: Given,
    test: Given | None = None,
    experiences: int = 5,
    seed: int = 0,
    *,
    scenario: Known = "class",
    online: bool = False,
    order: Order = "seed",
    limit: int | None = None,
    test_limit: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "split",
) -> Stream:
    """A stream in which the classes of a data set arrive in turn.

    Args:
        train: What to learn from; see `Given`.
        test: What to test on; None: a fifth of each class of `train`, drawn by seed.
        experiences: At most as many as there are classes.
        seed: Draws the order of the classes and what `limit` keeps.
        scenario: `"class"`, or `"task"`: the task is known in training and at test.
        online: Whether each example may be seen only once.
        order: Of the classes: by `"seed"`, or `"natural"`.
        limit: Training examples an experience, classes in proportion; None: all.
        test_limit: Likewise, test examples.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data cannot be learned from.
        UsageError: If an argument is out of range.

    Example:
        >>> x, y = torch.rand(60, 4), torch.arange(60) % 6
        >>> stream = split((x, y), experiences=3, order="natural")
        >>> [(len(e.train), len(e.test), e.classes) for e in stream]
        [(16, 4, (0, 1)), (16, 4, (2, 3)), (16, 4, (4, 5))]
    """
    source = _source(train, test, seed, class_names, name)
    return recipes.split(
        source, name, seed, experiences, scenario, online, order, limit, test_limit
    ).validated()


def permuted(
    train: Given,
    test: Given | None = None,
    experiences: int = 5,
    seed: int = 0,
    *,
    first: First = "identity",
    online: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "permuted",
) -> Stream:
    """A stream in which a data set returns with its pixels, or features, in another order.

    Args:
        train: What to learn from; see `Given`.
        test: What to test on; None: a fifth of each class of `train`, drawn by seed.
        experiences: How many permutations.
        seed: Draws the permutations and what `limit` keeps.
        first: Whether the first one is the `"identity"` or `"permuted"` too.
        online: Whether each example may be seen only once.
        limit: Training examples an experience, drawn anew for each; None: all.
        test_limit: Likewise, test examples.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data cannot be learned from.
        UsageError: If an argument is out of range.
    """
    source = _source(train, test, seed, class_names, name)
    return recipes.permuted(
        source, name, seed, experiences, first, online, limit, test_limit
    ).validated()


def rotated(
    train: Given,
    test: Given | None = None,
    experiences: int = 5,
    seed: int = 0,
    *,
    step: float | None = None,
    angles: recipes.Angles = "even",
    online: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "rotated",
) -> Stream:
    """A stream in which a data set's images return turned further each time.

    Args:
        train: What to learn from; see `Given`.
        test: What to test on; None: a fifth of each class of `train`, drawn by seed.
        experiences: How many angles; the first is 0, unless it is drawn.
        seed: Draws what `limit` keeps, and angles that are to be drawn.
        step: Degrees from one to the next, counter-clockwise; None: 180 / experiences.
        angles: `"even"`, or `"drawn"`: each uniformly over the half circle.
        online: Whether each example may be seen only once.
        limit: Training examples an experience, drawn anew for each; None: all.
        test_limit: Likewise, test examples.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data are not images or cannot be learned from.
        UsageError: If an argument is out of range.
    """
    source = _source(train, test, seed, class_names, name)
    return recipes.rotated(
        source, name, seed, experiences, step, angles, online, limit, test_limit
    ).validated()


def _source(
    train: Given, test: Given | None, seed: int, class_names: Sequence[str] | None, name: str
) -> Source:
    return assemble(
        name,
        _part(train, "the training data"),
        None if test is None else _part(test, "the test data"),
        seed,
        class_names,
    )


def _part(given: Given, where: str) -> Part:
    if isinstance(given, Table):
        columns: Mapping[str, Any] = given.columns
    elif isinstance(given, (tuple, list)) and len(given) == 2 and hasattr(given[0], "shape"):
        columns = {"x": given[0], "y": given[1]}
    else:
        columns = Table.from_dataset(cast(Iterable[Any], given)).columns
    missing = {"x", "y"} - set(columns)
    if missing:
        raise DataError(
            f"{where.capitalize()} lack the column {sorted(missing)[0]!r}; they have: "
            f"{', '.join(columns)}. Accepted: inputs in x, labels in y."
        )
    tensors = {
        name: torch.as_tensor(column).detach().cpu()
        for name, column in columns.items()
        if name != "y"
    }
    if not tensors["x"].numel():
        raise DataError(f"The inputs of {where} are empty (shape {tuple(tensors['x'].shape)}).")
    refuse_not_finite(tensors["x"], where)
    y = columns["y"]
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    return Part(where, Table(tensors), labels)
