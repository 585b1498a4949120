"""Streams from data at hand in Python: torch datasets, tables, pairs of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError, unknown
from holdfast.spec import Spec, bind
from holdfast.stream import Stream
from holdfast.streams import recipes
from holdfast.streams.catalogue import RECIPES
from holdfast.streams.generator import Draws, by_class
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
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = None,
    class_order: list[int] | None = None,
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
        labels: Share of each class's training examples that have a label.
        ordered: Whether an experience's examples come as they stand, instead of shuffled.
        evaluations: How often all test sets are scored, evenly spread; None: after each experience.
        class_order: The classes' numbers as they are to come; None: as `order` says.
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
        source,
        name,
        seed,
        experiences,
        scenario,
        online,
        order,
        limit,
        test_limit,
        labels,
        ordered,
        evaluations,
        class_order,
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
    evaluations: int | None = None,
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
        evaluations: How often all test sets are scored, evenly spread; None: after each experience.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data cannot be learned from.
        UsageError: If an argument is out of range.
    """
    source = _source(train, test, seed, class_names, name)
    return recipes.permuted(
        source, name, seed, experiences, first, online, limit, test_limit, evaluations
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
    evaluations: int | None = None,
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
        evaluations: How often all test sets are scored, evenly spread; None: after each experience.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data are not images or cannot be learned from.
        UsageError: If an argument is out of range.
    """
    source = _source(train, test, seed, class_names, name)
    return recipes.rotated(
        source, name, seed, experiences, step, angles, online, limit, test_limit, evaluations
    ).validated()


def made(
    recipe: str,
    train: Given,
    test: Given | None = None,
    seed: int = 0,
    *,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    **arguments: Any,
) -> Stream:
    """A stream of a data set by any recipe: `recurring`, `rehearsed`, `blurry`, `long-tailed`, ...

    Args:
        recipe: As before the colon in `recurring:PATH`; `holdfast streams` lists them.
        train: What to learn from; see `Given`.
        test: What to test on; None: a fifth of each class of `train`, drawn by seed.
        seed: Draws everything that is drawn.
        class_names: What label 0, 1, ... is called.
        name: Of the stream; None: the recipe's.
        **arguments: Of the recipe.

    Raises:
        DataError: If the data cannot be learned from.
        UsageError: If there is no such recipe or argument, or one is out of range.

    Example:
        >>> x, y = torch.rand(60, 4), torch.arange(60) % 6
        >>> stream = made("recurring", (x, y), experiences=200, classes=3)
        >>> len(stream), len(stream[150].classes), len(stream.tests)
        (200, 3, 6)
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    name = name or recipe
    bound = bind(Spec(recipe, (), arguments), partial(RECIPES[recipe], None, "", 0), "stream")
    source = _source(train, test, seed, class_names, name)
    return RECIPES[recipe](source, name, seed, **bound).validated()


def occurring(
    counts: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]],
    train: Given,
    test: Given | None = None,
    seed: int = 0,
    *,
    draws: Draws = "deck",
    evaluations: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    class_names: Sequence[str] | None = None,
    name: str = "occurring",
) -> Stream:
    """A stream in which class c comes with `counts[i, c]` examples in experience i.

    Args:
        counts: A row an experience, a column a class, in the sorted order of the labels.
        train: What to learn from; see `Given`.
        test: What to test on; None: a fifth of each class of `train`, drawn by seed.
        seed: Draws the examples.
        draws: `deck`: all examples of a class come once before any comes again; `fresh`: drawn
            anew in each experience.
        evaluations: How often everything is scored, evenly spread; None: after each experience.
        labels: Share of each class's training examples that have a label.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        class_names: What label 0, 1, ... is called.
        name: Of the stream.

    Raises:
        DataError: If the data cannot be learned from.
        UsageError: If the counts do not fit the data.

    Example:
        >>> x, y = torch.rand(60, 4), torch.arange(60) % 3
        >>> stream = occurring([[4, 0, 2], [0, 5, 0]], (x, y))
        >>> [len(experience.train) for experience in stream]
        [6, 5]
    """
    source = _source(train, test, seed, class_names, name)
    return by_class(
        source,
        torch.as_tensor(counts),
        name,
        seed,
        draws=draws,
        evaluations=evaluations,
        labels=labels,
        ordered=ordered,
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
